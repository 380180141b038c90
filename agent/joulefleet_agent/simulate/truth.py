"""What really happened in a simulated fleet, to compare with: energy, work, and everything that was injected.

It is the physics, not what could be seen of it: the joules of an agent's outage or of a stuck counter are in it.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, BinaryIO

import msgspec

from joulefleet.grid import HOUR_NS
from joulefleet.reading import Counts, WorkKey
from joulefleet.units import NS_PER_S, mw_ns_to_uj, uj_to_j
from joulefleet_agent.simulate.closed import State, done, state_at
from joulefleet_agent.simulate.roster import SimServer
from joulefleet_agent.simulate.scenario import Scenario

WORK = ("requests_ok", "prompt_tokens", "output_tokens")


class Hourly(msgspec.Struct, frozen=True):
    """Columns of equal length, one entry an hour; the last hour may be short."""

    start_s: list[int]
    energy_uj: dict[str, list[int]]
    """By boundary."""
    requests_ok: list[int]
    prompt_tokens: list[int]
    output_tokens: list[int]


class ServerTruth(msgspec.Struct, frozen=True, kw_only=True):
    """One server over the whole time."""

    server: str
    pool: str
    site: str
    hardware: str
    model: str
    revision: str
    energy_uj: dict[str, int]
    """By boundary that its meters tell."""
    idle_uj: dict[str, int]
    """The part of it that would have been used without any work."""
    meters_uj: dict[str, int]
    """By id of the meter."""
    requests_ok: int
    prompt_tokens: int
    output_tokens: int
    tenants: dict[str, dict[str, int]]
    """Work by tenant."""
    hourly: Hourly


class GroupTruth(msgspec.Struct, kw_only=True):
    """All servers of one boundary, model and hardware."""

    boundary: str
    model: str
    hardware: str
    servers: int = 0
    energy_j: float = 0.0
    idle_j: float = 0.0
    requests_ok: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


def truth_of(server: SimServer) -> ServerTruth:
    """The energy and the work of one server."""
    scenario = server.scenario
    edges = [*range(scenario.begin_ns, scenario.end_ns, HOUR_NS), scenario.end_ns]
    states = [state_at(server, at_ns) for at_ns in edges]
    meters = [device.meter.id for device in server.chassis.metered]
    energies_uj = _between(states[0], states[-1])
    idle_uj = [mw_ns_to_uj(one.idle_mw * (scenario.end_ns - scenario.begin_ns)) for one in server.chassis.metered]
    work = done(states[0].counts, states[-1].counts)
    return ServerTruth(
        server=server.name,
        pool=server.deployment.pool,
        site=server.deployment.site,
        hardware=server.hardware.name,
        model=server.model.name,
        revision=server.model.revision,
        energy_uj=_by_boundary(server, energies_uj),
        idle_uj=_by_boundary(server, idle_uj),
        meters_uj=dict(zip(meters, energies_uj, strict=True)),
        **{name: _sum(work, name) for name in WORK},
        tenants={key.tenant: {name: getattr(counts, name) for name in WORK} for key, counts in work.items()},
        hourly=_hourly(server, states),
    )


def injected(servers: Sequence[SimServer], scenario: Scenario) -> list[dict[str, Any]]:
    """Everything that was made to happen: what, when, on which servers, and the joules and tokens it is about."""
    return [*_changes(servers, scenario), *_outages(servers), *_faults(servers)]


def write_truth(file: BinaryIO, servers: Sequence[SimServer], scenario: Scenario) -> None:
    """The whole truth as one JSON object, a server a line, so that a large fleet is never held at once."""
    head = {
        "begin_s": scenario.begin_ns // NS_PER_S,
        "end_s": scenario.end_ns // NS_PER_S,
        "scenario": scenario,
        "injected": injected(servers, scenario),
    }
    file.write(_json(head)[:-1] + b',\n"servers": [')
    totals: dict[tuple[str, str, str], GroupTruth] = {}
    for number, server in enumerate(servers):
        truth = truth_of(server)
        add_to(totals, truth)
        file.write((b",\n" if number else b"\n") + _json(truth))
    file.write(b'\n],\n"totals": ' + _json([totals[key] for key in sorted(totals)]) + b"}\n")


def add_to(totals: dict[tuple[str, str, str], GroupTruth], truth: ServerTruth) -> None:
    """Add one server to the sums by boundary, model and hardware."""
    for boundary, energy_uj in truth.energy_uj.items():
        key = (boundary, truth.model, truth.hardware)
        group = totals.setdefault(key, GroupTruth(boundary=boundary, model=truth.model, hardware=truth.hardware))
        group.servers += 1
        group.energy_j += uj_to_j(energy_uj)
        group.idle_j += uj_to_j(truth.idle_uj[boundary])
        for name in WORK:
            setattr(group, name, getattr(group, name) + getattr(truth, name))


def _hourly(server: SimServer, states: Sequence[State]) -> Hourly:
    pairs = list(pairwise(states))
    energies = [_by_boundary(server, _between(before, after)) for before, after in pairs]
    works = [done(before.counts, after.counts) for before, after in pairs]
    return Hourly(
        start_s=[before.at_ns // NS_PER_S for before, _ in pairs],
        energy_uj={name: [energy[name] for energy in energies] for name in server.chassis.boundaries()},
        **{name: [_sum(work, name) for work in works] for name in WORK},
    )


def _between(before: State, after: State) -> list[int]:
    return [b - a for a, b in zip(before.energies_uj, after.energies_uj, strict=True)]


def _by_boundary(server: SimServer, by_meter: Sequence[int]) -> dict[str, int]:
    return {name: sum(by_meter[k] for k in places) for name, places in server.chassis.boundaries().items()}


def _sum(work: dict[WorkKey, Counts], name: str) -> int:
    return sum(getattr(counts, name) for counts in work.values())


def _changes(servers: Sequence[SimServer], scenario: Scenario) -> Iterator[dict[str, Any]]:
    for change in scenario.changes:
        until_ns = scenario.end_ns if change.until_h is None else scenario.instant_ns(change.until_h)
        yield {
            "kind": change.kind,
            "from_s": scenario.instant_ns(change.at_h) // NS_PER_S,
            "until_s": until_ns // NS_PER_S,
            "energy_pct": change.energy_pct,
            "version": change.version,
            "servers": [server.name for server in servers if change in server.changes],
        }


def _outages(servers: Sequence[SimServer]) -> Iterator[dict[str, Any]]:
    for server in servers:
        for outage in server.outages:
            from_ns, until_ns = server.span_of(outage)
            before, after = state_at(server, from_ns), state_at(server, until_ns)
            energy_uj = _by_boundary(server, _between(before, after))
            yield {"kind": "outage", **_when(server, from_ns, until_ns), "energy_uj": energy_uj}


def _faults(servers: Sequence[SimServer]) -> Iterator[dict[str, Any]]:
    for server in servers:
        meters = [device.meter.id for device in server.chassis.metered]
        for fault in server.faults:
            from_ns, until_ns = server.span_of(fault)
            before, after = state_at(server, from_ns), state_at(server, until_ns)
            said = {"kind": fault.kind, **_when(server, from_ns, until_ns), "subject": fault.subject}
            if fault.subject in meters:
                yield {**said, "energy_uj": _between(before, after)[meters.index(fault.subject)]}
            else:
                work = done(before.counts, after.counts)
                yield {**said, **{name: _sum(work, name) for name in WORK}}


def _when(server: SimServer, from_ns: int, until_ns: int) -> dict[str, Any]:
    return {"server": server.name, "from_s": from_ns // NS_PER_S, "until_s": until_ns // NS_PER_S}


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
