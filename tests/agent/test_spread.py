"""How a stretch of time falls into windows."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from joulefleet_agent.spread import Stretch, windows_in


def test_a_stretch_over_three_windows() -> None:
    assert list(windows_in(25, 62, 30)) == [(0, 25, 30), (30, 30, 60), (60, 60, 62)]


def test_edges_belong_to_the_window_that_begins_there() -> None:
    assert list(windows_in(30, 60, 30)) == [(30, 30, 60)]
    assert list(windows_in(30, 30, 30)) == []


@given(st.integers(0, 10**6), st.integers(0, 10**4), st.integers(7, 10**4))
def test_the_parts_are_the_whole(start: int, length: int, step: int) -> None:
    parts = list(windows_in(start, start + length, step))
    assert sum(to - of for _, of, to in parts) == length
    for (window, of, to), (following, again, _) in itertools.pairwise(parts):
        assert (to, again) == (following, following)
        assert window + step == following
        assert of < to


@given(
    st.integers(0, 10**12),
    st.integers(1, 10**12),
    st.integers(-(10**15), 10**15),
    st.lists(st.floats(0, 1), max_size=5),
)
def test_a_change_is_shared_out_whole(start: int, length: int, change: int, cuts: list[float]) -> None:
    stretch = Stretch(start, start + length)
    edges = sorted([start, *(start + int(cut * length) for cut in cuts), start + length])
    assert sum(stretch.part(change, of, to) for of, to in itertools.pairwise(edges)) == change
    assert (stretch.at(5, 5 + change, start), stretch.at(5, 5 + change, start + length)) == (5, 5 + change)
