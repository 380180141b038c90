"""Sums of hours and days on a real server: equal to the rows, made again after late windows, read while they stand."""

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest

from collector.store.conftest import on_influxdb_1
from fixtures.fake_influxdb import Asked, Told, fake_influxdb
from fixtures.services import Server
from joulefleet.grid import HOUR_NS
from joulefleet.window import Window
from joulefleet_collector.rows import KINDS, Row
from joulefleet_collector.store.freshness import Marks
from joulefleet_collector.store.influx_config import InfluxConfig
from joulefleet_collector.store.influx_sums import EVER_NS, marks, roll_up, touched
from joulefleet_collector.store.influx_wire import Wire
from joulefleet_collector.store.influxdb import InfluxStore
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS, Question, Step, StoreUnavailable, Total

Put = Callable[..., int]
AWindow = Callable[..., Window]
EVER = {"since_ns": 0, "until_ns": 40_000 * DAY_NS}


@pytest.fixture
def influx(influxdb_1: Server, tmp_path: Path) -> Iterator[InfluxStore]:
    with closing(on_influxdb_1(influxdb_1, tmp_path)) as store:
        yield store


@pytest.fixture
def wire(influxdb_1: Server, influx: InfluxStore, tmp_path: Path) -> Iterator[Wire]:
    with closing(Wire(InfluxConfig(url=influxdb_1.url, database=tmp_path.name))) as opened:
        yield opened


def settled(store: InfluxStore) -> Marks:
    """Two rounds, as a minute apart: the first sees what was touched, the second adds it up."""
    return store.roll_up(store.roll_up(Marks()))


def answers(store: InfluxStore, start_ns: int) -> dict[tuple[str, ...], list[Total]]:
    times = [(0, 40_000 * DAY_NS), (start_ns + 90 * MINUTE_NS, start_ns + 2 * DAY_NS + 30 * MINUTE_NS)]
    steps: list[Step] = ["none", "minute", "hour", "day"]
    return {
        (kind, str(time), step, *by): store.ask(
            Question(kind=kind, since_ns=time[0], until_ns=time[1], step=step, by=by)
        )
        for kind, time, step, by in product(KINDS, times, steps, [(), ("server",), ("rack", "model")])
    }


def same(found: dict[tuple[str, ...], list[Total]], expected: dict[tuple[str, ...], list[Total]]) -> bool:
    assert found.keys() == expected.keys()
    for key, totals in expected.items():
        assert [(one.start_ns, one.tags) for one in found[key]] == [(one.start_ns, one.tags) for one in totals]
        for one, other in zip(found[key], totals, strict=True):
            assert one.fields == pytest.approx(other.fields, rel=1e-9)
    return True


def test_answers_from_sums_are_those_from_rows(
    influx: InfluxStore, wire: Wire, put: Put, a_window: AWindow, start_ns: int
) -> None:
    rng = random.Random(3)
    minutes = range(5, 3 * 24 * 60, 173)
    put(influx, *(a_window(name, minute, rng.random() * 1e3) for name, minute in product("ab", minutes)))
    before = answers(influx, start_ns)
    settled(influx)
    now = marks(wire, *EVER_NS)
    assert now.hours == now.touched
    assert set(now.days) == {start_ns, start_ns + DAY_NS}  # the third day is not over yet
    assert same(answers(influx, start_ns), before)


def test_sums_are_what_is_read_once_they_stand_and_never_before(
    influx: InfluxStore, wire: Wire, put: Put, a_window: AWindow, start_ns: int
) -> None:
    put(influx, a_window(joules=600.0), a_window(minute=25 * 60, joules=5.0))
    settled(influx)
    total = Question(kind="usage", fields=("active_j",), **EVER)
    assert [one.fields for one in influx.ask(total)] == [{"active_j": 605.0}]
    # Sums that are changed past the store show themselves in the answer: they are what was read.
    wire.write(b"usage_fleet_day,pool=forged active_j=1000 %d" % start_ns)
    assert [one.fields for one in influx.ask(total)] == [{"active_j": 1605.0}]
    put(influx, a_window(minute=3, joules=70.0))
    assert [one.fields for one in influx.ask(total)] == [{"active_j": 675.0}]


def test_late_windows_are_in_every_answer_at_once_and_in_the_sums_after_the_next_round(
    influx: InfluxStore, wire: Wire, put: Put, a_window: AWindow, start_ns: int
) -> None:
    put(influx, *(a_window("a", minute, 10.0) for minute in range(0, 2 * 24 * 60, 60)))
    seen = settled(influx)
    put(influx, a_window("late", 61, 100.0), a_window("a", 60, 10.0))
    after = answers(influx, start_ns)
    by_day = Question(kind="usage", step="day", fields=("active_j",), **EVER)
    assert [one.fields["active_j"] for one in influx.ask(by_day)] == [340.0, 240.0]
    seen = influx.roll_up(seen)
    assert marks(wire, *EVER_NS).hours != seen.touched  # it was touched since the round before: it waits
    influx.roll_up(seen)
    assert marks(wire, *EVER_NS).hours == seen.touched
    assert same(answers(influx, start_ns), after)


def test_tags_of_windows_are_added_up_and_nothing_else_is(
    influx: InfluxStore, wire: Wire, put: Put, a_window: AWindow, start_ns: int
) -> None:
    put(influx, a_window(timeline=1, joules=1.0), a_window(timeline=2, joules=2.0), a_window("b", 1, 4.0))
    settled(influx)
    (answer,) = wire.ask('SELECT active_j FROM "usage_hour" GROUP BY *')
    assert sorted((one.tags["server"], one.values[0][1]) for one in answer) == [("a", 3), ("b", 4)]
    assert all({"timeline", "step_s"}.isdisjoint(one.tags) for one in answer)
    (answer,) = wire.ask('SELECT active_j FROM "usage_fleet_hour" GROUP BY *')
    assert [(one.tags.get("server"), one.values) for one in answer] == [(None, [[start_ns, 7]])]


def test_rounds_over_nothing_and_over_what_stands_change_nothing(
    influx: InfluxStore, put: Put, a_window: AWindow
) -> None:
    assert influx.roll_up(Marks()) == Marks()
    put(influx, a_window())
    seen = settled(influx)
    seen = influx.roll_up(seen)
    assert influx.roll_up(seen) == seen
    assert seen.hours == seen.touched


def test_each_hour_of_rows_is_marked_once() -> None:
    of = [Row("usage", start_ns, {}, {}) for start_ns in (0, 5, HOUR_NS + 1, 2)]
    assert touched([row.start_ns for row in of], 7) == [
        b"joulefleet_touched token=7 0",
        b"joulefleet_touched token=7 %d" % HOUR_NS,
    ]
    assert touched([], 7) == []


def test_sums_that_are_refused_are_told_and_leave_no_mark() -> None:
    def answer(asked: Asked) -> Told:
        if asked.path == "/write":
            return Told(400, b'{"error":"unable to parse"}')
        if b"joulefleet_touched" in asked.body:
            line = b'{"columns":["time","token"],"values":[[0,5]]}'
            return Told(200, b'{"results":[{"series":[' + line + b"]},{}]}")
        return Told(200, b'{"results":[{"series":[{"columns":["time","window_s"],"values":[[0,1]]}]}]}')

    with fake_influxdb(answer) as (url, asked), closing(Wire(InfluxConfig(url=url, database="d"))) as wire:
        with pytest.raises(StoreUnavailable, match=r"refuses sums.*answered from the rows"):
            roll_up(wire, Marks({0: 5}))
        assert not [one for one in asked if b"joulefleet_rolled,grain" in one.body]
