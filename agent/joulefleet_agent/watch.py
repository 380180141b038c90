"""What a few seconds of reading show of a meter: its power, how often it moves, and whether two of them agree."""

from collections.abc import Iterable, Sequence

import msgspec

from joulefleet.describe import Meter
from joulefleet.reading import MeterReading, Reading
from joulefleet.units import mw_to_w, ns_to_s, uj_over_ns_to_mw

DIFFERENT = 0.2
"""Two figures of one thing that are further apart than this part differ; over a few seconds less tells nothing."""


class Seen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One meter over the time in which it was watched."""

    meter: str
    reads: int = 0
    """Reads that gave a value."""
    refresh_s: float | None = None
    """Mean time from one new value to the next; None where it moved less than twice."""
    counter_w: float | None = None
    """Mean power by the counter, between its first and its last move."""
    gauge_w: float | None = None
    """Mean of the gauge's values."""

    @property
    def power_w(self) -> float | None:
        """The better of the two."""
        return self.gauge_w if self.counter_w is None else self.counter_w


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Two figures of one thing over the same seconds."""

    subject: str
    one: str
    other: str
    one_w: float
    other_w: float

    @property
    def difference(self) -> float:
        """How much more the other says, as a part of the one."""
        return self.other_w / self.one_w - 1

    @property
    def agrees(self) -> bool:
        """Whether they are no further apart than a few seconds allow."""
        return abs(self.difference) <= DIFFERENT


class Course:
    """The values of one meter in the order of time."""

    def __init__(self) -> None:
        self._moves: list[tuple[int, int]] = []
        """Time and value where the counter, or the gauge where there is none, had moved; the first read is none."""
        self._last: int | None = None
        self._gauge: list[int] = []
        self._counts = False
        self._reads = 0

    def feed(self, reading: MeterReading, at_ns: int) -> None:
        """One more reading."""
        self._reads += 1
        if reading.power_mw is not None:
            self._gauge.append(reading.power_mw)
        self._counts = reading.counter_uj is not None
        value = reading.counter_uj if self._counts else reading.power_mw
        if value is not None and self._last is not None and value != self._last:
            self._moves.append((at_ns, value))
        self._last = value

    def seen(self, meter: str) -> Seen:
        """What it shows."""
        gauge_w = mw_to_w(sum(self._gauge) / len(self._gauge)) if self._gauge else None
        if len(self._moves) < 2:
            return Seen(meter=meter, reads=self._reads, gauge_w=gauge_w)
        (from_ns, first), (to_ns, last) = self._moves[0], self._moves[-1]
        rose = self._counts and last >= first
        return Seen(
            meter=meter,
            reads=self._reads,
            refresh_s=ns_to_s(to_ns - from_ns) / (len(self._moves) - 1),
            counter_w=mw_to_w(uj_over_ns_to_mw(last - first, to_ns - from_ns)) if rose else None,
            gauge_w=gauge_w,
        )


class Watch:
    """All meters of one source."""

    def __init__(self) -> None:
        self._courses: dict[str, Course] = {}

    def feed(self, readings: Iterable[Reading], at_ns: int) -> None:
        """What one read gave, and when."""
        for one in readings:
            if isinstance(one, MeterReading):
                self._courses.setdefault(one.meter, Course()).feed(one, at_ns)

    def seen(self) -> tuple[Seen, ...]:
        """Every meter that gave a value."""
        return tuple(course.seen(meter) for meter, course in self._courses.items())


def agreements(watched: Sequence[tuple[str, Meter, Seen]]) -> list[Agreement]:
    """Counters against the gauges beside them, and meters that show one device, each with its source's name."""
    found = [
        _compared(meter.id, f"{source} counter", f"{source} gauge", seen.counter_w, seen.gauge_w)
        for source, meter, seen in watched
    ]
    for k, (source, meter, seen) in enumerate(watched):
        for other_source, other, other_seen in watched[k + 1 :]:
            if meter.device and (meter.device, meter.kind) == (other.device, other.kind):
                found.append(_compared(meter.device, source, other_source, seen.power_w, other_seen.power_w))
    return [one for one in found if one is not None]


def _compared(subject: str, one: str, other: str, one_w: float | None, other_w: float | None) -> Agreement | None:
    if not one_w or other_w is None:
        return None
    return Agreement(subject=subject, one=one, other=other, one_w=one_w, other_w=other_w)
