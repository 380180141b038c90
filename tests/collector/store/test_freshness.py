"""Marks: when a sum stands, what is due, and that an answer reads every touched hour once."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from joulefleet.grid import HOUR_NS
from joulefleet_collector.store.freshness import Due, Marks, day_tokens, due, rows_to_read
from joulefleet_collector.store.rollup import Rollup, grains
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS

HOURS = st.integers(0, 80).map(lambda number: number * HOUR_NS)
TOUCHED = st.dictionaries(HOURS, st.integers(1, 3), max_size=30)


@st.composite
def some_marks(draw: st.DrawFn) -> Marks:
    """Touched hours, of which some were added up since and some before their last write."""
    touched = draw(TOUCHED)
    hours = {hour: token for hour, token in draw(TOUCHED).items() if hour in touched}
    days = {day: token + draw(st.integers(0, 1)) for day, token in day_tokens(touched).items() if draw(st.booleans())}
    return Marks(touched, hours, days)


@example(Marks(touched={0: 1}), 1, 1, 0)
@given(some_marks(), st.integers(0, 5000), st.integers(0, 5000), st.sampled_from([0, HOUR_NS, MINUTE_NS]))
def test_every_touched_hour_is_read_once_and_only_from_sums_that_stand(
    marks: Marks, first: int, last: int, step_ns: int
) -> None:
    since, until = first * MINUTE_NS, last * MINUTE_NS
    parts = rows_to_read(since, until, grains("usage", step_ns, True), marks)
    assert all(since <= part.since_ns < part.until_ns <= until for part in parts)
    assert all(one.until_ns <= other.since_ns for one, other in pairwise(parts))
    for hour, token in marks.touched.items():
        begin, end = max(hour, since), min(hour + HOUR_NS, until)
        if begin < end:
            (part,) = [part for part in parts if part.since_ns <= begin and end <= part.until_ns]
            assert stands(part.rollup, hour, token, marks)
            if part.rollup.step_ns >= HOUR_NS:
                assert part.since_ns % part.rollup.step_ns == part.until_ns % part.rollup.step_ns == 0


def stands(rollup: Rollup, hour: int, token: int, marks: Marks) -> bool:
    day = hour - hour % DAY_NS
    return {
        MINUTE_NS: True,
        HOUR_NS: marks.hours.get(hour) == token,
        DAY_NS: marks.days.get(day) == day_tokens(marks.touched)[day],
    }[rollup.step_ns]


def test_the_coarsest_sums_that_fit_are_read() -> None:
    touched = {hour * HOUR_NS: 1 for hour in range(60)}
    hours = {hour: token for hour, token in touched.items() if hour != 50 * HOUR_NS}
    marks = Marks(touched, hours, {0: 24, DAY_NS: 24})
    parts = rows_to_read(30 * MINUTE_NS, 60 * HOUR_NS, grains("usage", 0, True), marks)
    told = [(part.rollup.name, part.since_ns / HOUR_NS, part.until_ns / HOUR_NS) for part in parts]
    assert told == [
        ("minute", 0.5, 1),
        ("fleet_hour", 1, 24),
        ("fleet_day", 24, 48),
        ("fleet_hour", 48, 50),
        ("minute", 50, 51),
        ("fleet_hour", 51, 60),
    ]


def test_without_marks_there_is_nothing_to_read() -> None:
    assert rows_to_read(0, 9 * DAY_NS, grains("usage", 0, True), Marks()) == []


def test_instants_are_whole_minutes() -> None:
    with pytest.raises(ValueError, match="whole minutes"):
        rows_to_read(1, DAY_NS, grains("usage", 0, True), Marks())


def test_an_hour_is_due_once_it_is_quiet_and_a_day_once_it_is_over_and_whole() -> None:
    late, last, next_day = 3 * HOUR_NS, 23 * HOUR_NS, 24 * HOUR_NS
    before = Marks({late: 1, last: 1})
    assert due(Marks(), before) == Due({}, {})
    assert due(before, before) == Due({late: 1, last: 1}, {})
    moved = Marks({late: 2, last: 1, next_day: 1})
    assert due(before, moved) == Due({last: 1}, {})
    assert due(moved, moved) == Due({late: 2, last: 1, next_day: 1}, {0: 3})


def test_what_stands_is_not_due_until_it_is_touched_again() -> None:
    touched = {0: 5, DAY_NS: 6}
    done = Marks(touched, touched, {0: 5})
    assert due(done, done) == Due({}, {})
    again = Marks(touched | {0: 7}, touched, {0: 5})
    assert due(again, again) == Due({0: 7}, {0: 7})


@given(some_marks())
def test_doing_what_is_due_leaves_nothing_due(marks: Marks) -> None:
    todo = due(marks, marks)
    done = Marks(marks.touched, {**marks.hours, **todo.hours}, {**marks.days, **todo.days})
    assert due(done, done) == Due({}, {})
