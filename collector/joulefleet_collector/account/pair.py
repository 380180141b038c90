"""Which engines pair whole at a boundary: all that is needed for their figure was covered."""

from joulefleet.window import MeterWindow
from joulefleet_collector.account.cover import Cover
from joulefleet_collector.account.residence import Residence
from joulefleet_collector.account.scene import Scene


def pair(cover: Cover, residence: Residence, scene: Scene) -> dict[int, int]:
    """Engines that pair, by number, with the least coverage (ns) among the engine and its meters."""
    return {
        number: min(scene.engines[number].covered_ns, *(m.covered_ns for m in needed(number, cover, residence)))
        for number in range(len(scene.engines))
        if _pairs(number, cover, residence, scene)
    }


def _pairs(number: int, cover: Cover, residence: Residence, scene: Scene) -> bool:
    if number in residence.unplaced or (cover.whole is None and number in residence.unmetered):
        return False
    together = {number} | neighbours(number, cover, residence)
    return all(scene.is_covered(scene.engines[engine]) for engine in together) and all(
        scene.is_covered(meter) for meter in needed(number, cover, residence)
    )


def neighbours(number: int, cover: Cover, residence: Residence) -> set[int]:
    """Engines with which this one shares a device; where there is no device, the server itself is shared by all."""
    if not cover.devices:
        return {engine for held in residence.everything for engine in held} - {number}
    return {engine for held in residence.everything if number in held for engine in held} - {number}


def needed(number: int, cover: Cover, residence: Residence) -> list[MeterWindow]:
    """Meters without which this engine has no figure."""
    if cover.whole is not None:
        return [cover.whole]
    own = [device for device, held in zip(cover.devices, residence.seats, strict=True) if number in held]
    return own + list(cover.rest)
