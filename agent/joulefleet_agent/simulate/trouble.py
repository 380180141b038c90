"""Trouble to order: releases, regressions, stragglers, sensor faults and outages, placed by the scenario's seed."""

from collections.abc import Sequence

import msgspec

from joulefleet.grid import HOUR_NS
from joulefleet_agent.simulate.chance import pick, unit
from joulefleet_agent.simulate.roster import SimServer
from joulefleet_agent.simulate.scenario import Change, Fault, Outage, Scenario

STRAGGLER_PCT = 15.0
KINDS: tuple[str, ...] = ("stuck", "reset", "gap", "hung")


class Ordered(msgspec.Struct, frozen=True, kw_only=True):
    """How much of each is asked for."""

    release_pct: float | None = None
    """From the middle on, a new version on every server of the first deployment."""
    regression_pct: float | None = None
    """The same in silence, on every server of the last deployment that has one."""
    stragglers: int = 0
    """Servers that always use 15 % more than their like."""
    faults: int = 0
    """Sensor faults of all kinds in turn."""
    outages: int = 0
    """Agents that do not run for a while."""


def with_trouble(scenario: Scenario, servers: Sequence[SimServer], ordered: Ordered) -> Scenario:
    """The scenario with what is asked for beside what it has; `servers` are those of the scenario as it is."""
    return msgspec.structs.replace(
        scenario,
        changes=(*scenario.changes, *_changes(scenario, servers, ordered)),
        faults=(*scenario.faults, *_faults(scenario, servers, ordered.faults)),
        outages=(*scenario.outages, *_outages(scenario, servers, ordered.outages)),
    )


def _changes(scenario: Scenario, servers: Sequence[SimServer], ordered: Ordered) -> list[Change]:
    changes = []
    if ordered.release_pct is not None:
        changes.append(_from_the_middle(scenario, servers[0], "release", ordered.release_pct, "0.10.0"))
    if ordered.regression_pct is not None:
        changes.append(_from_the_middle(scenario, servers[-1], "regression", ordered.regression_pct, ""))
    slow = pick(servers, ordered.stragglers, scenario.seed, "straggler")
    return changes + [Change(kind="straggler", at_h=0, energy_pct=STRAGGLER_PCT, server=one.name) for one in slow]


def _from_the_middle(scenario: Scenario, of: SimServer, kind: str, energy_pct: float, version: str) -> Change:
    """On every server with the pool, hardware and model of this one."""
    table = {
        "kind": kind,
        "at_h": _hours(scenario) / 2,
        "energy_pct": energy_pct,
        "version": version,
        "pool": of.deployment.pool,
        "hardware": of.hardware.name,
        "model": of.model.name,
    }
    return msgspec.convert(table, Change)


def _faults(scenario: Scenario, servers: Sequence[SimServer], number: int) -> list[Fault]:
    """Each on a board of another server, an hour long or a tenth of the time, whichever is less."""
    faults = []
    for place, server in enumerate(pick(servers, number, scenario.seed, "fault")):
        for_h = min(1.0, _hours(scenario) / 10)
        table = {
            "kind": KINDS[place % len(KINDS)],
            "server": server.name,
            "subject": server.chassis.metered[place % server.hardware.boards].meter.id,
            "at_h": _within(scenario, for_h, "fault at", place),
            "for_h": for_h,
        }
        faults.append(msgspec.convert(table, Fault))
    return faults


def _outages(scenario: Scenario, servers: Sequence[SimServer], number: int) -> list[Outage]:
    """Each on another server, three hours long or a tenth of the time, whichever is less."""
    for_h = min(3.0, _hours(scenario) / 10)
    chosen = pick(servers, number, scenario.seed, "outage")
    return [
        Outage(server=server.name, at_h=_within(scenario, for_h, "outage at", place), for_h=for_h)
        for place, server in enumerate(chosen)
    ]


def _within(scenario: Scenario, for_h: float, *names: str | int) -> float:
    """An hour from which on so many hours lie inside the simulated time, with as much again after them."""
    return unit(scenario.seed, *names) * (_hours(scenario) - 2 * for_h)


def _hours(scenario: Scenario) -> float:
    return (scenario.end_ns - scenario.begin_ns) / HOUR_NS
