"""What a server draws beside its accelerators: a constant, and its processors and memory as they are measured.

Each meter of the host is followed by the rules of all counters and gauges. The server's input is told at instants of
its own, often some seconds old, so the last few minutes of each meter are kept, and what it had used by such an instant
is interpolated between two of its readings.
"""

from collections import deque

from joulefleet import Meter, MeterReading
from joulefleet.counter import CounterTrack, Gap, GaugeTrack, Pair, Rules
from joulefleet.units import mw_ns_to_uj, uj_over_ns_to_mw

KEPT = 256
"""Pairs of readings of each meter: four minutes, at one a second."""


class Part:
    """One meter of the host."""

    def __init__(self, meter: Meter) -> None:
        self._rules = Rules.of(meter)
        self._counter, self._gauge = CounterTrack(), GaugeTrack()
        self._pairs: deque[Pair] = deque(maxlen=KEPT)
        self.lives = 0
        """Changes at each gap."""

    def feed(self, reading: MeterReading, at_ns: int) -> None:
        """What it said at an instant."""
        if reading.counter_uj is not None:
            told = self._counter.feed(self._rules, at_ns, reading.counter_uj, reading.epoch, reading.power_mw)
        else:
            told = self._gauge.feed(self._rules, at_ns, reading.power_mw or 0)
        if isinstance(told, Gap):
            self._pairs.clear()
            self.lives += 1
        elif told is not None:
            self._pairs.append(told)

    def pair_at(self, at_ns: int) -> Pair | None:
        """What is known of it around an instant; None where that is nothing, or nothing yet."""
        return next((pair for pair in reversed(self._pairs) if pair.start_ns <= at_ns <= pair.end_ns), None)


class HostShare:
    """The host as a constant and its measured parts."""

    def __init__(self, constant_mw: int, meters: tuple[Meter, ...] = ()) -> None:
        self.constant_mw = constant_mw
        self._parts = {meter.id: Part(meter) for meter in meters}

    @property
    def lives(self) -> int:
        """Changes at each gap of one of the parts."""
        return sum(part.lives for part in self._parts.values())

    def feed(self, reading: MeterReading, at_ns: int) -> None:
        """What one of the host's meters said at an instant; others are passed over."""
        if reading.meter in self._parts:
            self._parts[reading.meter].feed(reading, at_ns)

    def used_uj(self, at_ns: int) -> int | None:
        """The running total at an instant; None where it is not known of a part."""
        pairs = self._pairs_at(at_ns)
        if pairs is None:
            return None
        return mw_ns_to_uj(self.constant_mw * at_ns) + sum(pair.total_at(at_ns) for pair in pairs)

    def power_mw(self, at_ns: int) -> int | None:
        """The power around an instant; None where it is not known of a part."""
        pairs = self._pairs_at(at_ns)
        if pairs is None:
            return None
        used = [uj_over_ns_to_mw(pair.last_uj - pair.first_uj, pair.end_ns - pair.start_ns) for pair in pairs]
        return self.constant_mw + sum(used)

    def _pairs_at(self, at_ns: int) -> list[Pair] | None:
        pairs = [part.pair_at(at_ns) for part in self._parts.values()]
        known = [pair for pair in pairs if pair is not None]
        return known if len(known) == len(pairs) else None
