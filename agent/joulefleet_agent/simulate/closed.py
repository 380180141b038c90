"""Windows of a simulated server straight from its course, without readings: the same sums as through the cutter, fast.

What differs from windows that were cut: running requests and the gauge beside a counter are integrated over the window
as a whole, neither idle power nor the sensors' health is learnt, and there is no trace where a window is longer than a
minute.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from joulefleet.grid import HOUR_NS, TRACE_STEP_NS
from joulefleet.reading import COUNT_FIELDS, Counts, WorkKey
from joulefleet.units import NS_PER_S, uj_over_ns_to_mw
from joulefleet.window import EngineWindow, MeterWindow, Window, Work, coarse
from joulefleet_agent.simulate.demand import Amounts
from joulefleet_agent.simulate.roster import SimServer
from joulefleet_agent.simulate.sensors import cells, gauges, tenants

LONGEST_TRACED_NS = 60 * NS_PER_S


class State(msgspec.Struct, frozen=True):
    """A server at one instant."""

    at_ns: int
    energies_uj: list[int]
    counts: dict[WorkKey, Counts]
    running: int


def closed(
    server: SimServer, timeline: int, from_ns: int, until_ns: int, totals: list[int] | None = None
) -> Iterator[Window]:
    """Every window of [from_ns, until_ns). `totals` are the meters' running totals at its beginning, by place."""
    maker = _Maker(server, timeline, totals)
    before = state_at(server, from_ns)
    for start_ns in range(from_ns, until_ns, server.scenario.step_ns):
        after = state_at(server, start_ns + server.scenario.step_ns)
        yield maker.window(before, after)
        before = after


def state_at(server: SimServer, at_ns: int) -> State:
    """What all counters have counted since the beginning."""
    amounts = server.course.at(at_ns)
    energies_uj = _energies_uj(server, at_ns, amounts)
    return State(at_ns, energies_uj, tenants(amounts, server.keys), server.running(at_ns))


def done(before: Mapping[WorkKey, Counts], after: Mapping[WorkKey, Counts]) -> dict[WorkKey, Counts]:
    """Work between two states."""
    return {key: _difference(after[key], counts) for key, counts in before.items()}


class _Maker:
    """Makes windows of one server, one after the other."""

    def __init__(self, server: SimServer, timeline: int, totals: list[int] | None) -> None:
        scenario, identity = server.scenario, server.identity
        self._server = server
        self._devices = server.chassis.metered
        self._totals = totals or [device.offset_uj for device in self._devices]
        self._cells = cells(server.model)
        self._traced = scenario.step_ns <= LONGEST_TRACED_NS
        self._first = Window(
            timeline=timeline,
            start_ns=0,
            step_ns=scenario.step_ns,
            server=identity.server,
            pool=identity.pool,
            site=identity.site,
            hardware=identity.hardware,
            simulated=True,
        )
        self._version = ""

    def window(self, before: State, after: State) -> Window:
        """The window between two states."""
        version = self._server.version_before(after.at_ns)
        return msgspec.structs.replace(
            self._first,
            start_ns=before.at_ns,
            meters=self._meters(before, after),
            engines=(self._engine(before, after, version),),
            facts=self._facts(before.at_ns, version),
        )

    def _meters(self, before: State, after: State) -> tuple[MeterWindow, ...]:
        step_ns = self._server.scenario.step_ns
        energies_uj = [b - a for a, b in zip(before.energies_uj, after.energies_uj, strict=True)]
        firsts_uj = self._totals
        self._totals = [first + energy for first, energy in zip(firsts_uj, energies_uj, strict=True)]
        beside = gauges(self._server, before.at_ns)
        traces = self._traces(before, after) if self._traced else [()] * len(energies_uj)
        return tuple(
            MeterWindow(
                meter=device.meter,
                first_uj=first_uj,
                last_uj=first_uj + energy_uj,
                energy_uj=energy_uj,
                covered_ns=step_ns,
                trace_mw=trace,
                idle_mw=device.idle_mw or None,
                gauge_uj=energy_uj if device.meter.grade == "counter" else 0,
                gauge_ns=step_ns if device.meter.grade == "counter" else 0,
                gauges=beside if device.meter.kind == "accelerator" else {},
            )
            for device, first_uj, energy_uj, trace in zip(self._devices, firsts_uj, energies_uj, traces, strict=True)
        )

    def _traces(self, before: State, after: State) -> Sequence[tuple[int, ...]]:
        """Mean power of each 10 s, by meter."""
        edges = [*range(before.at_ns + TRACE_STEP_NS, after.at_ns, TRACE_STEP_NS), after.at_ns]
        told = [_energies_uj(self._server, at_ns, self._server.course.at(at_ns)) for at_ns in edges[:-1]]
        from_ns, from_uj = before.at_ns, before.energies_uj
        columns = []
        for at_ns, energies_uj in zip(edges, [*told, after.energies_uj], strict=True):
            length_ns = at_ns - from_ns
            means_mw = (uj_over_ns_to_mw(b - a, length_ns) for a, b in zip(from_uj, energies_uj, strict=True))
            columns.append([int(coarse(mean_mw)) for mean_mw in means_mw])
            from_ns, from_uj = at_ns, energies_uj
        return list(zip(*columns, strict=True))

    def _engine(self, before: State, after: State, version: str) -> EngineWindow:
        step_ns = self._server.scenario.step_ns
        work = (self._work(key, counts) for key, counts in sorted(done(before.counts, after.counts).items()))
        return EngineWindow(
            engine=msgspec.structs.replace(self._server.engine, version=version),
            work=tuple(work),
            covered_ns=step_ns,
            running_start=before.running,
            running_end=after.running,
            running_ns=(before.running + after.running) * step_ns // 2,
            queued_ns=0,
        )

    def _work(self, key: WorkKey, counts: Counts) -> Work:
        number = counts.requests_ok
        return Work(
            key=key,
            counts=counts,
            latency={kind: {cell: number} if number else {} for kind, cell in self._cells.items()},
        )

    def _facts(self, start_ns: int, version: str) -> dict[str, str]:
        """All facts once an hour and on change, as the agent tells them."""
        if start_ns % HOUR_NS and version == self._version:
            return {}
        self._version = version
        boards = [device.meter for device in self._devices if device.meter.driver]
        return {
            **{f"driver:{meter.id}": meter.driver for meter in boards},
            **{f"power_limit_mw:{meter.id}": str(meter.power_limit_mw) for meter in boards},
            f"engine:{self._server.engine.id}": version,
        }


def _energies_uj(server: SimServer, at_ns: int, amounts: Amounts) -> list[int]:
    return server.chassis.energies_uj(at_ns - server.begin_ns, amounts.dynamic_uj)


def _difference(after: Counts, before: Counts) -> Counts:
    return Counts(**{name: _change(getattr(before, name), getattr(after, name)) for name in COUNT_FIELDS})


def _change(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
