"""Cuts the readings of one engine into windows: its counters by key, its running requests, its latencies."""

import msgspec

from joulefleet.describe import Engine
from joulefleet.latency import onto_grid
from joulefleet.reading import COUNT_FIELDS, TIME_FIELDS, Counts, Histogram, WorkKey, WorkReading
from joulefleet.window import NOTHING, EngineWindow, Work
from joulefleet_agent.meter_cut import Health, uncovered
from joulefleet_agent.spread import Stretch, windows_in

MAX_KEYS = 128
"""Keys (model, revision, tenant) that one engine may have; what more it names is counted together under OVERFLOW."""
OVERFLOW = WorkKey("__overflow__", "", "__overflow__")

MOST_COUNTED = 10**15
"""Tokens or requests beyond it are an error: a server with a million tokens a second has as many after thirty years."""
MOST_BUSY_NS = 10**18
"""Thirty years."""
MOST_IN_HAND = 10**6
"""Requests that run or wait at once."""
MOST_ADDED = 2**62
"""Windows hold integers of 64 bits; counts that leap to and fro may add up to more."""

Tally = dict[str, int]
"""Change of each counter that is known, by field of Counts."""
COUNTED_FIELDS = tuple(name for name in COUNT_FIELDS if name not in TIME_FIELDS)
Latency = dict[str, Histogram]


class EnginePart(msgspec.Struct):
    """What is known so far of one engine in one window that is still open."""

    counts: dict[WorkKey, Tally] = {}
    latency: dict[WorkKey, Latency] = {}
    covered_ns: int = 0
    restarts: int = 0
    running_start: int | None = None
    running_end: int | None = None
    running_ns: int | None = None
    queued_ns: int | None = None
    version: str = ""


class EngineCut(msgspec.Struct):
    """Everything that the cutter holds of one engine between two readings."""

    engine: Engine
    since_ns: int
    until_ns: int = 0
    last: WorkReading | None = None
    """The last reading, with the counters of keys that its page no longer names."""
    health: Health = msgspec.field(default_factory=Health)
    late: dict[WorkKey, Tally] = {}
    parts: dict[int, EnginePart] = {}
    version: str = ""
    coming: list[tuple[int, Engine]] = []
    """How it is declared from later edges on: its counters are the same, and are followed through."""

    @property
    def declared(self) -> Engine:
        """As it is declared by now."""
        return self.coming[-1][1] if self.coming else self.engine

    @property
    def known_until_ns(self) -> int:
        """The latest instant up to which this engine's work is settled."""
        return self.last.at_ns if self.last else -1

    @property
    def owes(self) -> bool:
        """Whether there are counts that the next window has to tell as late."""
        return any(any(tally.values()) for tally in self.late.values())

    def feed(self, reading: WorkReading, step_ns: int, closed_ns: int) -> None:
        """One reading, not earlier than those before it; earlier ones are dropped."""
        self.health.succeed()
        before = self.last
        if before is not None and reading.at_ns <= before.at_ns:
            return
        self.version = reading.version or self.version
        if before is None:
            self.last = _bounded(reading, None)
            return
        anew = _began_anew(before, reading)
        whole = _another_process(before, reading) or (bool(anew) and anew == {*reading.counts})
        reading = _bounded(reading, None if whole else before)
        self.last = reading if whole else _keeping_absent(before, reading)
        self._spread(before, reading, {*reading.counts} if whole else anew, step_ns, closed_ns)
        if (whole or anew) and reading.at_ns >= self.since_ns:
            self._part(max(reading.at_ns - reading.at_ns % step_ns, closed_ns)).restarts += 1

    def become(self, engine: Engine, from_ns: int) -> None:
        """It is declared otherwise from this edge on: it runs on other devices, or in another group."""
        self.coming = [*(one for one in self.coming if one[0] < from_ns), (from_ns, engine)]

    def close(self, start_ns: int, step_ns: int) -> EngineWindow:
        """The engine's account of the window that starts here; called once per window, in order."""
        while self.coming and self.coming[0][0] <= start_ns:
            _, self.engine = self.coming.pop(0)
        part = self.parts.pop(start_ns, EnginePart())
        late, self.late = self.late, {}
        engine = msgspec.structs.replace(self.engine, version=part.version or self.version or self.engine.version)
        return EngineWindow(
            engine=engine,
            work=tuple(self._work(key, part, late) for key in self._keys(part, late)),
            covered_ns=part.covered_ns,
            restarts=part.restarts,
            gaps_ns=uncovered({}, step_ns - part.covered_ns, self.health),
            running_start=part.running_start,
            running_end=part.running_end,
            running_ns=part.running_ns,
            queued_ns=part.queued_ns,
        )

    def shift(self, by_ns: int) -> None:
        """Move to a new timeline whose clock differs by so much."""
        if self.last is not None:
            self.last = msgspec.structs.replace(self.last, at_ns=self.last.at_ns + by_ns)

    def _keys(self, part: EnginePart, late: dict[WorkKey, Tally]) -> list[WorkKey]:
        known = self.last.counts.keys() if self.last else ()
        return sorted({*known, *part.counts, *part.latency, *late})

    def _work(self, key: WorkKey, part: EnginePart, late: dict[WorkKey, Tally]) -> Work:
        """The key's counts: 0 where the engine counts something and nothing happened, None where that is not known."""
        known = self.last.counts.get(key) if self.last and part.covered_ns else None
        counted = [name for name in COUNT_FIELDS if known is not None and getattr(known, name) is not None]
        counts = {**dict.fromkeys(counted, 0), **part.counts.get(key, {})}
        cells = {kind: onto_grid(_edges(buckets)) for kind, buckets in part.latency.get(key, {}).items()}
        missed = Counts(**late[key]) if key in late else NOTHING
        return Work(key=key, counts=Counts(**counts), late=missed, latency=cells)

    def _spread(
        self, before: WorkReading, after: WorkReading, anew: set[WorkKey], step_ns: int, closed_ns: int
    ) -> None:
        change = _Change.between(before, after, anew)
        start_ns, end_ns = before.at_ns, after.at_ns
        # What was done in windows that do not declare it is as late as what belongs to those that are closed.
        settled_ns = max(closed_ns, self.since_ns)
        if start_ns < min(settled_ns, end_ns):
            late_until_ns = min(end_ns, settled_ns)
            change.add_counts(self.late, start_ns, late_until_ns)
            # Latencies have no late form: the first open window takes them, so that none is lost.
            change.add_latency(self._part(settled_ns).latency, start_ns, late_until_ns)
            start_ns = late_until_ns
        if start_ns < settled_ns:
            return
        for window_ns, from_ns, to_ns in windows_in(start_ns, end_ns, step_ns):
            part = self._part(window_ns)
            change.add_counts(part.counts, from_ns, to_ns)
            change.add_latency(part.latency, from_ns, to_ns)
            change.add_queue(part, from_ns, to_ns)
            part.covered_ns += to_ns - from_ns
            part.version = after.version or part.version
            if from_ns == window_ns:
                part.running_start = change.in_flight_at(from_ns)
            if to_ns == window_ns + step_ns:
                part.running_end = change.in_flight_at(to_ns)

    def _part(self, window_ns: int) -> EnginePart:
        return self.parts.setdefault(window_ns, EnginePart())


class _Change(msgspec.Struct):
    """What changed between two readings, to be shared out over the windows between them."""

    stretch: Stretch
    tallies: dict[WorkKey, Tally]
    latency: dict[WorkKey, Latency]
    running: tuple[int, int] | None
    queued: tuple[int, int] | None

    @classmethod
    def between(cls, before: WorkReading, after: WorkReading, anew: set[WorkKey]) -> "_Change":
        return cls(
            stretch=Stretch(before.at_ns, after.at_ns),
            tallies={key: _change(before.counts.get(key), counts, key in anew) for key, counts in after.counts.items()},
            latency={key: _latency_change(before, key, kinds, key in anew) for key, kinds in after.latency.items()},
            running=_both(before.running, after.running),
            queued=_both(before.queued, after.queued),
        )

    def add_counts(self, into: dict[WorkKey, Tally], from_ns: int, to_ns: int) -> None:
        for key, tally in self.tallies.items():
            target = into.setdefault(key, {})
            for name, change in tally.items():
                target[name] = min(target.get(name, 0) + self.stretch.part(change, from_ns, to_ns), MOST_ADDED)

    def add_latency(self, into: dict[WorkKey, Latency], from_ns: int, to_ns: int) -> None:
        for key, kinds in self.latency.items():
            for kind, buckets in kinds.items():
                target = into.setdefault(key, {}).setdefault(kind, {})
                for edge, change in buckets.items():
                    # An empty bucket stays: it tells where the next one begins.
                    target[edge] = min(target.get(edge, 0) + self.stretch.part(change, from_ns, to_ns), MOST_ADDED)

    def add_queue(self, part: EnginePart, from_ns: int, to_ns: int) -> None:
        """Running and queued requests run straight between two readings; their integral is a trapezoid."""
        if self.running is not None:
            part.running_ns = (part.running_ns or 0) + self._integral(self.running, from_ns, to_ns)
        if self.queued is not None:
            part.queued_ns = (part.queued_ns or 0) + self._integral(self.queued, from_ns, to_ns)

    def in_flight_at(self, at_ns: int) -> int | None:
        """Running and queued requests at an instant."""
        if self.running is None:
            return None
        queued = self.stretch.at(*self.queued, at_ns) if self.queued is not None else 0
        return self.stretch.at(*self.running, at_ns) + queued

    def _integral(self, values: tuple[int, int], from_ns: int, to_ns: int) -> int:
        return (self.stretch.at(*values, from_ns) + self.stretch.at(*values, to_ns)) * (to_ns - from_ns) // 2


def _both(first: int | None, last: int | None) -> tuple[int, int] | None:
    return None if first is None or last is None else (first, last)


def _another_process(before: WorkReading, after: WorkReading) -> bool:
    return bool(before.epoch and after.epoch and before.epoch != after.epoch)


def _began_anew(before: WorkReading, after: WorkReading) -> set[WorkKey]:
    """Keys of which any counter decreased: they began at 0 since.

    A page may gather several processes, of which one began anew: the others must not be counted twice.
    """
    return {key for key, counts in after.counts.items() if key in before.counts and _fell(before.counts[key], counts)}


def _fell(was: Counts, now: Counts) -> bool:
    """Whether a counter decreased; busy time alone is no sign, since a source that works it out begins at 0 itself."""
    values = ((getattr(now, name), getattr(was, name)) for name in COUNT_FIELDS if name not in TIME_FIELDS)
    return any(value is not None and old is not None and value < old for value, old in values)


def _keeping_absent(before: WorkReading, after: WorkReading) -> WorkReading:
    """The later reading, with keys that only the earlier one named: a series that reappears is not counted anew."""
    return msgspec.structs.replace(
        after, counts={**before.counts, **after.counts}, latency={**before.latency, **after.latency}
    )


def _bounded(reading: WorkReading, before: WorkReading | None) -> WorkReading:
    """The reading with no more keys than MAX_KEYS: those known before stay, what is new beyond is summed.

    Keys that the page no longer names keep their place, so that none ever moves out of the sum, to be counted twice.
    """
    known = before.counts if before is not None else {}
    if OVERFLOW not in known and len({*known, *reading.counts}) <= MAX_KEYS:
        return reading
    fresh = sorted(key for key in reading.counts if key not in known)
    own = {*known, *fresh[: max(MAX_KEYS - 1 - len(known), 0)]} - {OVERFLOW}
    counts = {key: item for key, item in reading.counts.items() if key in own}
    beyond = _sum_counts([item for key, item in reading.counts.items() if key not in own])
    counts[OVERFLOW] = _not_below(known.get(OVERFLOW, Counts()), beyond)
    return msgspec.structs.replace(
        reading, counts=counts, latency={key: kinds for key, kinds in reading.latency.items() if key in own}
    )


def _sum_counts(several: list[Counts]) -> Counts:
    def total(name: str) -> int | None:
        known = [value for one in several if (value := getattr(one, name)) is not None]
        return sum(known) if known else None

    return Counts(**{name: total(name) for name in COUNT_FIELDS})


def _not_below(old: Counts, now: Counts) -> Counts:
    """The greater of each count: a sum falls when a key in it is no longer named, and nothing began anew."""
    pairs = ((name, getattr(old, name), getattr(now, name)) for name in COUNT_FIELDS)
    return Counts(**{name: now if was is None else max(was, now or 0) for name, was, now in pairs})


def _change(was: Counts | None, now: Counts, anew: bool) -> Tally:
    """Change of each known counter. What was absent before, in an epoch that was being watched, stood at 0."""
    tally: Tally = {}
    for name in COUNT_FIELDS:
        value = getattr(now, name)
        if value is not None:
            old = (None if anew or was is None else getattr(was, name)) or 0
            tally[name] = value if name in TIME_FIELDS and value < old else value - old
    return tally


def _latency_change(before: WorkReading, key: WorkKey, kinds: Latency, anew: bool) -> Latency:
    was = {} if anew else before.latency.get(key, {})
    return {
        kind: {edge: max(number - was.get(kind, {}).get(edge, 0), 0) for edge, number in buckets.items()}
        for kind, buckets in kinds.items()
    }


def _edges(buckets: Histogram) -> dict[float, int]:
    return {float(edge): number for edge, number in buckets.items()}


def is_plausible(reading: WorkReading) -> bool:
    """Whether an engine can have done so much: a window could not hold it, and any program may show such a page."""
    counted = [count for kinds in reading.latency.values() for one in kinds.values() for count in one.values()]
    counted += [getattr(one, name) or 0 for one in reading.counts.values() for name in COUNTED_FIELDS]
    busy_ns = (getattr(one, name) or 0 for one in reading.counts.values() for name in TIME_FIELDS)
    in_hand = (reading.running or 0, reading.queued or 0)
    bounds = ((counted, MOST_COUNTED), (busy_ns, MOST_BUSY_NS), (in_hand, MOST_IN_HAND))
    return all(0 <= one <= most for several, most in bounds for one in several)
