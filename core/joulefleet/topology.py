"""Which meters make up each boundary, so that no joule is counted twice, and why the others are left out.

Decided from declarations alone, failing meters included: one that gives no value lowers coverage and never moves a
boundary.

Theory. Meters of one kind and one `device` are one thing, told by several sources. A thing lies inside another where a
declaration names it (`inside`), or else where the other contains its kind; but where a whole is told by id which things
of a kind it holds, it holds no others of that kind. A boundary takes the topmost things of its kinds, each by its best
meter: grade first, then class of sensor, then id. A whole that `adds_up` gives way to its parts where these are known
by no worse grade. Declarations may be rubbish: in a circle the best meter is taken to be the outermost.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import msgspec

from joulefleet.describe import GRADES, SENSOR_CLASSES, Kind, Meter
from joulefleet.units import mw_ns_to_uj

DEVICE_KINDS: tuple[Kind, ...] = ("accelerator", "module")
COMPUTE_KINDS: tuple[Kind, ...] = (*DEVICE_KINDS, "cpu_package", "dram")
PART_KINDS: tuple[Kind, ...] = (*COMPUTE_KINDS, "cpu_core")
HOST_KINDS: tuple[Kind, ...] = ("cpu_package", "cpu_core", "dram", "psys")
BY_DEFINITION: dict[Kind, tuple[Kind, ...]] = {"host": HOST_KINDS, "server": (*DEVICE_KINDS, *HOST_KINDS, "host")}
"""What a kind holds whether it is declared or not."""
CONCERNED: dict[str, tuple[Kind, ...]] = {
    "accelerator": DEVICE_KINDS,
    "compute": (*COMPUTE_KINDS, "cpu_core", "psys"),
    "server": (*DEVICE_KINDS, *HOST_KINDS, "host", "server", "enclosure"),
}
"""Kinds of which a reader may ask at each boundary why they are not in it."""
COARSE_PARTS = 50
"""A counter with fewer steps than this at full power in a window (2 %) is a cross-check only."""

Thing = tuple[Kind, str, str]
"""What meters measure: the kind, and the device, or the one meter's id where it names no device."""


class Cover(msgspec.Struct, frozen=True, kw_only=True):
    """Meters that do not overlap and together measure one boundary."""

    boundary: str
    devices: tuple[Meter, ...] = ()
    """Accelerators and modules, on which engines hold reservations."""
    rest: tuple[Meter, ...] = ()
    """What is measured beside the devices: CPU packages, memory, or the host as one."""
    whole: Meter | None = None
    """One meter that measures all of it; `devices` then only say how to split its energy."""
    parts: tuple[Meter, ...] = ()
    """At `server`: every meter of which it is known that it measures a part."""

    @property
    def meters(self) -> tuple[Meter, ...]:
        """Those whose sum is the energy of the boundary."""
        return (self.whole,) if self.whole is not None else self.devices + self.rest


class LeftOut(msgspec.Struct, frozen=True):
    """A meter whose energy is not in a boundary's sum, and why."""

    boundary: str
    """Empty where the meter is at no boundary at all."""
    meter: str
    code: str
    """`part_of`, `second_source_of` or `holds` another meter; `coarse`, `residual`; `not_apart`, a module whose
    accelerators no meter tells apart from its CPUs; `at_no_boundary`."""
    of: str = ""
    """Id of the other meter."""


class Topology(msgspec.Struct, frozen=True):
    """The cover of each boundary that the meters can tell, and every meter that is left out of one."""

    covers: tuple[Cover, ...]
    left_out: tuple[LeftOut, ...]


class Comparisons(msgspec.Struct, frozen=True):
    """Meters that have to agree with one another, by id."""

    twins: tuple[tuple[str, str], ...]
    """Two meters of one thing, the better one first."""
    parts: tuple[tuple[str, tuple[str, ...]], ...]
    """A whole, and meters inside it that do not overlap: their sum is never more."""


def topology(meters: Iterable[Meter], step_ns: int) -> Topology:
    """What these declarations make of each boundary, in windows of this length."""
    tree = Tree(meters, step_ns)
    found = _covers(tree)
    return Topology(found, tuple(_left_out(tree, found)))


def covers(meters: Iterable[Meter], step_ns: int) -> tuple[Cover, ...]:
    """The cover of each boundary, without the reasons of those that are left out."""
    return _covers(Tree(meters, step_ns))


def comparisons(meters: Iterable[Meter], step_ns: int) -> Comparisons:
    """What has to agree; only what is measured by a counter or a gauge is compared."""
    tree = Tree(meters, step_ns)
    usable = [meter for meter in tree.fine if meter.grade in ("counter", "integrated")]
    best = tree.best(usable)
    others = ((best[tree.thing[one.id]], one) for one in usable)
    # What names the better one as its whole may be a part of the same thing, and tell less.
    twins = ((first.id, one.id) for first, one in others if first.id not in {one.id} | ancestors(one, tree.by_id))
    parts = {thing: meter for thing, meter in best.items() if thing[0] in PART_KINDS}
    wholes = []
    for one in usable:
        inner = {thing: meter for thing, meter in parts.items() if tree.thing[one.id] in tree.above[thing]}
        top = tuple(meter.id for thing, meter in inner.items() if not tree.above[thing] & inner.keys())
        wholes += [(one.id, tuple(sorted(top)))] if top else []
    return Comparisons(tuple(twins), tuple(wholes))


def is_coarse(meter: Meter, step_ns: int) -> bool:
    """Whether the counter's steps are too large for windows of this length."""
    most_uj = mw_ns_to_uj(meter.max_power_mw * step_ns)
    return meter.max_power_mw > 0 and meter.resolution_uj * COARSE_PARTS > most_uj


def rank(meter: Meter) -> tuple[int, int, str]:
    """Sorts the better of two meters of one thing first: grade, then sensor class, then id."""
    return (GRADES.index(meter.grade), SENSOR_CLASSES.index(meter.sensor_class), meter.id)


def ancestors(meter: Meter, declared: dict[str, Meter]) -> set[str]:
    """Ids of all meters of which this one is declared to be a part, by id."""
    found: set[str] = set()
    while meter.inside and meter.inside not in found:
        found.add(meter.inside)
        if meter.inside not in declared:
            break
        meter = declared[meter.inside]
    return found


class Tree:
    """What lies inside what."""

    def __init__(self, meters: Iterable[Meter], step_ns: int) -> None:
        ordered = sorted(meters, key=rank)
        if len({meter.id for meter in ordered}) < len(ordered):
            # Nobody should declare one id twice; whoever does gets the same answer in whatever order.
            ordered.sort(key=lambda meter: (rank(meter), repr(meter)))
        self.by_id: dict[str, Meter] = {}
        for meter in ordered:
            self.by_id.setdefault(meter.id, meter)
        self.meters = list(self.by_id.values())
        """All of them, the best first."""
        self.fine = [meter for meter in self.meters if not is_coarse(meter, step_ns)]
        self.thing = {meter.id: _thing(meter) for meter in self.meters}

    @cached_property
    def things(self) -> list[Thing]:
        """Everything that is measured, by its best meter."""
        return list(dict.fromkeys(self.thing[meter.id] for meter in self.meters))

    @cached_property
    def around(self) -> dict[Thing, set[Thing]]:
        """By thing those that it is declared to lie in, by id."""
        found: dict[Thing, set[Thing]] = {thing: set() for thing in self.things}
        for meter in self.meters:
            if meter.inside in self.thing:
                found[self.thing[meter.id]] |= {self.thing[meter.inside]} - {self.thing[meter.id]}
        return found

    @cached_property
    def above(self) -> dict[Thing, set[Thing]]:
        """By thing all that it lies in, directly or not; no two lie in one another."""
        by_id = _closed(self.around)
        told = {(holder, thing[0]) for thing, holders in by_id.items() for holder in holders}
        both = {thing: self.around[thing] or self._holders(thing, told) for thing in self.things}
        found = _closed(both)
        place = {thing: number for number, thing in enumerate(self.things)}
        return {
            thing: {one for one in holders if not (thing in found[one] and place[thing] <= place[one])}
            for thing, holders in found.items()
        }

    def _holders(self, thing: Thing, told: set[tuple[Thing, Kind]]) -> set[Thing]:
        """Things that hold this one by its kind, where it says by no id where it lies."""
        kind = thing[0]
        by_definition = {holder for holder in self.things if kind in BY_DEFINITION.get(holder[0], ())}
        declared = {holder for holder in self.things if kind in self._contents[holder] and (holder, kind) not in told}
        return (by_definition | declared) - {thing}

    @cached_property
    def _contents(self) -> dict[Thing, set[Kind]]:
        found: dict[Thing, set[Kind]] = {thing: set() for thing in self.things}
        for meter in self.meters:
            # Parts of one kind are told by id: a board that contains dies does not hold the board beside it.
            found[self.thing[meter.id]] |= set(meter.contains) - {meter.kind}
        return found

    def choose(self, kinds: Sequence[Kind], *, residual: bool = True, single: bool = False) -> list[Meter]:
        """Meters of these kinds, best first, that do not overlap; `single` keeps wholes that add up."""
        able = [meter for meter in self.fine if meter.kind in kinds and (residual or meter.grade != "residual")]
        best = self.best(able)
        roots = [thing for thing in best if not self.above[thing] & best.keys()]
        found = (
            [best[root] for root in roots] if single else [one for root in roots for one in self._finest(root, best)]
        )
        return sorted(found, key=rank)

    def best(self, able: Sequence[Meter]) -> dict[Thing, Meter]:
        """The best meter of each thing; one that is a part of another of the same thing is not."""
        of_thing: dict[Thing, list[Meter]] = {}
        for meter in able:
            of_thing.setdefault(self.thing[meter.id], []).append(meter)
        found = {}
        for thing, several in of_thing.items():
            ids = {meter.id for meter in several}
            found[thing] = next((m for m in several if not (ancestors(m, self.by_id) - {m.id}) & ids), several[0])
        return found

    def _finest(self, thing: Thing, best: dict[Thing, Meter]) -> list[Meter]:
        """The thing's own meter, or those of its parts where they add up to it and are known as well."""
        parts = [part for part in self.things if thing in self.around[part]] if best[thing].adds_up else []
        alone = all(part in best and self.around[part] == {thing} and thing in self.above[part] for part in parts)
        if not parts or not alone:
            return [best[thing]]
        found = [one for part in parts for one in self._finest(part, best)]
        as_good = all(GRADES.index(one.grade) <= GRADES.index(best[thing].grade) for one in found)
        return found if as_good else [best[thing]]


def _thing(meter: Meter) -> Thing:
    return (meter.kind, meter.device, "" if meter.device else meter.id)


def _closed(edges: dict[Thing, set[Thing]]) -> dict[Thing, set[Thing]]:
    """All that can be reached from each thing in any number of steps."""
    found = {thing: set(nearest) for thing, nearest in edges.items()}
    for middle, beyond in found.items():
        for reached in found.values():
            if middle in reached:
                reached.update(beyond)
    return found


def _of(meters: Iterable[Meter], kinds: Sequence[Kind]) -> tuple[Meter, ...]:
    return tuple(meter for meter in meters if meter.kind in kinds)


def _covers(tree: Tree) -> tuple[Cover, ...]:
    return tuple(cover for cover in (_accelerator(tree), _compute(tree), _server(tree)) if cover is not None)


def _accelerator(tree: Tree) -> Cover | None:
    # A difference of meters holds whatever nobody measured, and so is no figure of a board.
    devices = tree.choose(("accelerator",), residual=False)
    return Cover(boundary="accelerator", devices=tuple(devices)) if devices else None


def _compute(tree: Tree) -> Cover | None:
    parts = tree.choose(COMPUTE_KINDS)
    devices = _of(parts, DEVICE_KINDS)
    # What a difference of meters leaves to an accelerator may hold what the CPU's own meter tells.
    if not _of(parts, ("module", "cpu_package")) or any(device.grade == "residual" for device in devices):
        return None
    return Cover(boundary="compute", devices=devices, rest=_of(parts, ("cpu_package", "dram")))


def _server(tree: Tree) -> Cover | None:
    """The server's own meter, unless its host and boards are known by a better grade."""
    parts = tuple(tree.choose(COMPUTE_KINDS))
    wholes, beside = tree.choose(("server",), single=True), _beside_host(tree, parts)
    if not wholes or (beside is not None and _worst(beside.meters) < _worst(wholes[:1])):
        return beside
    return Cover(boundary="server", devices=_of(parts, DEVICE_KINDS), whole=wholes[0], parts=parts)


def _beside_host(tree: Tree, parts: tuple[Meter, ...]) -> Cover | None:
    """A host and all accelerators, where each of these is known apart from the CPUs, which the host has."""
    hosts = tree.choose(("host",), single=True)[:1]
    boards = tree.choose(("accelerator",), residual=False)
    seen = {tree.thing[board.id] for board in boards}
    around = seen.union(*(tree.above[thing] for thing in seen))
    if not hosts or not all(tree.thing[device.id] in around for device in _of(parts, DEVICE_KINDS)):
        return None
    host = tree.thing[hosts[0].id]
    if host in around or tree.above[host] & seen:
        return None
    return Cover(boundary="server", devices=tuple(boards), rest=tuple(hosts), parts=parts)


def _worst(meters: Iterable[Meter]) -> int:
    return max(GRADES.index(meter.grade) for meter in meters)


def _left_out(tree: Tree, found: Sequence[Cover]) -> Iterable[LeftOut]:
    explained: set[str] = set()
    of_boundary = {cover.boundary: cover for cover in found}
    for boundary, kinds in CONCERNED.items():
        cover = of_boundary.get(boundary)
        taken = {meter.id for meter in cover.meters} if cover is not None else set()
        explained |= taken
        for meter in tree.meters:
            if meter.kind not in kinds or meter.id in taken:
                continue
            code, of = _why(tree, meter, boundary, cover)
            if code:
                explained.add(meter.id)
                yield LeftOut(boundary, meter.id, code, of)
    for meter in tree.meters:
        if meter.id not in explained:
            yield LeftOut("", meter.id, "at_no_boundary")


def _why(tree: Tree, meter: Meter, boundary: str, cover: Cover | None) -> tuple[str, str]:
    """The code, and the other meter; empty where it has no place there."""
    if meter not in tree.fine:
        return "coarse", ""
    if meter.grade == "residual" and boundary != "server":
        return "residual", ""
    related = () if cover is None else _relations(tree, meter, boundary, cover)
    for code, other in related:
        return code, other.id
    return ("not_apart" if boundary == "accelerator" and meter.kind == "module" else ""), ""


def _relations(tree: Tree, meter: Meter, boundary: str, cover: Cover) -> Iterator[tuple[str, Meter]]:
    """What the meter is to those that were taken, the nearest first."""
    thing = tree.thing[meter.id]
    taken = [(other, tree.thing[other.id]) for other in cover.meters]
    yield from (("second_source_of", other) for other, its in taken if its == thing)
    yield from (("part_of", other) for other, its in taken if its in tree.above[thing])
    yield from (("holds", other) for other, its in taken if thing in tree.above[its])
    if boundary == "server":
        yield from (("second_source_of", other) for other, _ in taken if other.kind == meter.kind)
        yield from (("part_of", other) for other, _ in taken if meter.kind in BY_DEFINITION.get(other.kind, ()))
