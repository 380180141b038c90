"""The way from readings to windows on disk: cutter and spool, kept in step.

What the cutter holds and what it closed go to the spool in one transaction. If the disk refuses them, they stay in
memory and are tried again; nothing is sent that is not on disk.
"""

import logging
import secrets
from collections.abc import Sequence

import msgspec

from joulefleet.describe import Engine, Meter
from joulefleet.reading import Reading
from joulefleet.units import NS_PER_S
from joulefleet.window import Window
from joulefleet_agent.cutter import Cutter, CutterState, Identity
from joulefleet_agent.own_cost import OwnCost
from joulefleet_agent.spool import Spool, SpoolUnavailable

LOG = logging.getLogger(__name__)
COMMIT_EVERY_NS = 10 * NS_PER_S
MOST_UNCOMMITTED = 3_600
"""Closed windows that are held in memory while the disk refuses them."""


class Declared(msgspec.Struct):
    """What one source declares."""

    meters: list[Meter] = []
    engines: list[Engine] = []


class Kept(msgspec.Struct):
    """What the spool keeps as state."""

    cutter: CutterState
    declared: dict[str, Declared] = {}
    """By source: one that cannot be opened after a restart still declares what it did before, and is missed."""


class Pipeline:
    """One server's cutter over its spool."""

    def __init__(
        self, spool: Spool, identity: Identity, step_ns: int, timeline: int | None = None, cost: OwnCost | None = None
    ) -> None:
        self._spool = spool
        self._cost = cost
        self._uncommitted: list[Window] = []
        self._committed_ns = 0
        self._lost: list[Window] = []
        kept = self._restore(step_ns, timeline)
        self._declared = kept.declared
        self.cutter = Cutter(kept.cutter, identity)
        if kept.cutter.step_ns != step_ns:
            self._change_step(step_ns)

    @property
    def last_ns(self) -> int:
        """The latest reading that is held; -1 before the first."""
        return self.cutter.state.last_ns

    def start(self, sources: Sequence[str], now_ns: int) -> None:
        """These sources are configured; take up what was declared before, and account for the time in between."""
        self._declared = {name: declared for name, declared in self._declared.items() if name in sources}
        self._uncommitted += self.cutter.resume(now_ns)
        self.cutter.state.idle.begin(now_ns)
        self._declare(now_ns)

    def declare(self, source: str, declares: Sequence[Meter | Engine], now_ns: int) -> None:
        """A source was opened, or ended with nothing left to declare."""
        meters = [one for one in declares if isinstance(one, Meter)]
        engines = [one for one in declares if isinstance(one, Engine)]
        self._declared[source] = Declared(meters, engines)
        self._declare(now_ns)

    def feed(self, readings: Sequence[Reading], now_ns: int) -> None:
        """Readings of any sources."""
        self.cutter.feed(readings, now_ns)

    def tick(self, now_ns: int, wall_ns: int) -> int:
        """Close what is settled; commit when windows were closed, or from time to time. Returns windows committed."""
        closed = self.cutter.close(now_ns)
        return self._commit(closed, wall_ns) if closed or wall_ns - self._committed_ns >= COMMIT_EVERY_NS else 0

    def finish(self, wall_ns: int) -> int:
        """Nothing more will come: close and commit everything."""
        return self._commit(self.cutter.finish(), wall_ns)

    def suspend(self, wall_ns: int) -> None:
        """The process ends and another may go on: commit what is held, close nothing."""
        self._commit([], wall_ns)

    def set_back(self, by_ns: int, wall_ns: int) -> None:
        """The clock was set back: begin a new timeline."""
        timeline = secrets.randbits(32)
        LOG.warning("the clock was set back by %.1f s: a new timeline begins", -by_ns / NS_PER_S)
        closed = self.cutter.new_timeline(timeline, by_ns)
        self._commit(closed, wall_ns)
        self._spool.begin_timeline(timeline)

    def _declare(self, now_ns: int) -> None:
        unique: dict[str, Meter | Engine] = {}
        for name, declared in self._declared.items():
            both: list[Meter | Engine] = [*declared.meters, *declared.engines]
            for one in both:
                if unique.setdefault(one.id, one) != one:
                    LOG.error("source %s declares %r, which another source does already: it is left out", name, one.id)
        self.cutter.declare(unique.values(), now_ns)

    def _commit(self, closed: list[Window], wall_ns: int) -> int:
        self._fill_in(closed)
        self._uncommitted += closed
        self._lost += self._uncommitted[:-MOST_UNCOMMITTED]
        del self._uncommitted[:-MOST_UNCOMMITTED]
        state = msgspec.msgpack.encode(Kept(self.cutter.state, self._declared))
        try:
            self._spool.commit(state, self._uncommitted, wall_ns, lost=self._lost)
        except SpoolUnavailable as error:
            LOG.error("%s; %d windows are held in memory", error, len(self._uncommitted))
            return 0
        done, self._uncommitted, self._lost = len(self._uncommitted), [], []
        self._committed_ns = wall_ns
        return done

    def _fill_in(self, closed: list[Window]) -> None:
        if not closed:
            return
        losses = self._spool.losses()
        for window in closed:
            window.losses = losses
        if self._cost is not None:
            closed[-1].agent = self._cost.since_last(*self._spool.depth())

    def _restore(self, step_ns: int, timeline: int | None) -> Kept:
        """The state of the spool, or a new one."""
        body, known = self._spool.state(), self._spool.timeline()
        if timeline is not None and timeline != known:
            body, known = None, self._spool.begin_timeline(timeline)
        return msgspec.msgpack.decode(body, type=Kept) if body else Kept(CutterState(timeline=known, step_ns=step_ns))

    def _change_step(self, step_ns: int) -> None:
        """The config names another length of windows: what was read is closed at the old one."""
        self._uncommitted += self.cutter.finish()
        state = self.cutter.state
        state.step_ns = step_ns
        if state.closed_ns >= 0:
            state.closed_ns += -state.closed_ns % step_ns
