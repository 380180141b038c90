"""Means of hours over constants, hours of the day, and steps from a file."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.grid import HOUR_NS, from_rfc3339
from joulefleet_collector.answer.series import ByHour, Constant, Steps, check_range, steps_of, zone_of

DAY = tuple(float(hour) for hour in range(24))


def at(text: str) -> int:
    return from_rfc3339(text)


def test_a_constant_holds_always() -> None:
    assert Constant(1.2).mean(0) == Constant(1.2).mean(at("2030-01-01T00:00:00Z")) == 1.2


@pytest.mark.parametrize(
    ("zone", "instant", "value"),
    [
        ("UTC", "2026-03-01T05:00:00Z", 5.0),
        ("Europe/Berlin", "2026-01-15T05:00:00Z", 6.0),
        ("Europe/Berlin", "2026-07-15T05:00:00Z", 7.0),
        ("Europe/Berlin", "2026-07-15T23:00:00Z", 1.0),
        ("-03:00", "2026-07-15T01:00:00Z", 22.0),
        ("Asia/Kolkata", "2026-01-15T00:00:00Z", 5.5),
        ("+05:45", "2026-01-15T00:00:00Z", 5.75),
    ],
)
def test_hours_of_the_day_are_those_of_the_local_clock(zone: str, instant: str, value: float) -> None:
    assert ByHour(DAY, zone_of(zone)).mean(at(instant)) == value


def test_a_day_of_the_local_clock_may_have_23_or_25_hours() -> None:
    """At the end of summer in Berlin the hour from 2 to 3 comes twice; at its begin it does not come."""
    berlin = ByHour(DAY, zone_of("Europe/Berlin"))
    autumn = [berlin.mean(at("2026-10-24T22:00:00Z") + hour * HOUR_NS) for hour in range(25)]
    assert autumn == [0.0, 1.0, 2.0, 2.0, *DAY[3:]]
    spring = [berlin.mean(at("2026-03-28T23:00:00Z") + hour * HOUR_NS) for hour in range(23)]
    assert spring == [0.0, 1.0, *DAY[3:]]


@pytest.mark.parametrize("name", ["Berlin", "Europe/Nowhere", "../etc/passwd", "+5", "+01:07", "", "-"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="time zone"):
        zone_of(name)


STEPS = """time,value
2026-01-01T00:00:00Z,10
2026-01-01T01:00:00+00:00, 20
# a sensor failed
2026-01-01T02:30:00Z,
2026-01-01T03:00:00Z,40

2026-01-01T04:00:00Z,50
"""


def test_steps_hold_until_the_next_one_and_are_weighted_by_time() -> None:
    steps = steps_of(STEPS.replace("02:30:00Z,", "02:15:00Z,60"))
    hours = [steps.mean(at(f"2026-01-01T0{hour}:00:00Z")) for hour in range(6)]
    assert hours == [10.0, 20.0, pytest.approx(20 / 4 + 60 * 3 / 4), 40.0, 50.0, None]


def test_a_gap_is_no_value_in_each_hour_that_it_touches() -> None:
    steps = steps_of(STEPS)
    hours = [steps.mean(at(f"2026-01-01T0{hour}:00:00Z")) for hour in range(4)]
    assert hours == [10.0, 20.0, None, 40.0]


def test_before_the_first_step_nothing_is_known_and_the_last_holds_as_long_as_the_one_before() -> None:
    steps = steps_of("2026-01-01T00:00:00Z,1\n2026-01-01T02:00:00Z,2\n")
    assert steps.mean(at("2025-12-31T23:00:00Z")) is None
    assert steps.mean(at("2026-01-01T03:00:00Z")) == 2.0
    assert steps.mean(at("2026-01-01T04:00:00Z")) is None
    assert steps_of("2026-01-01T00:00:00Z,7").mean(at("2036-01-01T00:00:00Z")) == 7.0
    half = steps_of("2026-01-01T00:00:00Z,1\n2026-01-01T00:30:00Z,2\n2026-01-01T01:00:00Z,3\n")
    assert half.mean(at("2026-01-01T01:00:00Z")) is None, "its second half is not known"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no line 'time,value'"),
        ("time,value\n", "no line 'time,value'"),
        ("2026-01-01T00:00:00,1", "line 1: '2026-01-01T00:00:00' is no time"),
        ("time,value\n2026-01-01T00:00:00Z,nan", "line 2: 'nan' is no number"),
        ("2026-01-01T00:00:00Z,1e999", "line 1: '1e999' is no number"),
        ("2026-01-01T00:00:00Z,1;2", "line 1: '1;2' is no number"),
        ("2026-01-01T00:00:00Z", "line 1: 1 columns where time,value are expected"),
        ("2026-01-01T00:00:00Z,1\n2026-01-01T00:00:00Z,2", "line 2: its time does not lie after"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        steps_of(text)


@given(
    st.lists(st.tuples(st.integers(1, 200), st.one_of(st.none(), st.floats(0, 9))), min_size=2, max_size=12),
    st.integers(0, 20),
)
def test_the_mean_is_that_of_the_minutes(rows: list[tuple[int, float | None]], hour: int) -> None:
    """Steps at whole minutes: the mean of an hour is that of what holds in each of its minutes."""
    minute_ns, starts = HOUR_NS // 60, []
    for length, _ in rows:
        starts.append((starts[-1] if starts else 0) + length)
    values = tuple(value for _, value in rows)
    held: dict[int, float | None] = {}
    for begin, end, value in zip(starts, [*starts[1:], 2 * starts[-1] - starts[-2]], values, strict=True):
        held |= dict.fromkeys(range(begin, end), value)
    minutes = [held.get(minute) for minute in range(hour * 60, hour * 60 + 60)]
    known = [value for value in minutes if value is not None]
    expected = math.fsum(known) / 60 if len(known) == 60 else None
    mean = Steps(tuple(start * minute_ns for start in starts), values).mean(hour * HOUR_NS)
    assert mean == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_a_range_is_checked_over_all_that_is_known() -> None:
    check_range([1.0, None, 1.5], 1)
    with pytest.raises(ValueError, match=r"0\.9 is less than 1"):
        check_range([1.0, None, 0.9], 1)
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="is no number"):
            check_range([value], -math.inf)
