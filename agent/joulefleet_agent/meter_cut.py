"""Cuts the readings of one meter into windows, and knows what came late."""

from functools import cached_property

import msgspec

from joulefleet.counter import CounterTrack, Gap, GaugeTrack, Pair, Rules
from joulefleet.describe import Meter
from joulefleet.grid import TRACE_STEP_NS
from joulefleet.reading import MeterReading
from joulefleet.units import uj_over_ns_to_mw
from joulefleet.window import MeterWindow, coarse
from joulefleet_agent.activity import Activity, ActivityTrack, added
from joulefleet_agent.spread import windows_in

MOST_UJ = 2**62
"""Windows hold integers of 64 bits; what a counter tells that leaps to and fro may add up to more."""


class Cell(msgspec.Struct, array_like=True):
    """Energy and covered time of one step of the trace."""

    energy_uj: int = 0
    covered_ns: int = 0


class Mean(msgspec.Struct, array_like=True):
    """Sum and number of a gauge's values."""

    total: float = 0.0
    number: int = 0


class MeterPart(msgspec.Struct):
    """What is known so far of one meter in one window that is still open."""

    energy_uj: int = 0
    covered_ns: int = 0
    interpolated_ns: int = 0
    rejected_uj: int = 0
    lower_bound_uj: int = 0
    gauge_uj: int = 0
    gauge_ns: int = 0
    gaps_ns: dict[str, int] = {}
    cells: dict[int, Cell] = {}
    gauges: dict[str, Mean] = {}
    activity_ns: Activity | None = None


class Health(msgspec.Struct):
    """Whether a meter or an engine still answers."""

    ever_read: bool = False
    code: str = ""
    in_a_row: int = 0
    failed_ns: int = -1

    def fail(self, code: str, at_ns: int) -> None:
        """One more read without a value."""
        self.code, self.failed_ns = code, at_ns
        self.in_a_row += 1

    def succeed(self) -> None:
        """One more read with a value."""
        self.ever_read, self.in_a_row = True, 0

    def gives_nothing(self, end_ns: int) -> bool:
        """Whether there is no use in waiting for a reading at or after this end of a window."""
        lasting = self.code == "hung" or self.in_a_row >= 3 or not self.ever_read
        return self.in_a_row > 0 and lasting and self.failed_ns >= end_ns


class MeterCut(msgspec.Struct, dict=True):
    """Everything that the cutter holds of one meter between two readings."""

    meter: Meter
    since_ns: int
    """First window in which it is declared; nothing before it is told."""
    until_ns: int = 0
    """End of the last window in which it is declared; 0 while it is."""
    instead_of: Meter | None = None
    """The declaration as the source made it, where its counter is passed over in favour of its gauge."""
    counter: CounterTrack = msgspec.field(default_factory=CounterTrack)
    gauge: GaugeTrack = msgspec.field(default_factory=GaugeTrack)
    health: Health = msgspec.field(default_factory=Health)
    read_ns: int = -1
    """Time of the last reading, good or not."""
    base_uj: int = 0
    """The running total at the edge up to which windows are closed, as far as it was known then."""
    begun: bool = False
    told: bool = False
    """Whether a window was closed, so that the running total is known to others."""
    late_uj: int = 0
    late_from_ns: int = 0
    late_to_ns: int = 0
    parts: dict[int, MeterPart] = {}
    activity: ActivityTrack = msgspec.field(default_factory=ActivityTrack)

    @cached_property
    def rules(self) -> Rules:
        """What its declaration implies; made once, as it is asked at every reading."""
        return Rules.of(self.meter)

    @property
    def known_until_ns(self) -> int:
        """The latest instant up to which this meter's energy is settled."""
        return self.counter.anchor_ns if self.counts else self.gauge.last_ns

    @property
    def counts(self) -> bool:
        """Whether its energy is taken from its counter rather than from its gauge."""
        return self.meter.grade == "counter" or self.counter.anchor_ns >= 0

    @property
    def owes(self) -> bool:
        """Whether there are joules that the next window has to tell as late."""
        return self.late_uj != 0

    def feed(self, reading: MeterReading, step_ns: int, closed_ns: int) -> None:
        """One reading, not earlier than those before it; earlier ones are dropped."""
        self.health.succeed()
        if reading.at_ns <= self.read_ns:
            return
        self.read_ns = reading.at_ns
        rules = self.rules
        gauged = None
        if reading.power_mw is not None:
            gauged = self.gauge.feed(rules, reading.at_ns, reading.power_mw)
        if reading.counter_uj is not None and self.instead_of is None:
            told = self.counter.feed(rules, reading.at_ns, reading.counter_uj, reading.epoch, reading.power_mw)
            self._check_against(gauged, step_ns, closed_ns)
        else:
            told = None if self.counts else gauged
        if not self.begun and self.known_until_ns >= 0:
            self.begun, self.base_uj = True, self.counter.total_uj if self.counts else 0
        self._note(told, step_ns, closed_ns)
        self._note_gauges(reading, step_ns, closed_ns)
        if reading.activity_ns is not None:
            for window_ns, more in self.activity.feed(
                reading.activity_ns, reading.at_ns, self.since_ns, step_ns, closed_ns
            ):
                part = self._part(window_ns)
                part.activity_ns = added(part.activity_ns, more)

    def close(self, start_ns: int, step_ns: int) -> MeterWindow:
        """The meter's account of the window that starts here; called once per window, in order."""
        part = self.parts.pop(start_ns, MeterPart())
        self.told = True
        first_uj = self.base_uj
        self.base_uj += self.late_uj + part.energy_uj
        closed = MeterWindow(
            meter=self.meter,
            first_uj=first_uj,
            last_uj=self.base_uj,
            energy_uj=part.energy_uj,
            covered_ns=part.covered_ns,
            interpolated_ns=part.interpolated_ns,
            trace_mw=_trace(part, step_ns),
            late_uj=self.late_uj,
            late_from_ns=self.late_from_ns,
            late_to_ns=self.late_to_ns,
            rejected_uj=part.rejected_uj,
            lower_bound_uj=part.lower_bound_uj,
            gaps_ns=uncovered(part.gaps_ns, step_ns - part.covered_ns, self.health),
            gauge_uj=part.gauge_uj,
            gauge_ns=part.gauge_ns,
            activity_ns=part.activity_ns,
            gauges={name: coarse(mean.total / mean.number) for name, mean in part.gauges.items()},
        )
        self.late_uj = self.late_from_ns = self.late_to_ns = 0
        return closed

    def take_over(self, told: "MeterCut", from_ns: int) -> None:
        """Tell the windows from here on in the place of another way to read the meter: its running total goes on."""
        by_uj = told.base_uj - self.base_uj
        self.since_ns = from_ns
        self.base_uj += by_uj
        self.counter.total_uj += by_uj
        self.gauge.total_uj += by_uj

    def shift(self, by_ns: int) -> None:
        """Move to a new timeline whose clock differs by so much."""
        self.counter.shift(by_ns)
        self.gauge.shift(by_ns)
        self.activity.shift(by_ns)
        self.read_ns = max(self.read_ns + by_ns, -1) if self.read_ns >= 0 else -1

    def _note(self, told: Pair | Gap | None, step_ns: int, closed_ns: int) -> None:
        if isinstance(told, Gap):
            self._add_gap(told, step_ns, closed_ns)
        elif told is not None:
            self._add_pair(told, step_ns, closed_ns)

    def _add_pair(self, pair: Pair, step_ns: int, closed_ns: int) -> None:
        start_ns = max(pair.start_ns, self.since_ns)
        if start_ns > pair.start_ns:
            self._pass_over(pair.total_at(min(start_ns, pair.end_ns)))
        if start_ns >= pair.end_ns:
            return
        if start_ns < closed_ns:
            edge_ns = min(pair.end_ns, closed_ns)
            self._add_late(start_ns, edge_ns, pair.total_at(edge_ns) - pair.total_at(start_ns))
            start_ns = edge_ns
        for window_ns, from_ns, to_ns in windows_in(start_ns, pair.end_ns, step_ns):
            part = self._part(window_ns)
            part.energy_uj += _energy_uj(pair, from_ns, to_ns)
            part.covered_ns += to_ns - from_ns
            part.interpolated_ns += to_ns - from_ns if pair.interpolated else 0
            _add_trace(part, pair, window_ns, from_ns, to_ns)

    def _pass_over(self, total_uj: int) -> None:
        """Tell nothing of what was used up to here: the running total begins here, or goes on where it was told."""
        if self.told:
            by_uj = self.base_uj - total_uj
            self.counter.total_uj += by_uj
            self.gauge.total_uj += by_uj
        else:
            self.base_uj = total_uj

    def _add_late(self, from_ns: int, to_ns: int, energy_uj: int) -> None:
        self.late_from_ns = from_ns if self.late_to_ns == 0 else min(self.late_from_ns, from_ns)
        self.late_to_ns = max(self.late_to_ns, to_ns)
        self.late_uj += energy_uj

    def _add_gap(self, gap: Gap, step_ns: int, closed_ns: int) -> None:
        for window_ns, from_ns, to_ns in windows_in(self._open_from(gap.start_ns, closed_ns), gap.end_ns, step_ns):
            gaps_ns = self._part(window_ns).gaps_ns
            gaps_ns[gap.code] = gaps_ns.get(gap.code, 0) + to_ns - from_ns
        if (gap.rejected_uj or gap.lower_bound_uj) and gap.end_ns >= self.since_ns:
            part = self._part(_window_of(gap.end_ns, step_ns, closed_ns))
            part.rejected_uj = min(part.rejected_uj + gap.rejected_uj, MOST_UJ)
            part.lower_bound_uj = min(part.lower_bound_uj + gap.lower_bound_uj, MOST_UJ)

    def _check_against(self, gauged: Pair | Gap | None, step_ns: int, closed_ns: int) -> None:
        """Keep the gauge's integral beside the counter."""
        if not isinstance(gauged, Pair):
            return
        for window_ns, from_ns, to_ns in windows_in(
            self._open_from(gauged.start_ns, closed_ns), gauged.end_ns, step_ns
        ):
            part = self._part(window_ns)
            part.gauge_uj += _energy_uj(gauged, from_ns, to_ns)
            part.gauge_ns += to_ns - from_ns

    def _note_gauges(self, reading: MeterReading, step_ns: int, closed_ns: int) -> None:
        if not reading.gauges or reading.at_ns < self.since_ns:
            return
        means = self._part(_window_of(reading.at_ns, step_ns, closed_ns)).gauges
        for name, value in reading.gauges.items():
            mean = means.get(name)
            if mean is None:
                mean = means[name] = Mean()
            mean.total += value
            mean.number += 1

    def _open_from(self, start_ns: int, closed_ns: int) -> int:
        """From when on something that began at `start_ns` belongs to windows that are open and tell of this meter."""
        return max(start_ns, closed_ns, self.since_ns)

    def _part(self, window_ns: int) -> MeterPart:
        part = self.parts.get(window_ns)
        if part is None:
            part = self.parts[window_ns] = MeterPart()
        return part


def uncovered(gaps_ns: dict[str, int], uncovered_ns: int, health: Health) -> dict[str, int]:
    """Uncovered time by reason: what no gap explains is put down to the last failure, or to no reading at all."""
    rest_ns = uncovered_ns - sum(gaps_ns.values())
    if rest_ns <= 0:
        return gaps_ns
    code = health.code if health.in_a_row else "no_reading"
    return {**gaps_ns, code: gaps_ns.get(code, 0) + rest_ns}


def _energy_uj(pair: Pair, from_ns: int, to_ns: int) -> int:
    """What was used between two instants inside the pair; most often these are its ends, where nothing is cut."""
    if from_ns == pair.start_ns and to_ns == pair.end_ns:
        return pair.last_uj - pair.first_uj
    return pair.total_at(to_ns) - pair.total_at(from_ns)


def _window_of(at_ns: int, step_ns: int, closed_ns: int) -> int:
    return max(at_ns - at_ns % step_ns, closed_ns)


def _add_trace(part: MeterPart, pair: Pair, window_ns: int, from_ns: int, to_ns: int) -> None:
    for cell_ns, start_ns, end_ns in windows_in(from_ns - window_ns, to_ns - window_ns, TRACE_STEP_NS):
        cell = part.cells.setdefault(cell_ns // TRACE_STEP_NS, Cell())
        cell.energy_uj += _energy_uj(pair, window_ns + start_ns, window_ns + end_ns)
        cell.covered_ns += end_ns - start_ns


def _trace(part: MeterPart, step_ns: int) -> tuple[int | None, ...]:
    cells = (part.cells.get(k) for k in range(-(-step_ns // TRACE_STEP_NS)))
    return tuple(int(coarse(uj_over_ns_to_mw(cell.energy_uj, cell.covered_ns))) if cell else None for cell in cells)
