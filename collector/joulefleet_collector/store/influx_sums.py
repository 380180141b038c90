"""Sums of hours and days on InfluxDB, and the marks that say which of them still stand."""

from collections.abc import Iterable, Sequence

import msgspec

from joulefleet.grid import HOUR_NS, floor_to
from joulefleet_collector.rows import KINDS
from joulefleet_collector.store.freshness import Marks, due
from joulefleet_collector.store.influx_wire import Wire
from joulefleet_collector.store.influxql import grain_of, rows, select_rows
from joulefleet_collector.store.lines import lines
from joulefleet_collector.store.rollup import ROLLUPS, Rollup, add_up, lasting
from joulefleet_collector.store.set_aside import LinesRefused
from joulefleet_collector.store.store import DAY_NS, StoreUnavailable

LINES_AT_ONCE = 5000
"""InfluxDB's documented optimum."""
EVER_NS = (0, 2**62)
_MINUTE, _HOUR, _DAY, _FLEET_HOUR, _FLEET_DAY = ROLLUPS


def touched(starts_ns: Iterable[int], token: int) -> list[bytes]:
    """The lines that mark the hours of rows with these starts. They go behind the rows: who sees the mark sees the
    rows too."""
    hours = sorted({floor_to(start_ns, HOUR_NS) for start_ns in starts_ns})
    return [b"joulefleet_touched token=%d %d" % (token, hour) for hour in hours]


def marks(wire: Wire, since_ns: int, until_ns: int) -> Marks:
    """The marks of the whole days in which this time lies."""
    first_ns, last_ns = floor_to(since_ns, DAY_NS), floor_to(until_ns, DAY_NS) + DAY_NS
    within = f"WHERE time >= {first_ns} AND time < {last_ns}"
    statements = (
        f"SELECT token FROM joulefleet_touched {within}",  # noqa: S608 our own numbers
        f"SELECT token FROM joulefleet_rolled {within} GROUP BY grain",  # noqa: S608 our own numbers
    )
    tokens: dict[str, dict[int, int]] = {"": {}, _HOUR.name: {}, _DAY.name: {}}
    for one in (series for answer in wire.ask(*statements) for series in answer):
        tokens[one.tags.get("grain", "")] = {int(str(at)): round(float(str(token))) for at, token in one.values}
    return Marks(tokens[""], tokens[_HOUR.name], tokens[_DAY.name])


def roll_up(wire: Wire, before: Marks) -> Marks:
    """Make all sums that are due since `before`; returns the marks as they were when it began."""
    now = marks(wire, *EVER_NS)
    todo = due(before, now)
    for hour, token in todo.hours.items():
        _sum_up(wire, (hour, hour + HOUR_NS), _MINUTE, (_HOUR, _FLEET_HOUR), token)
    for day, token in todo.days.items():
        _sum_up(wire, (day, day + DAY_NS), _HOUR, (_DAY, _FLEET_DAY), token)
    return now


def _sum_up(wire: Wire, time: tuple[int, int], of: Rollup, into: Sequence[Rollup], token: int) -> None:
    for kind in KINDS:
        (answer,) = wire.ask(select_rows(kind, of, *time))
        found = [lasting(msgspec.structs.replace(row, start_ns=time[0])) for row in rows(kind, answer)]
        for rollup in into:
            _write(wire, lines(add_up(found, rollup), grain_of(rollup)))
    # Only now do the sums count: their mark is a write of its own, after theirs.
    _write(wire, [b"joulefleet_rolled,grain=%b token=%d %d" % (into[0].name.encode(), token, time[0])])


def _write(wire: Wire, of_sums: Sequence[bytes]) -> None:
    for first in range(0, len(of_sums), LINES_AT_ONCE):
        try:
            wire.write(b"\n".join(of_sums[first : first + LINES_AT_ONCE]))
        except LinesRefused as refused:
            mend = "see the server's log; questions are answered from the rows meanwhile"
            raise StoreUnavailable(wire.place, f"it refuses sums: {refused.reason}", mend) from refused
