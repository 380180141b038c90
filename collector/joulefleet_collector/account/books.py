"""The books of one boundary: every microjoule of it in one term, and which engines pair."""

from functools import cached_property

import msgspec

from joulefleet.window import MeterWindow
from joulefleet_collector.account.busy import busy_weights
from joulefleet_collector.account.cover import Cover
from joulefleet_collector.account.pair import pair
from joulefleet_collector.account.residence import Residence, Seat
from joulefleet_collector.account.scene import Scene
from joulefleet_collector.account.split import (
    Claims,
    Pot,
    Term,
    following,
    host_pot,
    pot_of,
    reserved,
    scaled,
    split_dynamic,
    split_idle,
    unmatched,
)
from joulefleet_collector.account.work import engine_ways

Ways = dict[str, Claims]
"""Claims by each method that is known, the best first."""


class Books(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One boundary of one window."""

    cover: Cover
    residence: Residence
    paired_ns: dict[int, int]
    """Least coverage of each engine that pairs, by number."""
    terms: list[Term]
    """They add up to the energy of the cover's meters exactly."""

    def of_engine(self, engine: int) -> list[Term]:
        """The terms of one engine, by number; none where it does not pair."""
        return self._by_engine.get(engine, [])

    @cached_property
    def _by_engine(self) -> dict[int | None, list[Term]]:
        found: dict[int | None, list[Term]] = {}
        for term in self.terms:
            found.setdefault(term.engine, []).append(term)
        return found


def keep(cover: Cover, residence: Residence, scene: Scene) -> Books:
    """The books of this boundary (ACCOUNTING sections 4 and 5)."""
    return _kept(cover, residence, scene, pair(cover, residence, scene))


def keep_again(books: Books, scene: Scene) -> Books:
    """The books of the same window with other weights or methods, on which no pairing depends."""
    return _kept(books.cover, books.residence, scene, books.paired_ns)


def _kept(cover: Cover, residence: Residence, scene: Scene, paired_ns: dict[int, int]) -> Books:
    terms = _beside(cover, residence, scene) if cover.whole is None else _whole(cover.whole, cover, residence, scene)
    return Books(cover=cover, residence=residence, paired_ns=paired_ns, terms=[_settle(t, paired_ns) for t in terms])


def ways_of(books: Books, scene: Scene) -> list[tuple[str, ...]]:
    """By which methods, the one that is used first, each thing that engines share could be split; without those things
    that one engine has, or of which it is not known who used them."""
    ways = [
        _ways(device, seat, scene) for device, seat in zip(books.cover.devices, books.residence.by_device, strict=True)
    ]
    if not books.cover.devices:
        ways.append(_by_work(books.residence.of_server, scene))
    return [tuple(each) for each in ways if len(each) > 1 or "work" in each]


def _settle(term: Term, paired_ns: dict[int, int]) -> Term:
    if term.engine is None or term.engine in paired_ns:
        return term
    return Term(source=term.source, bucket="unmatched", energy_uj=term.energy_uj)


def _beside(cover: Cover, residence: Residence, scene: Scene) -> list[Term]:
    """Devices and the rest, each with a meter of its own."""
    devices = _devices(cover, residence, scene)
    if not cover.rest:
        return devices
    terms, claimed = list(devices), _host_claims(devices, cover, residence, scene)
    for reading in cover.rest:
        covered = scene.is_covered(reading)
        terms += _split(pot_of(reading), residence.of_server, *claimed, scene) if covered else unmatched(reading)
    return terms


def _whole(whole: MeterWindow, cover: Cover, residence: Residence, scene: Scene) -> list[Term]:
    """One meter over all; the devices tell how to split what it measured."""
    if not scene.is_covered(whole):
        return unmatched(whole)
    if not cover.devices or _is_blind(cover, residence, scene):
        return _split(pot_of(whole), residence.of_server, *_host_claims([], cover, residence, scene), scene)
    devices = [msgspec.structs.replace(term, source=whole) for term in _devices(cover, residence, scene)]
    if whole.energy_uj < sum([device.energy_uj for device in cover.devices]):
        # A server's meter lags behind its boards on a ramp; `other_j` of the ledger shows by how much.
        return scaled(devices, whole.energy_uj)
    claimed = _host_claims(devices, cover, residence, scene)
    return devices + _split(host_pot(whole, cover.devices), residence.of_server, *claimed, scene)


def _is_blind(cover: Cover, residence: Residence, scene: Scene) -> bool:
    """Whether the devices do not tell how a server's dynamic energy came about, since one was not seen."""
    return bool(residence.elsewhere) or not all(scene.is_covered(device) for device in cover.devices)


def _devices(cover: Cover, residence: Residence, scene: Scene) -> list[Term]:
    devices = tuple([device.meter.id for device in cover.devices])
    return scene.once(("devices", devices, residence.by_device), lambda: _devices_anew(cover, residence, scene))


def _devices_anew(cover: Cover, residence: Residence, scene: Scene) -> list[Term]:
    terms: list[Term] = []
    for device, seat in zip(cover.devices, residence.by_device, strict=True):
        if scene.is_covered(device):
            terms += _split(pot_of(device), seat, *scene.chosen(_ways(device, seat, scene)), scene)
        else:
            terms += unmatched(device)
    return terms


def _split(pot: Pot, seat: Seat, method: str, claims: Claims, scene: Scene) -> list[Term]:
    return split_idle(pot, seat, claims, method, scene.policy.idle) + split_dynamic(pot, claims, method)


def _host_claims(devices: list[Term], cover: Cover, residence: Residence, scene: Scene) -> tuple[str, Claims]:
    seat = residence.of_server
    if seat.is_sole or not cover.devices:
        return scene.chosen(_by_work(seat, scene))
    if _is_blind(cover, residence, scene):
        return "reservation", reserved(seat)
    return "accelerator", following(devices)


def _ways(device: MeterWindow, seat: Seat, scene: Scene) -> Ways:
    """How the dynamic energy of a device may be split among those who hold a part of it: claims by method, the best
    first (ACCOUNTING section 4)."""
    knows = seat.engines and not seat.is_sole and _all_covered(seat, scene)
    activity, by_work = _activity(device, seat, scene) if knows else {}, _by_work(seat, scene)
    drawn = _drawn(by_work, device, seat, scene)
    by_work = by_work | drawn if drawn else _by_slots(by_work, device, seat, scene)
    # Where one engine alone is known, what processes of nobody did is not its own.
    ways = activity if activity and (len(seat.engines) == 1 or "equal" in by_work) else activity | by_work
    # Watts are more than time, but busy time knows of no strangers.
    strangers = activity and activity["activity"]["unattributed", None]
    return ways if strangers else drawn | ways


def _activity(device: MeterWindow, seat: Seat, scene: Scene) -> Ways:
    told_ns = scene.activity_of(device)
    names = {engine: scene.engines[engine].engine.id for engine in seat.engines}
    # An engine of which no process was found may still have done all of it.
    if told_ns is None or not all(name in told_ns for name in names.values()):
        return {}
    claims: Claims = {("active", engine): told_ns[name] for engine, name in names.items()}
    if not any(claims.values()) and len(seat.engines) > 1:
        return {}
    claims["unattributed", None] = sum(told_ns.values()) - sum(claims.values())
    return {"activity": claims}


def _drawn(ways: Ways, device: MeterWindow, seat: Seat, scene: Scene) -> Ways:
    """Busy time weighed with the watts of every model (of one in its slice, too); empty where not all are known."""
    if not scene.policy.busy_watts or "busy" not in ways:
        return {}
    works = [work for engine in seat.engines for work in scene.works[engine]]
    weights = busy_weights(works, device.meter.hw_model, scene.policy)
    if weights is None:
        return {}
    one_by_one = iter(weights)
    return {"busy": {("active", engine): sum(next(one_by_one) for _ in scene.works[engine]) for engine in seat.engines}}


def _by_slots(ways: Ways, device: MeterWindow, seat: Seat, scene: Scene) -> Ways:
    """With busy time as time of the whole device, where each of its engines holds named slices of it: an engine can
    keep no more busy than it holds."""
    slots = {each.id: each.slots for each in device.meter.slices}
    if not slots or "busy" not in ways:
        return ways
    held = {
        engine: sum(slots.get(one.meter, 0) for one in scene.engines[engine].engine.devices) for engine in seat.engines
    }
    if not all(held.values()):
        return ways
    busy: Claims = {claim: weight * held[claim[1]] for claim, weight in ways["busy"].items() if claim[1] is not None}
    return ways | {"busy": busy}


def _by_work(seat: Seat, scene: Scene) -> Ways:
    """The same by what the engines say of their work."""
    return scene.once(("work", seat.engines), lambda: _work(seat, scene))


def _work(seat: Seat, scene: Scene) -> Ways:
    if len(seat.engines) == 1:
        return {"exclusive": {("active", seat.engines[0]): 1}}
    if not _all_covered(seat, scene):
        return {"": {("unmatched", None): 1}}
    ways = engine_ways([scene.engines[engine] for engine in seat.engines], scene.policy)
    claims: Ways = {
        method: {("active", engine): weight for engine, weight in zip(seat.engines, weights, strict=True)}
        for method, weights in (ways or {"equal": [0] * len(seat.engines)}).items()
    }
    # Where nothing tells how much each did, any of them may have done all of it.
    return claims | {
        f"only {engine}": {("active", engine): 1} for (_, engine), did in claims.get("equal", {}).items() if did
    }


def _all_covered(seat: Seat, scene: Scene) -> bool:
    return all(scene.is_covered(scene.engines[engine]) for engine in seat.engines)
