"""Cuts the readings of one server into whole windows, and closes each once.

Rules: a window closes when every meter and engine that still answers is known up to its end, at the latest after a
grace. A closed window never changes: what a later reading reveals of it travels as `late` in the next one. A change of
declarations takes effect at the next edge; what is declared anew is not paired with readings from before, save for an
engine that only runs elsewhere now: its counters go on. What an engine did before it was declared is late. After a stop
or a leap of the clock the grace counts from then on, so that the sources can still answer for the time in between.
"""

from collections.abc import Iterable, Sequence
from operator import attrgetter

import msgspec

from joulefleet.describe import Engine, Meter
from joulefleet.grid import HOUR_NS, floor_to
from joulefleet.reading import Failure, MeterReading, Reading, WorkReading
from joulefleet.topology import Comparisons, comparisons
from joulefleet.units import NS_PER_S
from joulefleet.window import Window
from joulefleet_agent.engine_cut import EngineCut, is_plausible
from joulefleet_agent.health import HealthBook
from joulefleet_agent.idle import IdleBook
from joulefleet_agent.meter_cut import MeterCut
from joulefleet_agent.standby import Standbys

LEAST_GRACE_NS = 15 * NS_PER_S
MOST_GRACE_NS = 180 * NS_PER_S
AHEAD_NS = 15 * NS_PER_S
"""How far a source's own clock may be ahead of the agent's."""

MOST_UJ = 2**62
"""Beyond this (146 years at a kilowatt) a counter is none: windows hold integers of 64 bits."""
MOST_MW = 10**12
"""A gigawatt; what is beyond it is no power of a server."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What every window of this server bears."""

    server: str
    pool: str = ""
    site: str = ""
    labels: dict[str, str] = {}
    hardware: str = ""
    simulated: bool = False
    facts: dict[str, str] = {}


class CutterState(msgspec.Struct):
    """Everything that has to outlive the process."""

    timeline: int
    step_ns: int
    closed_ns: int = -1
    """Windows are closed up to here; -1 before the first reading."""
    last_ns: int = -1
    """The latest reading's time."""
    meters: list[MeterCut] = []
    engines: list[EngineCut] = []
    idle: IdleBook = msgspec.field(default_factory=IdleBook)
    health: HealthBook = msgspec.field(default_factory=HealthBook)
    standbys: Standbys = msgspec.field(default_factory=Standbys)
    facts_told: dict[str, str] = {}


class Cutter:
    """Pure: it is fed readings and told the time, and gives back windows."""

    def __init__(self, state: CutterState, identity: Identity) -> None:
        self.state = state
        self.identity = identity
        self._by_id: dict[str, MeterCut | EngineCut] = {}
        self._begun_ns = 0
        """When time last began or went on after a break."""
        self._compared: tuple[tuple[Meter, ...], Comparisons] = ((), comparisons((), state.step_ns))
        """What has to agree among the meters of the last window."""
        self._index()

    @property
    def cuts(self) -> list[MeterCut | EngineCut]:
        """All meters and engines, those included that are leaving."""
        return [*self.state.meters, *self.state.engines]

    @property
    def grace_ns(self) -> int:
        """How long after its end a window waits for the slowest meter."""
        slowest = max((_rhythm_ns(cut) for cut in self._by_id.values()), default=0)
        return min(max(LEAST_GRACE_NS, slowest * 5 // 2), MOST_GRACE_NS)

    def begin(self, now_ns: int) -> None:
        """The process has started, or a first reading is there: time is cut from the window that contains now."""
        state = self.state
        self._begun_ns = now_ns
        state.idle.begin(now_ns)
        if state.closed_ns < 0:
            state.closed_ns = floor_to(now_ns, state.step_ns)

    def resume(self, now_ns: int) -> list[Window]:
        """Time goes on after a stop, a sleep or a leap of the clock.

        Windows with readings are closed; the time since is cut for at most one hour, and what was used before is late.
        """
        state = self.state
        horizon_ns = floor_to(now_ns, state.step_ns) - HOUR_NS
        windows = []
        while 0 <= state.closed_ns < horizon_ns and any(cut.parts for cut in self.cuts):
            windows.append(self._close_next())
        if 0 <= state.closed_ns < horizon_ns:
            state.closed_ns = horizon_ns
            state.standbys.forget(horizon_ns)
        self.begin(now_ns)
        return windows

    def declare(self, declared: Iterable[Meter | Engine], now_ns: int) -> None:
        """What there is to read from now on; takes effect at the next edge, at once before the first reading."""
        state = self.state
        fresh = state.last_ns < 0 or state.closed_ns < 0
        # What leaves stays for one more window, which tells what is late of it.
        next_ns = max(floor_to(now_ns, state.step_ns), state.closed_ns) + state.step_ns
        edge_ns = max(state.closed_ns, 0) if fresh else next_ns
        wanted = {one.id: one for one in declared}
        for cut in self.cuts:
            if cut.until_ns or (one := wanted.get(_declared(cut).id)) == _declared(cut):
                continue
            if isinstance(cut, EngineCut) and isinstance(one, Engine) and one.software == cut.engine.software:
                cut.become(one, edge_ns)
            else:
                cut.until_ns = edge_ns or -1  # 0 would say that it stays
                state.standbys.drop(_declared(cut).id)
        present = {_declared(cut).id for cut in self.cuts if not cut.until_ns}
        for name, one in wanted.items():
            if name in present:
                continue
            if isinstance(one, Meter):
                state.meters.append(MeterCut(meter=one, since_ns=edge_ns))
            else:
                state.engines.append(EngineCut(engine=one, since_ns=edge_ns))
        self._drop_ended()

    def feed(self, readings: Sequence[Reading], now_ns: int) -> None:
        """Readings of one or several sources, in any order. Failures count at `now_ns`.

        Readings of what is not declared are passed over. A reading from the future is a failure: a source's own clock
        is wrong, and all its later readings would be lost behind it. So is a value that no meter or engine can have.
        """
        state = self.state
        told: list[MeterReading | WorkReading] = []
        latest_ns = now_ns + AHEAD_NS
        for one in readings:
            if isinstance(one, Failure):
                self._fail(one.subject, one.code, now_ns)
            elif one.at_ns > latest_ns:
                self._fail(_subject(one), "clock", now_ns)
            elif not (_is_plausible(one) if isinstance(one, MeterReading) else is_plausible(one)):
                self._fail(_subject(one), "implausible", now_ns)
            else:
                told.append(one)
        told.sort(key=attrgetter("at_ns"))
        if told and state.closed_ns < 0:
            self.begin(told[0].at_ns)
        for reading in told:
            self._take(self._by_id.get(_subject(reading)), reading)
        if told:
            state.last_ns = max(state.last_ns, told[-1].at_ns)

    def close(self, now_ns: int) -> list[Window]:
        """The windows that are settled by now, in order."""
        state, windows = self.state, []
        while state.closed_ns >= 0 and (end_ns := state.closed_ns + state.step_ns) <= now_ns:
            if now_ns < max(end_ns, self._begun_ns) + self.grace_ns and not self._settled(end_ns):
                break
            windows.append(self._close_next())
        return windows

    def finish(self) -> list[Window]:
        """Close everything that was read, the last window only in part: nothing more will come.

        What is late of windows closed before is told in one more.
        """
        windows = []
        while self.state.closed_ns >= 0 and (self.state.closed_ns < self.state.last_ns or self._owes()):
            windows.append(self._close_next())
        return windows

    def new_timeline(self, timeline: int, by_ns: int) -> list[Window]:
        """The clock was set back by `-by_ns`: what was read is closed as it stands, and cutting goes on there.

        The last readings move along, so that the joules between them and the next ones are kept.
        """
        windows = self.finish()
        state = self.state
        state.timeline = timeline
        state.meters = [cut for cut in state.meters if not cut.until_ns]
        state.engines = [cut for cut in state.engines if not cut.until_ns]
        from_ns = max((state.last_ns if state.last_ns >= 0 else state.closed_ns) + by_ns, 0)
        if state.closed_ns >= 0:
            state.closed_ns = floor_to(from_ns, state.step_ns)
        state.last_ns = from_ns if state.last_ns >= 0 else -1
        for cut in self.cuts:
            cut.shift(by_ns)
            cut.parts.clear()
            cut.since_ns = min(cut.since_ns, max(state.closed_ns, 0))
        state.standbys.shift(by_ns)
        self._begun_ns = from_ns
        state.idle.begin(from_ns)
        return windows

    def _owes(self) -> bool:
        return any(cut.owes for cut in self.cuts)

    def _take(self, cut: MeterCut | EngineCut | None, reading: MeterReading | WorkReading) -> None:
        step_ns, closed_ns = self.state.step_ns, self.state.closed_ns
        match cut, reading:
            case MeterCut(), MeterReading():
                cut.feed(reading, step_ns, closed_ns)
                if (standbys := self.state.standbys.cuts) and reading.meter in standbys:
                    standbys[reading.meter].feed(reading, step_ns, closed_ns)
            case EngineCut(), WorkReading():
                cut.feed(reading, step_ns, closed_ns)

    def _settled(self, end_ns: int) -> bool:
        return all(
            cut.known_until_ns >= end_ns or cut.health.gives_nothing(end_ns)
            for cut in self.cuts
            if _declared_in(cut, end_ns - self.state.step_ns)
        )

    def _close_next(self) -> Window:
        state, identity = self.state, self.identity
        start_ns, step_ns = state.closed_ns, state.step_ns
        window = Window(
            server=identity.server,
            timeline=state.timeline,
            start_ns=start_ns,
            step_ns=step_ns,
            pool=identity.pool,
            site=identity.site,
            labels=identity.labels,
            hardware=identity.hardware,
            simulated=identity.simulated or any(_declared(cut).simulated for cut in self.cuts),
            meters=tuple(cut.close(start_ns, step_ns) for cut in state.meters if _declared_in(cut, start_ns)),
            engines=tuple(cut.close(start_ns, step_ns) for cut in state.engines if _declared_in(cut, start_ns)),
            facts=self._facts(start_ns),
        )
        state.idle.fill_in(window)
        state.health.fill_in(window, self._comparisons(window))
        state.meters = state.standbys.exchange(window, state.meters, state.health)
        state.closed_ns = start_ns + step_ns
        self._drop_ended()
        return window

    def _comparisons(self, window: Window) -> Comparisons:
        declared = tuple(one.meter for one in window.meters)
        if declared != self._compared[0]:
            self._compared = (declared, comparisons(declared, window.step_ns))
        return self._compared[1]

    def _facts(self, start_ns: int) -> dict[str, str]:
        """All facts once an hour, and whenever one changed."""
        facts = {**self.identity.facts}
        for meter in (cut.meter for cut in self.state.meters):
            if meter.driver:
                facts[f"driver:{meter.id}"] = meter.driver
            if meter.power_limit_mw:
                facts[f"power_limit_mw:{meter.id}"] = str(meter.power_limit_mw)
            if meter.calibration:
                facts[f"calibration:{meter.id}"] = f"{meter.calibration} gain_ppm {meter.gain_ppm}"
        for cut in self.state.engines:
            if cut.version:
                facts[f"engine:{cut.engine.id}"] = cut.version
        if start_ns % HOUR_NS and facts == self.state.facts_told:
            return {}
        self.state.facts_told = facts
        return facts

    def _fail(self, subject: str, code: str, now_ns: int) -> None:
        cut = self._by_id.get(subject)
        if cut is not None:
            cut.health.fail(code, now_ns)
            self.state.standbys.fail(subject, code, now_ns)

    def _drop_ended(self) -> None:
        closed_ns = self.state.closed_ns
        self.state.meters = [cut for cut in self.state.meters if not cut.until_ns or cut.until_ns > closed_ns]
        self.state.engines = [cut for cut in self.state.engines if not cut.until_ns or cut.until_ns > closed_ns]
        self._index()

    def _index(self) -> None:
        self._by_id = {_declared(cut).id: cut for cut in self.cuts if not cut.until_ns}


def _is_plausible(one: MeterReading) -> bool:
    # A counter below 0 would be a reset, and all that it told would be told again.
    return 0 <= (one.counter_uj or 0) <= MOST_UJ and -MOST_MW <= (one.power_mw or 0) <= MOST_MW


def _subject(reading: MeterReading | WorkReading) -> str:
    return reading.meter if isinstance(reading, MeterReading) else reading.engine


def _declared(cut: MeterCut | EngineCut) -> Meter | Engine:
    """As the source declares it."""
    return (cut.instead_of or cut.meter) if isinstance(cut, MeterCut) else cut.declared


def _declared_in(cut: MeterCut | EngineCut, start_ns: int) -> bool:
    return cut.since_ns <= start_ns and (not cut.until_ns or start_ns < cut.until_ns)


def _rhythm_ns(cut: MeterCut | EngineCut) -> int:
    return max(cut.meter.period_ns, cut.meter.refresh_ns) if isinstance(cut, MeterCut) else cut.engine.period_ns
