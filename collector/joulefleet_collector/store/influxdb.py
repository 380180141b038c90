"""The store on InfluxDB: rows as line protocol, sums asked in InfluxQL, sums of hours and days beside the rows.

Only rows are kept, not the windows: these cannot be exported or recounted from here. A window written again overwrites
its rows with the same values. A batch is one request; where that fails InfluxDB may have stored a part of it, and is
whole when the batch is sent again.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from joulefleet.grid import HOUR_NS, floor_to
from joulefleet.units import s_to_ns
from joulefleet.window import Window
from joulefleet_collector.rows import Row
from joulefleet_collector.store import influx_life, influx_sums, influxql
from joulefleet_collector.store.freshness import Marks, rows_to_read
from joulefleet_collector.store.influx_wire import Wire
from joulefleet_collector.store.lines import lines, tag_of
from joulefleet_collector.store.overlap import Span, overlaps
from joulefleet_collector.store.retired import RetiredFile
from joulefleet_collector.store.rollup import canonical, grains, lasting
from joulefleet_collector.store.set_aside import SetAside, store_good
from joulefleet_collector.store.store import (
    STEP_NS,
    Account,
    Accounted,
    Course,
    Overlap,
    Question,
    Retired,
    StoreUnavailable,
    Total,
)

WRITE_ONLY = "write-only"
"""Epoch of a store that cannot be asked."""
PROBE_TIMEOUT_S = 5.0
"""How long each step of a check may take: who asks whether a collector is ready does not wait for long."""

AT_ONCE = 50
"""Windows whose rows are made into lines together."""

log = logging.getLogger(__name__)


class InfluxStore:
    """A `Store` on one bucket or database. Its methods may be called from any thread, and by several collectors."""

    def __init__(
        self,
        wire: Wire,
        data_dir: Path,
        new_epoch: Callable[[], str],
        new_token: Callable[[], int],
        now_ns: Callable[[], int],
    ) -> None:
        """Reach the store, and make its bucket or database where that is missing and allowed. Raises StoreUnavailable.

        `wire` is the store's own from here on. `data_dir` is where refused lines are set aside and retired servers
        are listed; `new_token` gives a random number of `freshness.TOKEN_BITS`.
        """
        self.set_aside = SetAside(data_dir)
        self._retired = RetiredFile(data_dir)
        self._new_token = new_token
        self._now_ns = now_ns
        self._lived_ns = -1
        self._wire = wire
        try:
            self._epoch = self._opened(new_epoch()) if wire.config.read else WRITE_ONLY
        except BaseException:
            self._wire.close()
            raise

    @property
    def epoch(self) -> str:
        """Identity of the store's life: made at random with it, and kept in it."""
        return self._epoch

    @property
    def readable(self) -> bool:
        """Whether the server answers questions, and so sums can be made in it."""
        return self._wire.config.read

    def write(self, accounted: Sequence[Accounted], received_ns: int) -> int:
        """Store the rows of these windows in one request. Returns how many windows: old and new are not told apart.

        A line that InfluxDB refuses for good is set aside and counted, and the others are stored.
        """
        # A part at a time: the rows of a thousand windows are ten times as large as their lines.
        parts = (accounted[first : first + AT_ONCE] for first in range(0, len(accounted), AT_ONCE))
        body = [line for part in parts for line in lines(row for one in part for row in one.rows)]
        body += influx_sums.touched((one.window.start_ns for one in accounted), self._new_token())
        if floor_to(self._now_ns(), HOUR_NS) != self._lived_ns:
            self.check()
        refused = store_good(body, self._wire.write)
        self.set_aside.add(refused)
        if refused:
            where, reason = self.set_aside.path, refused[0][1]
            log.error("%s refused %d lines, set aside in %s: %s", self._wire.place, len(refused), where, reason)
        return len(accounted)

    def ask(self, question: Question) -> list[Total]:
        """Sums, ordered by step and tags. Raises ValueError where the instants are no whole minutes."""
        fields = influxql.asked_fields(question)
        fleet = "server" not in question.by and "server" not in question.where
        usable = grains(question.kind, STEP_NS[question.step], fleet)
        marks = influx_sums.marks(self._reading, question.since_ns, question.until_ns)
        parts = rows_to_read(question.since_ns, question.until_ns, usable, marks)
        if not all(question.where.values()):
            return []
        statements = [influxql.select(question, fields, part) for part in parts]
        return influxql.totals(question, self._reading.ask(*statements))

    def latest(self, kind: str) -> list[Row]:
        """The newest row of each combination of tags, without the tags that rollups drop."""
        (answer,) = self._reading.ask(influxql.newest(kind))
        rows = sorted(influxql.rows(kind, answer), key=lambda row: (row.start_ns, canonical(row.tags)))
        newest = {canonical(kept.tags): kept for kept in map(lasting, rows)}
        return [newest[tags] for tags in sorted(newest)]

    def heard(self) -> list[Row]:
        """The newest agent's row of each server and timeline."""
        return self.latest("agent")

    def tags(self, kind: str) -> set[str]:
        """Names of the tags that rows of this kind have so far, labels included."""
        (answer,) = self._reading.ask(influxql.tag_keys(kind))
        names = {tag_of(str(name)): "x" for series in answer for (name,) in series.values}
        return set(lasting(Row(kind, 0, names, {})).tags)

    def windows(self, server: str | None, since_ns: int, until_ns: int) -> Iterator[Window]:
        """Always StoreUnavailable: InfluxDB keeps no windows."""
        self._no_windows("exported")

    def recount(self, account: Account, progress: Callable[[int, int], None]) -> None:
        """Always StoreUnavailable: InfluxDB keeps no windows."""
        self._no_windows("recounted")

    def timelines(self, since_ns: int, until_ns: int) -> list[Overlap]:
        """Timelines of one server that overlap in windows that start in this time, as the agents' rows tell."""
        time = (max(since_ns - HOUR_NS, 0), until_ns + HOUR_NS)
        found: list[Overlap] = []
        for server in self._servers_of_several_timelines(*time):
            (answer,) = self._reading.ask(influxql.agent_windows(*time, server))
            spans: dict[int, list[Span]] = {}
            for row in influxql.rows("agent", answer):
                end_ns = row.start_ns + s_to_ns(float(row.tags["step_s"]))
                spans.setdefault(int(row.tags["timeline"], 16), []).append((row.start_ns, end_ns))
            found += overlaps(
                server, {timeline: sorted(several) for timeline, several in spans.items()}, since_ns, until_ns
            )
        return found

    def courses(self, since_ns: int, until_ns: int) -> list[Course]:
        """Timelines that tell of this time, as far as they lie in it, by server and number."""
        first, last = self._reading.ask(*influxql.agent_spans(since_ns, until_ns, ("server", "timeline", "step_s")))
        found: dict[tuple[str, int], tuple[int, int]] = {}
        for row in (*influxql.rows("agent", first), *influxql.rows("agent", last)):
            key = row.tags["server"], int(row.tags["timeline"], 16)
            from_ns, to_ns = row.start_ns, row.start_ns + s_to_ns(float(row.tags["step_s"]))
            before = found.get(key, (from_ns, to_ns))
            found[key] = min(before[0], from_ns), max(before[1], to_ns)
        return [Course(*key, *span) for key, span in sorted(found.items())]

    def retired(self) -> Retired:
        """Servers that were retired by way of this collector, also those that came back since."""
        return self._retired.read()

    def retire(self, changes: Mapping[str, int | None]) -> None:
        """Keep these servers as retired; None takes one back. Durable when it returns."""
        self._retired.change(changes)

    @property
    def tells_known(self) -> bool:
        """InfluxDB does not say whether a row was there."""
        return False

    @property
    def lines_set_aside(self) -> int:
        """Lines that the server refused for good since this process started."""
        return self.set_aside.lines

    def check(self) -> None:
        """Raises StoreUnavailable where a write would fail now, or where the store is no longer the one it was."""
        now_ns = self._now_ns()
        if self._wire.config.read and self._epoch not in influx_life.epochs(self._wire, PROBE_TIMEOUT_S):
            reason = "it was emptied or replaced while the collector ran"
            raise StoreUnavailable(self._wire.place, reason, "start the collector again: agents send what they keep")
        influx_life.leave(self._wire, self._epoch, now_ns, PROBE_TIMEOUT_S)
        self._lived_ns = floor_to(now_ns, HOUR_NS)

    def roll_up(self, before: Marks) -> Marks:
        """Add up hours that were written since they were last added up, and days that are over; late windows too.

        Returns what the marks say now: hand it in the next time, a minute later or more. An hour that was touched in
        between waits. Questions read a sum only while it is as new as its rows, whenever and however often this runs.
        """
        return influx_sums.roll_up(self._reading, before)

    def close(self) -> None:
        """End the connections; what was written stays."""
        self._wire.close()

    @property
    def _reading(self) -> Wire:
        """The way to ask. Raises StoreUnavailable where the server answers no questions."""
        if not self._wire.config.read:
            mend = "ask the server itself; or set read = true where it answers InfluxQL"
            raise StoreUnavailable(self._wire.place, "it is only written to", mend)
        return self._wire

    def _opened(self, new_epoch: str) -> str:
        influx_life.ensure(self._wire, self._wire.config)
        return influx_life.epoch_of(self._wire, new_epoch, self._now_ns())

    def _no_windows(self, what: str) -> NoReturn:
        mend = "use the embedded store where windows have to be kept"
        raise StoreUnavailable(self._wire.place, f"only rows are kept here: windows cannot be {what}", mend)

    def _servers_of_several_timelines(self, since_ns: int, until_ns: int) -> list[str]:
        """Servers of which two timelines may overlap: one begins before another's last window can have ended."""
        first, last = self._reading.ask(*influxql.agent_spans(since_ns, until_ns))
        ends = {canonical(row.tags): row.start_ns + HOUR_NS for row in influxql.rows("agent", last)}
        found, latest = set(), dict[str, int]()
        for row in sorted(influxql.rows("agent", first), key=lambda row: row.start_ns):
            server = row.tags["server"]
            if row.start_ns < latest.get(server, 0):
                found.add(server)
            latest[server] = max(latest.get(server, 0), ends[canonical(row.tags)])
        return sorted(found)
