"""Overlaps of timelines, compared with looking at every pair."""

from hypothesis import given
from hypothesis import strategies as st

from joulefleet.grid import HOUR_NS
from joulefleet_collector.store.overlap import Gap, Span, gaps, overlaps
from joulefleet_collector.store.store import MINUTE_NS, Course, Overlap

SPANS = st.lists(
    st.builds(
        lambda place, step: (place * step, (place + 1) * step),
        st.integers(0, 200),
        st.sampled_from([MINUTE_NS, 10 * MINUTE_NS, HOUR_NS]),
    ),
    max_size=12,
    unique=True,
)


@given(st.dictionaries(st.integers(0, 4), SPANS, max_size=4), st.integers(0, 100), st.integers(100, 300))
def test_all_pairs_and_only_those_are_found(timelines: dict[int, list[Span]], first: int, last: int) -> None:
    since, until = first * MINUTE_NS, last * MINUTE_NS
    expected = []
    for lower in sorted(timelines):
        for higher in sorted(timelines):
            shared = [
                (max(one[0], other[0]), min(one[1], other[1]))
                for one in timelines[lower]
                for other in timelines[higher]
                if lower < higher and since <= one[0] < until and one[0] < other[1] and other[0] < one[1]
            ]
            if shared:
                ends = (min(start for start, _ in shared), max(end for _, end in shared))
                expected.append(Overlap("a", (lower, higher), *ends))
    found = overlaps("a", {timeline: sorted(spans) for timeline, spans in timelines.items()}, since, until)
    assert sorted(found, key=lambda one: one.timelines) == expected


def test_windows_that_only_touch_do_not_overlap() -> None:
    assert overlaps("a", {1: [(0, MINUTE_NS)], 2: [(MINUTE_NS, 2 * MINUTE_NS)]}, 0, HOUR_NS) == []


def test_time_between_two_timelines_of_one_server_is_a_gap() -> None:
    ones = [Course("a", 1, 0, 10), Course("a", 9, 10, 20), Course("a", 3, 25, 30), Course("b", 2, 40, 50)]
    assert gaps(ones) == [Gap("a", 20, 25)]


def test_time_of_which_another_timeline_tells_is_no_gap() -> None:
    assert gaps([Course("a", 1, 0, 30), Course("a", 2, 5, 10), Course("a", 3, 20, 40)]) == []
