"""Sums over workers that come, go and begin anew: never lower, never anything twice."""

from hypothesis import given
from hypothesis import strategies as st

from joulefleet.reading import WorkKey
from joulefleet_plugins.work import rises
from joulefleet_plugins.work.rises import Rises

M = WorkKey("m")


def total(what: Rises, **workers: int) -> int:
    return what.feed({"output_tokens": [(worker, M, count) for worker, count in workers.items()]})["output_tokens"][M]


def test_it_begins_at_0_and_adds_what_rose() -> None:
    what = Rises()
    assert [total(what, a=100, b=50), total(what, a=110, b=50), total(what, a=110, b=57)] == [0, 10, 17]


def test_a_worker_that_ended_takes_nothing_along_and_a_new_one_began_at_0() -> None:
    what = Rises()
    assert [total(what, a=100, b=50), total(what, b=51), total(what, b=51, c=4)] == [0, 1, 5]


def test_a_worker_that_is_shown_again_is_not_counted_again() -> None:
    what = Rises()
    assert [total(what, a=100, b=50), total(what, b=50), total(what, a=103, b=50)] == [0, 0, 3]


def test_a_worker_that_began_anew_counts_from_0() -> None:
    what = Rises()
    assert [total(what, a=100), total(what, a=7)] == [0, 7]


def test_what_is_followed_is_bounded() -> None:
    what = Rises()
    half = rises.MAX_SERIES // 2
    assert total(what, **{f"a{k}": 1 for k in range(half)}) == 0
    assert total(what, **{f"b{k}": 1 for k in range(half)}) == half
    assert total(what, c=1) == half + 1
    assert total(what, c=2, b0=2) == half + 4, "b0 is forgotten, with all that were not shown"


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), min_size=1), min_size=1))
def test_it_is_the_sum_of_all_that_was_done(steps: list[dict[str, int]]) -> None:
    what, stands, done = Rises(), {"a": 0, "b": 0, "c": 0}, 0
    total(what, **stands)
    for step in steps:
        for worker, more in step.items():
            stands[worker] += more
            done += more
        assert total(what, **{worker: stands[worker] for worker in step}) == done
