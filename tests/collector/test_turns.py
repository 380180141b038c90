"""Which batches are stored next: the small ones before the large ones, and none never."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.turns import ACCOUNTING_S, MAX_GROUP, Pace, ahead, next_group


class Batch(NamedTuple):
    number: int
    windows: int


def batches(*windows: int) -> list[Batch]:
    return [Batch(number, size) for number, size in enumerate(windows)]


def numbers(found: list[Batch]) -> list[int]:
    return [one.number for one in found]


def test_all_that_there_is_room_for_is_stored_together() -> None:
    assert next_group(batches(256, 1, 4), 300) == (batches(256, 1, 4), [])


def test_the_small_ones_go_before_the_large_ones_and_the_oldest_goes_beside_them() -> None:
    group, rest = next_group(batches(256, 256, 1, 256, 4, 1), 10)
    assert numbers(group) == [0, 2, 4, 5]
    assert numbers(rest) == [1, 3]


def test_of_equal_ones_those_that_came_first_go_first() -> None:
    group, rest = next_group(batches(*[1] * 10), 4)
    assert numbers(group) == [0, 1, 2, 3, 4]
    assert numbers(rest) == [5, 6, 7, 8, 9]


def test_without_any_room_one_goes_all_the_same() -> None:
    assert [numbers(part) for part in next_group(batches(3, 1), 0)] == [[0], [1]]


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40), st.integers(0, 1_000))
def test_a_group_holds_no_more_than_its_room_beside_the_oldest_and_nothing_gets_lost(
    sizes: list[int], room: int
) -> None:
    waiting = batches(*sizes)
    group, rest = next_group(waiting, room)
    assert group[0] == waiting[0]
    assert sum(one.windows for one in group[1:]) <= room
    assert sorted(group + rest) == waiting
    assert rest == sorted(rest)
    assert all(one.windows <= other.windows for one in group[1:] for other in rest)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40))
def test_a_batch_waits_at_most_for_as_many_groups_as_batches_came_before_it(sizes: list[int]) -> None:
    """Though before each group a small batch comes that would take all its room."""
    waiting, groups = batches(*sizes), 0
    while any(one.number < len(sizes) for one in waiting):
        waiting.append(Batch(len(sizes) + groups, 1))
        _, waiting = next_group(waiting, 1)
        groups += 1
    assert groups <= len(sizes)


def test_before_a_batch_go_those_that_are_no_larger() -> None:
    assert [ahead(batches(256, 4, 1, 4), windows) for windows in (1, 4, 256)] == [1, 9, 265]


def test_quick_windows_fill_a_group_and_slow_ones_are_fewer() -> None:
    pace = Pace()
    for _ in range(10):
        pace.learn(1_000, 0.07)
    assert pace.room == MAX_GROUP
    assert pace.time_s(1_000) == pytest.approx(0.07, rel=0.05)
    for _ in range(10):
        pace.learn(300, 0.6)
    assert pace.room == pytest.approx(ACCOUNTING_S / 0.002, rel=0.02)


def test_one_window_that_took_long_by_chance_hardly_counts_beside_many() -> None:
    pace = Pace()
    pace.learn(1_000, 0.1)
    pace.learn(1, 0.05)
    assert pace.room == MAX_GROUP
    assert 0 < Pace().room < MAX_GROUP


@pytest.mark.parametrize(("windows", "took_s"), [(1, 0.0), (0, 0.0), (0, 3.0)])
def test_no_time_that_a_clock_tells_and_no_windows_at_all(windows: int, took_s: float) -> None:
    pace = Pace()
    for _ in range(2_000):
        pace.learn(windows, took_s)
    assert (pace.room, pace.time_s(5)) == (
        (MAX_GROUP, pytest.approx(0.0)) if windows else (Pace().room, Pace().time_s(5))
    )
