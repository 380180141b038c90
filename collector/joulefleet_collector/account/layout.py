"""What accounting decides from declarations alone: the meters of each boundary, who holds what, and tags of rows.

Servers declare the same from window to window, so that whoever accounts many windows decides it once.
"""

from collections.abc import Sequence

import msgspec

from joulefleet.describe import Engine, Meter
from joulefleet.window import MeterWindow
from joulefleet_collector.account.cover import Cover, covers
from joulefleet_collector.account.identity import Tags, engine_tags
from joulefleet_collector.account.residence import Residence, reside


class Declared(msgspec.Struct, frozen=True):
    """The declarations of a window, meters and engines sorted by id; fronts hold nothing and are not among these."""

    meters: tuple[Meter, ...]
    engines: tuple[Engine, ...]
    step_ns: int
    hardware: str
    """The server's name for its own."""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A cover that tells its meters by place."""

    boundary: str
    devices: tuple[int, ...]
    rest: tuple[int, ...]
    whole: int | None
    parts: tuple[int, ...]

    def of(self, readings: Sequence[MeterWindow]) -> Cover:
        """The cover with these readings at their places."""
        return Cover(
            boundary=self.boundary,
            devices=tuple([readings[place] for place in self.devices]),
            rest=tuple([readings[place] for place in self.rest]),
            whole=None if self.whole is None else readings[self.whole],
            parts=tuple([readings[place] for place in self.parts]),
        )


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from declarations."""

    covers: tuple[Placed, ...]
    residences: tuple[Residence, ...]
    """By cover."""
    tags: tuple[Tags, ...]
    """Of each engine's rows, by number."""


def layout_of(declared: Declared) -> Layout:
    """The layout of windows with these declarations."""
    # Readings without numbers: what is decided from them depends on nothing else.
    readings = [MeterWindow(meter=meter) for meter in declared.meters]
    found = covers(readings, declared.step_ns)
    return Layout(
        covers=tuple(_placed(cover, readings) for cover in found),
        residences=_residences(found, declared),
        tags=tuple(engine_tags(engine, readings, declared.hardware, found) for engine in declared.engines),
    )


def _residences(found: Sequence[Cover], declared: Declared) -> tuple[Residence, ...]:
    # Most boundaries have the same devices, and so the same residence, which then finds its seats once for all.
    by_devices: dict[tuple[str, ...], Residence] = {}
    residences = []
    for cover in found:
        devices = tuple(device.meter.id for device in cover.devices)
        if devices not in by_devices:
            by_devices[devices] = reside(cover, declared.engines, declared.meters)
        residences.append(by_devices[devices])
    return tuple(residences)


def _placed(cover: Cover, readings: Sequence[MeterWindow]) -> Placed:
    places = {id(reading): place for place, reading in enumerate(readings)}
    return Placed(
        boundary=cover.boundary,
        devices=tuple(places[id(reading)] for reading in cover.devices),
        rest=tuple(places[id(reading)] for reading in cover.rest),
        whole=None if cover.whole is None else places[id(cover.whole)],
        parts=tuple(places[id(reading)] for reading in cover.parts),
    )
