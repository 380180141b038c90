"""What a relay holds: the latest readings of its sources, and which server may have which of them.

Pure: it is fed what the sources said and is asked what a server shall be told. Readings are kept for a while, so that
an agent that could not ask for so long loses nothing.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

import msgspec

from joulefleet.describe import Engine, Meter
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet.relaying import Answer
from joulefleet.units import s_to_ns

KEPT_NS = s_to_ns(900)
MOST_KEPT = 5_000
"""Readings of one source, some 2 MB."""


class Kept(msgspec.Struct, frozen=True):
    """One reading, its place among all, and when it was true, by the boot clock."""

    number: int
    taken_ns: int
    reading: MeterReading


class Shelf:
    """One source: what it declares, what it said, and what it cannot say at present."""

    def __init__(self, name: str, kept_ns: int) -> None:
        self.name = name
        self._kept_ns = kept_ns
        self.meters: tuple[Meter, ...] = ()
        self.kept: deque[Kept] = deque(maxlen=MOST_KEPT)
        self.failing: dict[str, Failure] = {}
        """By meter; the empty one stands for a source that is not open."""

    def declare(self, declares: Sequence[Meter | Engine]) -> None:
        """The source was opened. Ids begin with the source's name: two sources may have a meter of one id."""
        own = {one.id for one in declares}
        self.meters = tuple(
            msgspec.structs.replace(
                one, id=self.named(one.id), inside=self.named(one.inside) if one.inside in own else one.inside
            )
            for one in declares
            if isinstance(one, Meter)
        )
        self.failing.clear()

    def close(self, failure: Failure) -> None:
        """The source could not be opened."""
        self.failing = {"": msgspec.structs.replace(failure, detail=f"{self.name}: {failure.detail}")}

    def fail(self, failure: Failure) -> None:
        """One meter, or each of them, has no value."""
        for meter in [self.named(failure.subject)] if failure.subject else [one.id for one in self.meters]:
            self.failing[meter] = msgspec.structs.replace(failure, subject=meter)

    def keep(self, number: int, taken_ns: int, reading: MeterReading) -> None:
        """One reading more; those that are too old go."""
        # What else a reading may tell is of the machine on which it was read, such as its processes.
        named = MeterReading(
            meter=self.named(reading.meter),
            counter_uj=reading.counter_uj,
            power_mw=reading.power_mw,
            epoch=reading.epoch,
            gauges=reading.gauges,
        )
        self.failing.pop(named.meter, None)
        self.kept.append(Kept(number, taken_ns, named))
        while self.kept[0].taken_ns < taken_ns - self._kept_ns:
            self.kept.popleft()

    def after(self, number: int) -> Iterator[Kept]:
        """Readings with a higher number, the last one first."""
        return takewhile(lambda one: one.number > number, reversed(self.kept))

    def named(self, meter: str) -> str:
        """A meter's id as agents know it."""
        return f"{self.name}/{meter}"


Right = Mapping[str, frozenset[str]]
"""Sources that a server may have, each with the ids of its meters as the source has them; none of them means all."""


class Desk:
    """All shelves, and who may have what. For one thread at a time."""

    def __init__(self, sources: Sequence[str], rights: Mapping[str, Right], life: str, kept_ns: int = KEPT_NS) -> None:
        self._shelves = {name: Shelf(name, kept_ns) for name in sources}
        self._rights = rights
        self._life = life
        self._number = 0

    def declare(self, source: str, declares: Sequence[Meter | Engine]) -> list[str]:
        """A source was opened. Returns the meters that servers shall have of it and that it does not have."""
        self._shelves[source].declare(declares)
        there = {one.id for one in declares if isinstance(one, Meter)}
        wanted = [right[source] for right in self._rights.values() if source in right]
        return sorted(set().union(*wanted) - there)

    def close(self, source: str, failure: Failure) -> None:
        """A source is not open, for this reason."""
        self._shelves[source].close(failure)

    def feed(self, source: str, readings: Sequence[Reading], read_ns: int, ahead_ns: int) -> None:
        """What a source said at this instant of the boot clock; wall time is ahead of that clock by so much."""
        shelf = self._shelves[source]
        for reading in readings:
            if isinstance(reading, Failure):
                shelf.fail(reading)
            elif isinstance(reading, MeterReading):
                self._number += 1
                taken_ns = reading.at_ns - ahead_ns if reading.at_ns else read_ns - reading.age_ns
                shelf.keep(self._number, taken_ns, reading)

    def serves(self, server: str) -> bool:
        """Whether there is anything for this server."""
        return server in self._rights

    def answer(self, server: str, life: str, since: int, now_ns: int) -> Answer:
        """What this server is told: all readings after the last one it was told of."""
        after = since if life == self._life else 0
        parts = list(self._parts(server))
        kept = [one for shelf, ids in parts for one in shelf.after(after) if one.reading.meter in ids]
        kept.sort(key=lambda one: one.number)
        return Answer(
            life=self._life,
            at_ns=now_ns,
            number=self._number,
            meters=tuple(one for shelf, ids in parts for one in shelf.meters if one.id in ids),
            readings=tuple(_aged(one, now_ns) for one in kept),
            failures=tuple(
                one for shelf, ids in parts for meter, one in shelf.failing.items() if not meter or meter in ids
            ),
        )

    def _parts(self, server: str) -> Iterator[tuple[Shelf, frozenset[str]]]:
        """The shelves that this server may have something of, each with the ids of those meters."""
        for name, wanted in self._rights.get(server, {}).items():
            shelf = self._shelves[name]
            there = frozenset(one.id for one in shelf.meters)
            yield shelf, there & {shelf.named(one) for one in wanted} if wanted else there


def _aged(kept: Kept, now_ns: int) -> MeterReading:
    return msgspec.structs.replace(kept.reading, age_ns=max(now_ns - kept.taken_ns, 0))
