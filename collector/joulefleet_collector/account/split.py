"""Splitting one meter's energy, to the microjoule, among those who hold or used what it measures."""

from typing import Literal

import msgspec

from joulefleet.units import mw_ns_to_uj
from joulefleet.window import MeterWindow
from joulefleet_collector.account.policy import Idle
from joulefleet_collector.account.residence import Seat
from joulefleet_collector.account.share import share_out

Bucket = Literal["active", "idle", "idle_unallocated", "unattributed", "unmatched"]
BUCKETS: tuple[Bucket, ...] = ("active", "idle", "idle_unallocated", "unattributed", "unmatched")

Claims = dict[tuple[Bucket, int | None], int]
"""Weights by where a part goes: the bucket, and the number of the engine where it is an engine's."""


_IDLE: dict[Bucket, Bucket] = {"active": "idle", "unattributed": "idle_unallocated", "unmatched": "unmatched"}
"""Where idle energy goes by use, by where the energy above it goes."""


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the energy of a boundary. The terms of a boundary add up to it exactly."""

    source: MeterWindow
    """The meter that measured it."""
    bucket: Bucket
    energy_uj: int
    engine: int | None = None
    method: str = ""
    """How the engine's part was found, one of `rows.METHODS`; empty where it is no engine's."""
    learnt: bool = True
    """Whether its idle power was learnt, rather than taken from a catalogue."""


class Pot(msgspec.Struct, frozen=True, kw_only=True):
    """Energy to be split: the idle part as the policy has it, the dynamic part by activity."""

    source: MeterWindow
    idle_uj: int
    dynamic_uj: int
    learnt: bool = True


def idle_uj(reading: MeterWindow) -> int:
    """Idle power times covered time, at most the energy itself; 0 where idle power is not known."""
    if reading.idle_mw is None:
        return 0
    return min(reading.energy_uj, mw_ns_to_uj(reading.idle_mw * reading.covered_ns))


def pot_of(reading: MeterWindow) -> Pot:
    """A meter's energy."""
    idle = idle_uj(reading)
    return Pot(source=reading, idle_uj=idle, dynamic_uj=reading.energy_uj - idle, learnt=reading.idle_learnt)


def host_pot(whole: MeterWindow, devices: tuple[MeterWindow, ...]) -> Pot:
    """What a server's meter measured beyond its devices, which must not be more than it.

    Its idle power is the server's less the devices', and known only where each of them is.
    """
    energy = whole.energy_uj - sum(device.energy_uj for device in devices)
    known = all(reading.idle_mw is not None for reading in (whole, *devices))
    idle = min(energy, max(idle_uj(whole) - sum(map(idle_uj, devices)), 0)) if known else 0
    learnt = all(reading.idle_learnt for reading in (whole, *devices))
    return Pot(source=whole, idle_uj=idle, dynamic_uj=energy - idle, learnt=learnt)


def split_idle(pot: Pot, seat: Seat, used: Claims, method: str, idle: Idle) -> list[Term]:
    """The idle part as `Policy.idle` has it; `used` are the claims on the dynamic part and `method` is theirs.

    By use it goes as the dynamic part does, and by reservation where no engine is known to have used anything. By
    reservation, what nobody holds is `idle_unallocated`.
    """
    if pot.idle_uj == 0:
        return []
    if idle == "separate":
        return _terms(pot, pot.idle_uj, {("idle_unallocated", None): 1}, "")
    if idle == "by_use" and pot.dynamic_uj and any(used[claim] for claim in used if claim[1] is not None):
        return _terms(
            pot, pot.idle_uj, {(_IDLE[bucket], engine): used[bucket, engine] for bucket, engine in used}, method
        )
    claims: Claims = {("idle", engine): part for engine, part in zip(seat.engines, seat.parts, strict=True)}
    claims["idle_unallocated", None] = seat.free
    return _terms(pot, pot.idle_uj, claims, "exclusive" if seat.is_sole else "reservation")


def split_dynamic(pot: Pot, claims: Claims, method: str) -> list[Term]:
    """The dynamic part by these weights; `unattributed` where all are 0."""
    if pot.dynamic_uj == 0:
        return []
    return _terms(pot, pot.dynamic_uj, claims if any(claims.values()) else {("unattributed", None): 1}, method)


def reserved(seat: Seat) -> Claims:
    """Claims on dynamic energy by reservation, where nothing better is known."""
    claims: Claims = {("active", engine): part for engine, part in zip(seat.engines, seat.parts, strict=True)}
    claims["unattributed", None] = seat.free
    return claims


def following(device_terms: list[Term]) -> Claims:
    """Claims on the host's dynamic energy: in proportion to that of the devices, whose unknown parts stay unknown."""
    claims: Claims = {}
    for term in device_terms:
        if term.bucket in ("active", "unattributed", "unmatched"):
            claim = (term.bucket, term.engine)
            claims[claim] = claims.get(claim, 0) + term.energy_uj
    return claims


def unmatched(reading: MeterWindow) -> list[Term]:
    """All that a meter measured while it was covered too little."""
    return [Term(source=reading, bucket="unmatched", energy_uj=reading.energy_uj)]


def scaled(terms: list[Term], energy_uj: int) -> list[Term]:
    """The same proportions of another amount."""
    parts = share_out(energy_uj, [term.energy_uj for term in terms])
    return [msgspec.structs.replace(term, energy_uj=part) for term, part in zip(terms, parts, strict=True)]


def _terms(pot: Pot, energy_uj: int, claims: Claims, method: str) -> list[Term]:
    parts = share_out(energy_uj, tuple(claims.values()))
    return [
        Term(
            source=pot.source,
            bucket=bucket,
            energy_uj=part,
            engine=engine,
            method=method if engine is not None else "",
            learnt=pot.learnt,
        )
        for (bucket, engine), part in zip(claims, parts, strict=True)
        if part
    ]
