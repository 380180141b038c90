"""The servers of a scenario: who runs what, and what happens to each."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import msgspec

from joulefleet.config import ConfigError
from joulefleet.describe import WHOLE, Engine
from joulefleet.grid import HOUR_NS
from joulefleet.reading import WorkKey
from joulefleet.units import s_to_ns
from joulefleet_agent.cutter import Identity
from joulefleet_agent.simulate.catalogue import Deployment, Hardware, Model
from joulefleet_agent.simulate.chance import about_one, unit
from joulefleet_agent.simulate.course import Bend, Course
from joulefleet_agent.simulate.demand import Demand, Load, daily, from_arrivals, read_arrivals
from joulefleet_agent.simulate.devices import Chassis, chassis_of, engine_of
from joulefleet_agent.simulate.scenario import Change, Fault, Outage, Scenario

Kinds = tuple[Deployment, Hardware, Model]


class SimServer:
    """One simulated server: its place in the fleet, what it runs, and what happens to it."""

    def __init__(self, scenario: Scenario, name: str, kinds: Kinds, demand: Demand) -> None:
        self.scenario = scenario
        self.begin_ns = scenario.begin_ns
        self.name = name
        self.deployment, self.hardware, self.model = kinds
        self._demand = demand
        self.outages = tuple(one for one in scenario.outages if one.server == name)
        self.faults = tuple(one for one in scenario.faults if one.server == name)

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """Changes that reach this server, in the order of the scenario."""
        return tuple(one for k, one in enumerate(self.scenario.changes) if self._is_meant(k, one))

    @cached_property
    def course(self) -> Course:
        """Its work and energy over time."""
        return Course(self._demand, list(self._bends()))

    @cached_property
    def chassis(self) -> Chassis:
        """Its meters."""
        scenario = self.scenario
        return chassis_of(
            self.hardware, self.name, scenario.seed, scenario.board_spread, scenario.period_ns, self.course.peak_mw
        )

    @cached_property
    def engine(self) -> Engine:
        """Its engine, in the version of the beginning."""
        return engine_of(self.deployment, self.chassis, self.scenario.period_ns)

    @cached_property
    def keys(self) -> dict[WorkKey, int]:
        """Model and tenant of its work, each with its share in parts per million."""
        tenants, model = self.deployment.tenants or {"": 1.0}, self.model
        whole = sum(tenants.values())
        return {
            WorkKey(model.name, model.revision, name): round(part * WHOLE / whole) for name, part in tenants.items()
        }

    @property
    def identity(self) -> Identity:
        """What every window of it bears."""
        return Identity(
            server=self.name,
            pool=self.deployment.pool,
            site=self.deployment.site,
            hardware=self.hardware.name,
            simulated=True,
        )

    def running(self, at_ns: int) -> int:
        """Requests in flight at an instant."""
        return self.course.running(at_ns, s_to_ns(self.model.e2e_s))

    def span_of(self, one: Fault | Outage) -> tuple[int, int]:
        """First instant of a fault or an outage, and the first after it; both are instants of readings."""
        from_ns = self.scenario.instant_ns(one.at_h)
        if isinstance(one, Fault) and one.kind == "reset":
            return from_ns, from_ns + self.scenario.period_ns
        return from_ns, max(self.scenario.instant_ns(one.at_h + one.for_h), from_ns + self.scenario.period_ns)

    def timeline(self, way: str) -> int:
        """32 bits that follow from everything that its windows do, and the way in which they are made."""
        said = msgspec.json.encode(self.scenario, order="deterministic")
        digest = hashlib.blake2b(said + f"|{self.name}|{way}".encode(), digest_size=4)
        return int.from_bytes(digest.digest(), "big")

    def version_before(self, at_ns: int) -> str:
        """The engine's version just before an instant.

        A reading at the instant of a release still tells the old one, or the window that ends there would be the new's.
        """
        version = self.deployment.version
        for from_ns, until_ns, released in self._releases:
            if from_ns < at_ns <= until_ns:
                version = released
        return version

    @cached_property
    def _releases(self) -> list[tuple[int, int, str]]:
        spans = ((self.scenario.instant_ns(one.at_h), self._until_ns(one), one.version) for one in self.changes)
        return sorted(span for span in spans if span[2])

    def _is_meant(self, place: int, change: Change) -> bool:
        mine = {
            "server": self.name,
            "pool": self.deployment.pool,
            "site": self.deployment.site,
            "hardware": self.hardware.name,
            "model": self.model.name,
        }
        if any(getattr(change, what) not in ("", name) for what, name in mine.items()):
            return False
        return change.share >= 1 or unit(self.scenario.seed, "share", place, self.name) < change.share

    def _bends(self) -> Iterator[Bend]:
        """One for each hour, and wherever something changes."""
        begin_ns, end_ns, seed = self.scenario.begin_ns, self.scenario.end_ns, self.scenario.seed
        instants = {*range(begin_ns, end_ns, HOUR_NS)}
        for one in self.changes:
            instants |= {self.scenario.instant_ns(one.at_h), self._until_ns(one)}
        for at_ns in sorted(one for one in instants if begin_ns <= one < end_ns):
            hour = (at_ns - begin_ns) // HOUR_NS
            energy = about_one(self.scenario.energy_noise, seed, "energy", self.name, hour)
            for one in self.changes:
                if self.scenario.instant_ns(one.at_h) <= at_ns < self._until_ns(one):
                    energy = round(energy * (1 + one.energy_pct / 100))
            yield Bend(at_ns, about_one(self.scenario.demand_noise, seed, "demand", self.name, hour), energy)

    def _until_ns(self, change: Change) -> int:
        return self.scenario.end_ns if change.until_h is None else self.scenario.instant_ns(change.until_h)


def roster(scenario: Scenario) -> list[SimServer]:
    """All servers, by number. Raises ConfigError where the scenario names what is not there."""
    hardware = {one.name: one for one in scenario.hardware}
    models = {one.name: one for one in scenario.models}
    loads = read_arrivals(Path(scenario.arrivals)) if scenario.arrivals else None
    servers: list[SimServer] = []
    digits = max(4, len(str(scenario.servers)))
    for deployment, number in zip(scenario.deployments, _apportion(scenario), strict=True):
        kinds = (deployment, hardware[deployment.hardware], models[deployment.model])
        demand = _demand(kinds, loads, scenario.begin_ns)
        places = range(len(servers) + 1, len(servers) + number + 1)
        servers += [SimServer(scenario, f"{scenario.name}-{place:0{digits}d}", kinds, demand) for place in places]
    _check_named(servers, scenario)
    return servers


def _demand(kinds: Kinds, loads: Sequence[Load] | None, begin_ns: int) -> Demand:
    return daily(*kinds, begin_ns) if loads is None else from_arrivals(loads, *kinds, begin_ns)


def _apportion(scenario: Scenario) -> list[int]:
    """Servers of each deployment, by largest remainder; equal remainders in their order."""
    weights = [one.weight for one in scenario.deployments]
    exact = [scenario.servers * weight / sum(weights) for weight in weights]
    numbers = [int(part) for part in exact]
    by_rest = sorted(range(len(exact)), key=lambda k: numbers[k] - exact[k])
    for k in by_rest[: scenario.servers - sum(numbers)]:
        numbers[k] += 1
    return numbers


def _check_named(servers: Sequence[SimServer], scenario: Scenario) -> None:
    by_name = {server.name: server for server in servers}
    named: list[tuple[str, Fault | Outage]] = [
        *((f"faults[{k}]", fault) for k, fault in enumerate(scenario.faults)),
        *((f"outages[{k}]", outage) for k, outage in enumerate(scenario.outages)),
    ]
    for key, one in named:
        server = by_name.get(one.server)
        if server is None:
            raise ConfigError("scenario", f"{key}.server", f"'{one.server}' is none; the last is {servers[-1].name}")
        if isinstance(one, Fault) and (reason := _misplaced(one, server)):
            raise ConfigError("scenario", f"{key}.subject", reason)
    for k, change in enumerate(scenario.changes):
        if change.share >= 1 and not any(change in server.changes for server in servers):
            raise ConfigError("scenario", f"changes[{k}]", "no server is meant by it")


def _misplaced(fault: Fault, server: SimServer) -> str:
    """Why this server cannot have this fault; empty where it can."""
    grades = {device.meter.id: device.meter.grade for device in server.chassis.metered}
    subjects = [*grades, server.engine.id]
    if fault.subject not in subjects:
        return f"'{fault.subject}' is not among {', '.join(subjects)}"
    if grades.get(fault.subject, "counter") != "counter" and fault.kind in ("stuck", "reset"):
        return f"'{fault.subject}' tells power only: it has no counter that could be {fault.kind}"
    return ""
