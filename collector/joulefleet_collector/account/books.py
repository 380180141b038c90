"""The books of one boundary: every microjoule of it in one term, and which engines pair."""

from functools import cached_property

import msgspec

from joulefleet.window import MeterWindow
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
from joulefleet_collector.account.work import engine_weights


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
    """The books of the same window under a policy with other weights, on which no pairing depends."""
    return _kept(books.cover, books.residence, scene, books.paired_ns)


def _kept(cover: Cover, residence: Residence, scene: Scene, paired_ns: dict[int, int]) -> Books:
    terms = _beside(cover, residence, scene) if cover.whole is None else _whole(cover.whole, cover, residence, scene)
    return Books(cover=cover, residence=residence, paired_ns=paired_ns, terms=[_settle(t, paired_ns) for t in terms])


def splits_by_tokens(books: Books, scene: Scene) -> bool:
    """Whether engines share something by their tokens, so that the weights of tokens matter to them."""
    claims = [_on_device(*each, scene) for each in zip(books.cover.devices, books.residence.by_device, strict=True)]
    return any(method == "work" for _, method in (*claims, _by_work(books.residence.of_server, scene)))


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
            terms += _split(pot_of(device), seat, *_on_device(device, seat, scene), scene)
        else:
            terms += unmatched(device)
    return terms


def _split(pot: Pot, seat: Seat, claims: Claims, method: str, scene: Scene) -> list[Term]:
    return split_idle(pot, seat, claims, method, scene.policy.idle) + split_dynamic(pot, claims, method)


def _host_claims(devices: list[Term], cover: Cover, residence: Residence, scene: Scene) -> tuple[Claims, str]:
    seat = residence.of_server
    if seat.is_sole or not cover.devices:
        return _by_work(seat, scene)
    if _is_blind(cover, residence, scene):
        return reserved(seat), "reservation"
    return following(devices), "accelerator"


def _on_device(device: MeterWindow, seat: Seat, scene: Scene) -> tuple[Claims, str]:
    """Claims of those who hold a part of a device on its dynamic energy, and the method (ACCOUNTING section 4)."""
    if not seat.engines or seat.is_sole or not _all_covered(seat, scene):
        return _by_work(seat, scene)
    told_ns = scene.activity_of(device)
    names = {engine: scene.engines[engine].engine.id for engine in seat.engines}
    # An engine of which no process was found may still have done all of it.
    if told_ns is None or not all(name in told_ns for name in names.values()):
        return _by_work(seat, scene)
    claims: Claims = {("active", engine): told_ns[name] for engine, name in names.items()}
    if not any(claims.values()) and len(seat.engines) > 1:
        return _by_work(seat, scene)
    claims["unattributed", None] = sum(told_ns.values()) - sum(claims.values())
    return claims, "activity"


def _by_work(seat: Seat, scene: Scene) -> tuple[Claims, str]:
    """The same by what the engines say of their work."""
    return scene.once(("work", seat.engines), lambda: _work(seat, scene))


def _work(seat: Seat, scene: Scene) -> tuple[Claims, str]:
    if len(seat.engines) == 1:
        return {("active", seat.engines[0]): 1}, "exclusive"
    if not _all_covered(seat, scene):
        return {("unmatched", None): 1}, ""
    method, weights = engine_weights([scene.engines[engine] for engine in seat.engines], scene.policy)
    return {("active", engine): weight for engine, weight in zip(seat.engines, weights, strict=True)}, method


def _all_covered(seat: Seat, scene: Scene) -> bool:
    return all(scene.is_covered(scene.engines[engine]) for engine in seat.engines)
