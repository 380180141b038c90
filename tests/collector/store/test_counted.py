"""Runs of counted windows: nothing forgotten, nothing invented."""

import sqlite3
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joulefleet.units import NS_PER_S
from joulefleet.window import Window
from joulefleet_collector.store import counted, schema
from joulefleet_collector.store.store import DAY_NS, Accounted

STEPS_NS = (10 * NS_PER_S, 60 * NS_PER_S, 3600 * NS_PER_S)


@pytest.fixture
def db() -> sqlite3.Connection:
    made = sqlite3.connect(":memory:", isolation_level=None)
    schema.prepare(made, "here", "e")
    return made


def members(runs: list[counted.Run], step_ns: int) -> list[int]:
    return [start for first, end in runs for start in range(first, end, step_ns)]


@given(st.lists(st.integers(0, 40)), st.sampled_from(STEPS_NS))
def test_runs_are_the_starts_and_no_two_of_them_touch(starts: list[int], step_ns: int) -> None:
    found = counted.runs((start * step_ns for start in starts), step_ns)
    assert members(found, step_ns) == [start * step_ns for start in sorted(set(starts))]
    assert all(one[1] < other[0] for one, other in pairwise(found))


KEYS = st.tuples(st.sampled_from("ab"), st.integers(1, 2), st.sampled_from(STEPS_NS), st.integers(0, 12))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=st.lists(st.lists(KEYS, max_size=12), max_size=8))
def test_what_was_added_in_any_order_is_known_and_nothing_else(
    db: sqlite3.Connection, groups: list[list[tuple[str, int, int, int]]]
) -> None:
    db.executescript("DELETE FROM counted; DELETE FROM meta")
    added: set[counted.Key] = set()
    for group in groups:
        keys = [(server, timeline, step_ns, start * step_ns) for server, timeline, step_ns, start in group]
        counted.add(db, keys)
        added.update(keys)
    every = [(s, t, step, n * step) for s in "ab" for t in (1, 2) for step in STEPS_NS for n in range(15)]
    asked = [Accounted(Window(server=s, timeline=t, step_ns=step, start_ns=at), b"", []) for s, t, step, at in every]
    assert {one.window.key for one in counted.unknown(db, asked)} == set(every) - added
    assert counted.number(db) == len(added)
    assert counted.days(db) == sorted({start - start % DAY_NS for *_, start in added})


def test_a_timeline_without_a_gap_is_one_run(db: sqlite3.Connection) -> None:
    step_ns = 60 * NS_PER_S
    for part in ([3, 4], [0, 1], [2], [7], [5, 6]):
        counted.add(db, [("a", 1, step_ns, number * step_ns) for number in part])
    assert db.execute("SELECT first_ns, end_ns FROM counted").fetchall() == [(0, 8 * step_ns)]


def test_windows_newer_than_all_that_were_let_go_need_no_look(
    db: sqlite3.Connection, a_window: Callable[..., Window]
) -> None:
    old, new = a_window(minute=0), a_window(minute=1)
    counted.add(db, [old.key])
    assert counted.reach(db) == old.start_ns + 1
    counted.add(db, [a_window(minute=-60).key])
    assert counted.reach(db) == old.start_ns + 1
    looks: list[str] = []
    db.set_trace_callback(looks.append)
    assert len(counted.unknown(db, [Accounted(new, b"", [])])) == 1
    assert not [look for look in looks if "FROM counted" in look]


def test_the_day_of_a_window_is_the_day_in_which_it_starts(db: sqlite3.Connection) -> None:
    counted.add(db, [("a", 1, 3600 * NS_PER_S, DAY_NS - 3600 * NS_PER_S)])
    assert counted.days(db) == [0]
    counted.add(db, [("a", 1, 3600 * NS_PER_S, 3 * DAY_NS)])
    assert counted.days(db) == [0, 3 * DAY_NS]
