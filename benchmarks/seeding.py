"""A store filled as a simulated fleet would fill it, with as many rows of sums as its questions would find there.

Windows of an hour stand for all days but the last: they leave the same rows by hour and day as windows of a minute, and
a sixtieth of the rows by minute. The last day is made of windows of a minute. One day by hour and a few minutes are
simulated and accounted, of UNLIKE servers; the others are the same rows at other times and under other names. Bodies
of windows are left empty. In the embedded store the first day and the last day's first hour are written as windows, and
their rows of sums are then copied to the other days and hours, in the file.
"""

import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from joulefleet.grid import HOUR_NS
from joulefleet.units import ns_to_s
from joulefleet_agent.simulate.roster import roster
from joulefleet_agent.simulate.scenario import Scenario
from joulefleet_agent.simulate.stream import groups
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.rows import KINDS, Row
from joulefleet_collector.sheet import COLUMNS, Sheet, SheetRows
from joulefleet_collector.store import schema
from joulefleet_collector.store.rollup import canonical
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS, Accounted
from joulefleet_collector.store.table import Table

HOURS = 24
UNLIKE = 100
"""Servers that differ in more than their name."""
MINUTES = 4
"""Simulated by minute; they come again and again."""
_PLACES = {kind: place for place, kind in enumerate(KINDS)}


class Key(msgspec.Struct, frozen=True):
    """What a store needs to know of a window."""

    server: str
    timeline: int
    start_ns: int
    step_ns: int

    @property
    def end_ns(self) -> int:
        """First instant after it."""
        return self.start_ns + self.step_ns

    @property
    def key(self) -> tuple[str, int, int, int]:
        """As of a window."""
        return (self.server, self.timeline, self.step_ns, self.start_ns)


class Seed:
    """Rows of a fleet over whole days, from the first hour of `first_ns`'s day on."""

    def __init__(self, servers: int, days: int) -> None:
        self.servers, self.days = servers, days
        self._sheets: dict[tuple[str, ...], Sheet] = {}
        unlike = min(servers, UNLIKE)
        hours = Scenario(servers=unlike, days=1, step_s=ns_to_s(HOUR_NS))
        minutes = Scenario(servers=unlike, days=MINUTES * MINUTE_NS / DAY_NS, step_s=ns_to_s(MINUTE_NS))
        self.first_ns = hours.begin_ns
        self._of_hours = self._simulated(hours)
        self._of_minutes = self._simulated(minutes)

    @property
    def end_ns(self) -> int:
        """First instant after it."""
        return self.first_ns + self.days * DAY_NS

    @property
    def last_day_ns(self) -> int:
        """Start of the day that is made of minutes."""
        return self.end_ns - DAY_NS

    @property
    def server(self) -> str:
        """One of the servers."""
        return self._of_hours[0][0].window.server

    def hours(self, day: int) -> Iterator[list[Accounted]]:
        """What is written at once, one window of every server, for each hour of a day."""
        for hour in range(HOURS):
            yield _moved(self._of_hours[hour], self.first_ns + day * DAY_NS + hour * HOUR_NS)

    def minutes(self, hour: int) -> Iterator[list[Accounted]]:
        """The same for each minute of an hour of the last day; the first one tells the facts."""
        for minute in range(60):
            like = 1 + minute % (MINUTES - 1) if minute else 0
            yield _moved(self._of_minutes[like], self.last_day_ns + hour * HOUR_NS + minute * MINUTE_NS)

    def writes(self) -> Iterator[list[Accounted]]:
        """All of them."""
        for day in range(self.days - 1):
            yield from self.hours(day)
        for hour in range(HOURS):
            yield from self.minutes(hour)

    def copy(self, db: sqlite3.Connection) -> None:
        """Have the rows of the first day on all days but the last, and those of the last day's first hour in all hours.

        Nothing else may have been written.
        """
        for place, (rollup, kind, name) in enumerate(schema.tables()):
            told("copying rows of sums, tables", place, len(schema.tables()))
            table = Table(db, kind, rollup)
            for day in range(1, self.days - 1):
                _copy(db, name, table, (self.first_ns, DAY_NS), self.first_ns + day * DAY_NS)
            for hour in range(1, HOURS if rollup.step_ns <= HOUR_NS else 0):
                _copy(db, name, table, (self.last_day_ns, HOUR_NS), self.last_day_ns + hour * HOUR_NS)

    def _simulated(self, scenario: Scenario) -> list[list[Accounted]]:
        """Windows with their rows by start."""
        policy, by_start = Policy(), dict[int, list[Accounted]]()
        windows = scenario.servers * (scenario.end_ns - scenario.begin_ns) // scenario.step_ns
        for number, (window,) in enumerate(groups(roster(scenario), True, 1)):
            told(f"simulating windows of {scenario.step_s:g} s", number, windows)
            rows = sorted(account(window, policy), key=lambda row: _PLACES[row.kind])
            values = np.array([row.fields.get(name, np.nan) for row in rows for name in COLUMNS[row.kind]])
            of = by_start.setdefault(window.start_ns, [])
            for name in self._names(window.server):
                key = Key(name, window.timeline, window.start_ns, window.step_ns)
                of.append(Accounted(key, b"", SheetRows(self._sheet(name, rows), window.start_ns, values)))
        return [by_start[start] for start in sorted(by_start)]

    def _names(self, server: str) -> list[str]:
        place = int(server.rpartition("-")[2])
        return [f"sim-{one:05d}" for one in range(place, self.servers + 1, UNLIKE)]

    def _sheet(self, name: str, rows: Sequence[Row]) -> Sheet:
        named = (name, *(row.kind + canonical(row.tags) for row in rows))
        if named not in self._sheets:
            own = [(row.kind, {tag: text for tag, text in row.tags.items() if tag != "server"}) for row in rows]
            self._sheets[named] = Sheet({"server": name}, own)
        return self._sheets[named]


def _copy(db: sqlite3.Connection, name: str, table: Table, of_ns: tuple[int, int], to_ns: int) -> None:
    first, end = table.first_number(of_ns[0]), table.first_number(sum(of_ns))
    db.execute(
        f"INSERT INTO {name} SELECT number + ?, sums FROM {name} WHERE number >= ? AND number < ?",
        (table.first_number(to_ns) - first, first, end),
    )


def _moved(windows: Sequence[Accounted], start_ns: int) -> list[Accounted]:
    moved = []
    for one in windows:
        assert isinstance(one.window, Key)
        assert isinstance(one.rows, SheetRows)
        key = msgspec.structs.replace(one.window, start_ns=start_ns)
        moved.append(Accounted(key, one.body, SheetRows(one.rows.sheet, start_ns, one.rows.values)))
    return moved


_last_told_s = [0.0]


def told(what: str, done: int, whole: int) -> None:
    """A line on standard error, every few seconds."""
    if time.monotonic() - _last_told_s[0] > 5:
        _last_told_s[0] = time.monotonic()
        print(f"{what}: {done} of {whole}", file=sys.stderr)
