"""Why an engine does not pair in a window: everything that `account.pair` asks for and that is not there."""

from collections.abc import Iterator

import msgspec

from joulefleet.units import ns_to_s
from joulefleet.window import EngineWindow, MeterWindow
from joulefleet_collector.account.books import Books
from joulefleet_collector.account.cover import Cover
from joulefleet_collector.account.pair import needed, neighbours
from joulefleet_collector.account.residence import Residence
from joulefleet_collector.account.scene import Scene


class Obstacle(msgspec.Struct, frozen=True, kw_only=True):
    """One thing for which an engine's energy and work stand apart in a window."""

    code: str
    """`unplaced` (nobody has told on which devices it runs), `unmetered_device` (it runs on one that no meter of the
    boundary measures), or what was covered too little: `engine`, `neighbour` (an engine that shares a device with it),
    `meter`."""
    subject: str
    """Id of the engine or meter."""
    covered_s: float
    needed_s: float
    gaps_s: dict[str, float]
    """Missing time by reason."""


def obstacles(number: int, books: Books, scene: Scene) -> list[Obstacle]:
    """All that keeps this engine from pairing; none where it pairs."""
    return list(_obstacles(number, books.cover, books.residence, scene))


def _obstacles(number: int, cover: Cover, residence: Residence, scene: Scene) -> Iterator[Obstacle]:
    engines = scene.engines
    if number in residence.unplaced:
        yield _told("unplaced", engines[number], scene)
    if cover.whole is None and number in residence.unmetered:
        yield _told("unmetered_device", engines[number], scene)
    if not scene.is_covered(engines[number]):
        yield _told("engine", engines[number], scene)
    for other in sorted(neighbours(number, cover, residence)):
        if not scene.is_covered(engines[other]):
            yield _told("neighbour", engines[other], scene)
    for meter in needed(number, cover, residence):
        if not scene.is_covered(meter):
            yield _told("meter", meter, scene)


def _told(code: str, thing: MeterWindow | EngineWindow, scene: Scene) -> Obstacle:
    return Obstacle(
        code=code,
        subject=thing.meter.id if isinstance(thing, MeterWindow) else thing.engine.id,
        covered_s=ns_to_s(thing.covered_ns),
        needed_s=scene.policy.pair_threshold * ns_to_s(scene.step_ns),
        gaps_s={code: ns_to_s(gap_ns) for code, gap_ns in thing.gaps_ns.items()},
    )
