"""Which engine holds how much of which device."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from math import lcm

import msgspec

from joulefleet.describe import SOMEWHERE, WHOLE, Engine, Meter
from joulefleet.topology import ancestors
from joulefleet_collector.account.cover import Cover

Held = dict[int, Fraction]
"""Reserved part of one thing by number of the engine; together at most 1."""
SERVER_ITSELF = ""


class Seat(msgspec.Struct, frozen=True):
    """Who holds which part of one thing, in whole numbers of one size."""

    engines: tuple[int, ...]
    """By number, in their order."""
    parts: tuple[int, ...]
    free: int
    """What nobody holds."""

    @property
    def is_sole(self) -> bool:
        """Whether one engine holds all of it."""
        return len(self.engines) == 1 and not self.free


def seat_of(held: Held) -> Seat:
    """The same parts in whole numbers, which are quicker to share by than fractions."""
    whole = lcm(*(part.denominator for part in held.values()))
    engines = tuple(sorted(held))
    parts = tuple(int(held[engine] * whole) for engine in engines)
    return Seat(engines, parts, whole - sum(parts))


class Residence(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Where the engines of a window are, as one boundary sees it. What is asked of it twice is found once."""

    seats: tuple[Held, ...]
    """Of each device of the cover, in its order."""
    elsewhere: tuple[Held, ...]
    """Of accelerators that no meter of the cover measures; where there is no device at all, of the server itself."""
    unmetered: frozenset[int]
    """Engines that name an accelerator which no meter of the cover measures."""
    unplaced: frozenset[int] = frozenset()
    """Engines of which nobody has told where they are: they hold nothing, and have no figure."""

    @property
    def everything(self) -> tuple[Held, ...]:
        """All things on which an engine may hold a part."""
        return self.seats + self.elsewhere

    @cached_property
    def by_device(self) -> tuple[Seat, ...]:
        """The seats in whole numbers."""
        return tuple(map(seat_of, self.seats))

    @cached_property
    def together(self) -> Held:
        """How many accelerators each engine holds, parts of them added up; of a server without any, of the server."""
        held: Held = {}
        for seat in self.everything:
            for engine, part in seat.items():
                held[engine] = held.get(engine, Fraction(0)) + part
        return held

    @cached_property
    def of_server(self) -> Seat:
        """Part of the server that each engine holds: the mean over its accelerators."""
        return seat_of({engine: part / len(self.everything) for engine, part in self.together.items()})


def reside(cover: Cover, engines: Sequence[Engine], declared: Sequence[Meter]) -> Residence:
    """Where the engines are. Those that name no device share all of them equally; what is reserved more than once
    over is shared in proportion."""
    by_id = {meter.id: meter for meter in declared}
    devices = {device.meter.id: device.meter for device in cover.devices}
    asked: dict[str, Held] = {device: {} for device in devices}
    for number, engine in enumerate(engines):
        for device, part in _wishes(engine, devices, by_id):
            held = asked.setdefault(device, {})
            held[number] = held[number] + part if number in held else part
    if not asked:
        asked[SERVER_ITSELF] = {}
    _seat_everywhere(asked, [number for number, engine in enumerate(engines) if not engine.devices])
    return Residence(
        seats=tuple(_at_most_whole(asked[device.meter.id]) for device in cover.devices),
        elsewhere=tuple(_at_most_whole(held) for name, held in asked.items() if name not in devices),
        unmetered=frozenset(
            number for name, held in asked.items() if name not in devices and name != SERVER_ITSELF for number in held
        ),
        unplaced=frozenset(number for number, engine in enumerate(engines) if _is_somewhere(engine)),
    )


def _seat_everywhere(asked: dict[str, Held], everywhere: list[int]) -> None:
    for held in asked.values():
        held.update((number, Fraction(1, len(everywhere))) for number in everywhere)


def _wishes(engine: Engine, devices: dict[str, Meter], declared: dict[str, Meter]) -> Iterator[tuple[str, Fraction]]:
    """Id of each device that an engine names, as the cover knows it, and the part of it that the engine asks for."""
    for reservation in () if _is_somewhere(engine) else engine.devices:
        name, slice_of = _whole(reservation.meter, declared)
        named = declared.get(name)
        found = [] if named is None else [(d.id, _pieces(d, named, declared)) for d in _of(named, devices, declared)]
        for device, pieces in found or [(name, 1)]:
            yield device, slice_of * Fraction(reservation.share_ppm, WHOLE * pieces)


def _is_somewhere(engine: Engine) -> bool:
    return any(reservation.meter == SOMEWHERE for reservation in engine.devices)


def _whole(name: str, declared: dict[str, Meter]) -> tuple[str, Fraction]:
    """The meter that a name stands for, and which part of it: a slice has no meter of its own."""
    if name not in declared:
        for meter in declared.values():
            slots = next((each.slots for each in meter.slices if each.id == name), 0)
            if 0 < slots <= meter.slots:
                return meter.id, Fraction(slots, meter.slots)
    return name, Fraction(1)


def _of(named: Meter, devices: dict[str, Meter], declared: dict[str, Meter]) -> list[Meter]:
    """Devices of the cover that measure the named one: itself, another source of it, its whole, or its parts."""
    if named.id in devices:
        return [devices[named.id]]
    same = [device for device in devices.values() if named.device and device.device == named.device]
    if same:
        return same
    around = ancestors(named, declared)
    related = [each for each in devices.values() if each.id in around or named.id in ancestors(each, declared)]
    holders = [each for each in devices.values() if named.kind in each.contains]
    return related or (holders if len(holders) == 1 else [])


def _pieces(device: Meter, named: Meter, declared: dict[str, Meter]) -> int:
    """How many meters like the named one lie inside the device: whoever reserves one of seven holds a seventh."""
    if named.id == device.id or device.id not in ancestors(named, declared):
        return 1
    return sum(
        meter.kind == named.kind and meter.inside == named.inside and device.id in ancestors(meter, declared)
        for meter in declared.values()
    )


def _at_most_whole(held: Held) -> Held:
    parts = list(held.values())
    total = sum(parts[1:], parts[0]) if parts else 0
    return {number: part / total for number, part in held.items()} if total > 1 else held
