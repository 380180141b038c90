"""The way from readings to windows on disk: cutter and spool, kept in step.

What the cutter holds and what it closed go to the spool in one transaction. If the disk refuses them, they stay in
memory and are tried again; nothing is sent that is not on disk.
"""

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence

import msgspec

from joulefleet.describe import Engine, Meter
from joulefleet.reading import Failure, MeterReading, Reading, WorkReading
from joulefleet.units import NS_PER_S, ns_to_s
from joulefleet.window import Losses, Window
from joulefleet_agent.cutter import Cutter, CutterState, Identity
from joulefleet_agent.idle import IdleBook
from joulefleet_agent.own_cost import OwnCost
from joulefleet_agent.placement import Placed, apply, is_found
from joulefleet_agent.spool import Spool, SpoolUnavailable, added, energy_uj

LOG = logging.getLogger(__name__)
COMMIT_EVERY_NS = 10 * NS_PER_S
MOST_UNCOMMITTED = 3_600
"""Closed windows that are held in memory while the disk refuses them."""


class Declared(msgspec.Struct):
    """What one source declares."""

    meters: list[Meter] = []
    engines: list[Engine] = []

    @property
    def all(self) -> list[Meter | Engine]:
        """Meters and engines."""
        return [*self.meters, *self.engines]


class Kept(msgspec.Struct):
    """What the spool keeps as state; what is learnt of idle power is kept beside it."""

    cutter: CutterState
    declared: dict[str, Declared] = {}
    """By source: one that cannot be opened after a restart still declares what it did before, and is missed."""
    placed: Placed = {}
    """Where engines were found to run."""


class Pipeline:
    """One server's cutter over its spool."""

    def __init__(  # noqa: PLR0913, PLR0917 # what is told once, by the one who builds it
        self,
        spool: Spool,
        identity: Identity,
        step_ns: int,
        timeline: int | None = None,
        cost: OwnCost | None = None,
        new_timeline: Callable[[], int] = lambda: secrets.randbits(32),
    ) -> None:
        self.cost = cost
        """What tells the agent's own cost; none for a recording, and while the agent has no clock yet."""
        self._new_timeline = new_timeline
        self._spool = spool
        self._uncommitted: list[Window] = []
        self._tried_ns = 0
        self._lost = Losses()
        self._is_removed = False
        self._learnt_on = -1
        """The timeline of which the spool has what was learnt."""
        kept = self._restore(step_ns, timeline)
        self._declared = kept.declared
        self._placed = kept.placed
        self.asked: list[Engine] = []
        """The engines of all sources, each once, as the sources declare them."""
        self.engines: list[Engine] = []
        """The same where they were found to run."""
        self._owners: dict[str, str] = {}
        """The source whose word counts, by id of meter or engine."""
        self.cutter = Cutter(kept.cutter, identity)
        if kept.cutter.step_ns != step_ns:
            self._change_step(step_ns)

    @property
    def last_ns(self) -> int:
        """The latest reading that is held; -1 before the first."""
        return self.cutter.state.last_ns

    @property
    def reached_ns(self) -> int:
        """The instant up to which something was read or closed; 0 where nothing was."""
        return max(self.last_ns, self.cutter.state.closed_ns, 0)

    def start(self, sources: Sequence[str], now_ns: int) -> None:
        """These sources are configured; take up what was declared before, and account for the time in between."""
        self._declared = {name: declared for name, declared in self._declared.items() if name in sources}
        self.resume(now_ns)
        self._declare(now_ns)

    def resume(self, now_ns: int) -> None:
        """Time goes on after a stop, a sleep or a leap of the clock."""
        self._uncommitted += self.cutter.resume(now_ns)

    def declare(self, source: str, declares: Sequence[Meter | Engine], now_ns: int) -> None:
        """A source was opened, or ended with nothing left to declare."""
        meters = [one for one in declares if isinstance(one, Meter)]
        engines = [one for one in declares if isinstance(one, Engine)]
        self._declared[source] = Declared(meters, engines)
        self._declare(now_ns)

    def declared_by(self, source: str) -> list[Meter | Engine]:
        """What this source declares, or did when it was last open."""
        return self._declared.get(source, Declared()).all

    @property
    def placed(self) -> Placed:
        """Where engines were found to run that do not say it themselves."""
        return self._placed

    def place(self, where: Placed, now_ns: int) -> None:
        """Engines were found to run here; that a place has changed takes effect at the next edge."""
        if where != self._placed:
            self._placed = where
            self._declare(now_ns)

    def feed(self, readings: Sequence[Reading], now_ns: int, source: str = "") -> None:
        """Readings of any sources; of this one alone, where it is named, without those of what another one has."""
        own = [one for one in readings if self._owners.get(_subject(one), source) == source] if source else readings
        self.cutter.feed(own, now_ns)

    def tick(self, now_ns: int, wall_ns: int) -> int:
        """Close what is settled; commit when windows were closed, or from time to time. Returns windows committed."""
        closed = self.cutter.close(now_ns)
        return self._try_commit(closed, wall_ns) if closed or wall_ns - self._tried_ns >= COMMIT_EVERY_NS else 0

    def finish(self, wall_ns: int) -> int:
        """Nothing more will come: close and commit everything. Raises SpoolUnavailable."""
        return self._commit(self.cutter.finish(), wall_ns)

    def suspend(self, wall_ns: int) -> None:
        """The process ends and another may go on: commit what is held, close nothing."""
        self._try_commit([], wall_ns)
        if self._spool.is_removed:
            self._put_back()

    def set_back(self, by_ns: int, wall_ns: int) -> None:
        """The clock was set back: begin a new timeline."""
        LOG.warning("the clock was set back by %.1f s: a new timeline begins", ns_to_s(-by_ns))
        self._try_commit(self.cutter.new_timeline(self._new_timeline(), by_ns), wall_ns)

    def _declare(self, now_ns: int) -> None:
        owned = list(self._each_once())
        self._owners = {one.id: name for name, one in owned}
        for name, declared in self._declared.items():
            for one in declared.all:
                if self._owners.get(one.id, name) != name and not _was_found(one):
                    LOG.error("source %s declares %r, which another source does already: it is left out", name, one.id)
        self.asked = [one for _, one in owned if isinstance(one, Engine)]
        self.engines = [apply(one, self._placed) for one in self.asked]
        meters = [one for _, one in owned if isinstance(one, Meter)]
        self.cutter.declare([*meters, *self.engines], now_ns)

    def _each_once(self) -> Iterator[tuple[str, Meter | Engine]]:
        """What is declared, each with the source whose word counts: the first, and what is configured before what was
        found at the same port."""
        every = [(name, one) for name, declared in self._declared.items() for one in declared.all]
        named = {one.port for _, one in every if isinstance(one, Engine) and not is_found(one)} - {0}
        seen: set[str] = set()
        for name, one in sorted(every, key=lambda each: _was_found(each[1])):
            if one.id not in seen and not (isinstance(one, Engine) and is_found(one) and one.port in named):
                seen.add(one.id)
                yield name, one

    def _try_commit(self, closed: list[Window], wall_ns: int) -> int:
        try:
            return self._commit(closed, wall_ns)
        except SpoolUnavailable as error:
            LOG.error("%s; %d windows are held in memory", error, len(self._uncommitted))
            return 0

    def _commit(self, closed: list[Window], wall_ns: int) -> int:
        self._tried_ns = wall_ns
        self._uncommitted += closed
        self._drop_beyond_bound()
        self._fill_in(closed)
        state = self.cutter.state
        kept = Kept(msgspec.structs.replace(state, idle=IdleBook()), self._declared, self._placed)
        body = msgspec.msgpack.encode(kept)
        learnt = self._learnt()
        self._spool.commit(body, self._uncommitted, wall_ns, lost=self._lost, timeline=state.timeline, learnt=learnt)
        self._watch_spool()
        done, self._uncommitted, self._lost, self._learnt_on = len(self._uncommitted), [], Losses(), state.timeline
        return done

    def _learnt(self) -> bytes | None:
        """What is learnt, where it may have changed: it is learnt from closed windows, and after a day it is larger
        than all else that is kept."""
        state = self.cutter.state
        changed = bool(self._uncommitted) or self._learnt_on != state.timeline
        return msgspec.msgpack.encode(state.idle) if changed else None

    def _watch_spool(self) -> None:
        was_removed, self._is_removed = self._is_removed, self._spool.is_removed
        if self._is_removed and not was_removed:
            text = "spool %s: the file was removed while it was in use; stop the agent, and it puts it back: if it is"
            LOG.error(f"{text} killed instead, what waits is lost", self._spool.path)

    def _put_back(self) -> None:
        """The file was removed while the process had it open: the next process finds it again."""
        waiting, _ = self._spool.depth()
        try:
            self._spool.put_back()
            LOG.warning("spool %s: put back where it was removed", self._spool.path)
        except SpoolUnavailable as error:
            LOG.error("%s; %d windows that waited are lost", error, waiting)

    def _drop_beyond_bound(self) -> None:
        for window in self._uncommitted[:-MOST_UNCOMMITTED]:
            lost = Losses(windows=1, seconds=ns_to_s(window.step_ns), energy_uj=energy_uj(window))
            self._lost = added(self._lost, lost)
        del self._uncommitted[:-MOST_UNCOMMITTED]

    def _fill_in(self, closed: list[Window]) -> None:
        if self.cost is not None and closed:
            closed[-1].agent = self.cost.since_last(*self._spool.depth())
        if self._uncommitted:
            losses = self._spool.losses()
            for window in self._uncommitted:
                window.losses = losses

    def _restore(self, step_ns: int, timeline: int | None) -> Kept:
        """The state of the spool if it is of this timeline, or of any where none is asked for; else a new one."""
        body, learnt = self._spool.state(), self._spool.learnt()
        try:
            kept = msgspec.msgpack.decode(body, type=Kept) if body else None
            if kept is not None and learnt:
                kept.cutter.idle = msgspec.msgpack.decode(learnt, type=IdleBook)
        except msgspec.DecodeError as error:
            reason = f"its state was written by another version ({error}); move the file away to begin a new one"
            raise SpoolUnavailable(self._spool.path, reason) from error
        if kept is not None and timeline in (None, kept.cutter.timeline):
            return kept
        return Kept(CutterState(timeline=self._spool.timeline() if timeline is None else timeline, step_ns=step_ns))

    def _change_step(self, step_ns: int) -> None:
        """The config names another length of windows: what was read is closed at the old one."""
        self._uncommitted += self.cutter.finish()
        state = self.cutter.state
        state.step_ns = step_ns
        if state.closed_ns >= 0:
            state.closed_ns += -state.closed_ns % step_ns


def _was_found(one: Meter | Engine) -> bool:
    return isinstance(one, Engine) and is_found(one)


def _subject(reading: Reading) -> str:
    match reading:
        case MeterReading():
            return reading.meter
        case WorkReading():
            return reading.engine
        case Failure():
            return reading.subject
