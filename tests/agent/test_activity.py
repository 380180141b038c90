"""What engines did on a board, cut into windows: nothing is lost and nothing is invented."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_agent.activity import Activity, ActivityTrack, added

STEP = 60


def fed(track: ActivityTrack, did: Activity, at: int, closed: int = 0, since: int = 0) -> dict[int, Activity]:
    return dict(track.feed(did, at, since, STEP, closed))


def test_it_falls_into_windows_by_time() -> None:
    track = ActivityTrack()
    assert fed(track, {"a": 9}, 50) == {}
    assert fed(track, {"a": 40, "b": 0}, 90) == {0: {"a": 10, "b": 0}, 60: {"a": 30, "b": 0}}


def test_what_belongs_to_a_window_that_is_closed_goes_to_the_first_open_one() -> None:
    track = ActivityTrack(told_ns=50)
    assert list(track.feed({"a": 40}, 90, 0, STEP, 60)) == [(60, {"a": 10}), (60, {"a": 30})]
    assert list(track.feed({"a": 7}, 100, 0, STEP, 120)) == [(120, {"a": 7})]


def test_before_it_is_declared_nothing_is_told() -> None:
    assert fed(ActivityTrack(told_ns=50), {"a": 40}, 90, since=60) == {}


def test_it_follows_the_clock() -> None:
    track, fresh = ActivityTrack(told_ns=50), ActivityTrack()
    track.shift(-20)
    fresh.shift(-20)
    assert (track.told_ns, fresh.told_ns) == (30, -1)


@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(0, 1_000), st.integers(0, 1_000)), min_size=2),
    st.integers(0, 20),
)
def test_all_that_was_told_is_in_a_window_to_the_nanosecond(steps: list[tuple[int, int, int]], closed: int) -> None:
    track, sums, at = ActivityTrack(), {}, 0
    for length, a, b in steps:
        at += length
        for window, more in track.feed({"a": a, "b": b}, at, 0, STEP, closed * STEP):
            assert window >= closed * STEP
            sums[window] = added(sums.get(window), more)
    told = [sum(one["ab".index(name) + 1] for one in steps[1:]) for name in "ab"]
    assert [sum(each[name] for each in sums.values()) for name in "ab"] == told


@pytest.mark.parametrize("wrong_ns", [-1, 2**70, 40_001])
def test_time_that_cannot_have_passed_is_not_told_nor_what_stands_beside_it(wrong_ns: int) -> None:
    track = ActivityTrack(told_ns=0)
    assert fed(track, {"a": wrong_ns, "b": 5}, 40) == {}
    assert fed(track, {"a": 7, "b": 5}, 50) == {0: {"a": 7, "b": 5}}
