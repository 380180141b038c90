"""What the meters and the engine of a simulated server say at an instant, the faulty ones included."""

from collections.abc import Iterator, Mapping

from joulefleet.describe import WHOLE
from joulefleet.latency import GRID, cell_of
from joulefleet.reading import Counts, Failure, Histogram, MeterReading, Reading, WorkKey, WorkReading
from joulefleet_agent.simulate.catalogue import Model
from joulefleet_agent.simulate.demand import Amounts
from joulefleet_agent.simulate.roster import SimServer
from joulefleet_agent.simulate.scenario import Fault

FAILURES = {"gap": "read_failed", "hung": "hung"}
"""Faults in which nothing is said, and the code of each."""


def tenants(amounts: Amounts, keys: Mapping[WorkKey, int]) -> dict[WorkKey, Counts]:
    """Work by key, each rounded down by itself so that none ever falls. Nothing fails and nothing is cached."""
    return {
        key: Counts(
            requests_ok=amounts.requests * share // WHOLE,
            requests_failed=0,
            requests_aborted=0,
            prompt_tokens=amounts.prompt_tokens * share // WHOLE,
            cached_tokens=0,
            output_tokens=amounts.output_tokens * share // WHOLE,
        )
        for key, share in keys.items()
    }


def cells(model: Model) -> dict[str, int]:
    """The cell of the latency grid into which every request falls, by kind."""
    return {"e2e": cell_of(model.e2e_s), "ttft": cell_of(model.ttft_s)}


def gauges(server: SimServer, at_ns: int) -> dict[str, float]:
    """What each board tells beside its energy."""
    return {"utilisation_pct": float(server.course.dynamic_mw(at_ns) * 100 // max(server.course.peak_mw, 1))}


class Sensors:
    """All readings of one server, with its faults."""

    def __init__(self, server: SimServer) -> None:
        self._server = server
        self._faults: dict[str, list[tuple[int, int, Fault]]] = {}
        for fault in server.faults:
            self._faults.setdefault(fault.subject, []).append((*server.span_of(fault), fault))

    def read(self, at_ns: int) -> list[Reading]:
        """Everything at this instant."""
        amounts = self._server.course.at(at_ns)
        energies = self._energies_uj(at_ns, amounts)
        dynamic_mw, beside = self._server.course.dynamic_mw(at_ns), gauges(self._server, at_ns)
        return [
            *(
                self._meter(place, device.power_mw(dynamic_mw), energy_uj, at_ns, beside)
                for place, (device, energy_uj) in enumerate(zip(self._server.chassis.metered, energies, strict=True))
            ),
            self._engine(amounts, at_ns),
        ]

    def _meter(self, place: int, power_mw: int, energy_uj: int, at_ns: int, beside: dict[str, float]) -> Reading:
        device = self._server.chassis.metered[place]
        meter = device.meter
        if code := self._silent(meter.id, at_ns):
            return Failure(subject=meter.id, code=code, detail="simulated")
        counter_uj = energy_uj + (0 if self._began_anew(meter.id, at_ns) else device.offset_uj)
        for from_ns, until_ns in self._unseen(meter.id, at_ns):
            counter_uj -= self._energies_uj(until_ns)[place] - self._energies_uj(from_ns)[place]
        return MeterReading(
            meter=meter.id,
            at_ns=at_ns,
            counter_uj=counter_uj if meter.grade == "counter" else None,
            power_mw=power_mw,
            gauges=beside if meter.kind == "accelerator" else {},
        )

    def _engine(self, amounts: Amounts, at_ns: int) -> Reading:
        server, engine = self._server, self._server.engine.id
        if code := self._silent(engine, at_ns):
            return Failure(subject=engine, code=code, detail="simulated")
        for from_ns, until_ns in self._unseen(engine, at_ns):
            amounts = less(amounts, less(server.course.at(until_ns), server.course.at(from_ns)))
        counts = tenants(amounts, server.keys)
        return WorkReading(
            engine=engine,
            at_ns=at_ns,
            counts=counts,
            latency={key: _histograms(server.model, one.requests_ok or 0) for key, one in counts.items()},
            running=server.running(at_ns),
            queued=0,
            version=server.version_before(at_ns),
        )

    def _energies_uj(self, at_ns: int, amounts: Amounts | None = None) -> list[int]:
        server = self._server
        dynamic_uj = (amounts or server.course.at(at_ns)).dynamic_uj
        return server.chassis.energies_uj(at_ns - server.begin_ns, dynamic_uj)

    def _silent(self, subject: str, at_ns: int) -> str:
        """Code of the failure where nothing is said; empty where something is."""
        spans = self._faults.get(subject, ())
        return next((FAILURES[one.kind] for a, b, one in spans if one.kind in FAILURES and a <= at_ns < b), "")

    def _began_anew(self, subject: str, at_ns: int) -> bool:
        return any(one.kind == "reset" and from_ns <= at_ns for from_ns, _, one in self._faults.get(subject, ()))

    def _unseen(self, subject: str, at_ns: int) -> Iterator[tuple[int, int]]:
        """Times of which the counter does not tell: before it began anew, and while it stood still since."""
        spans = self._faults.get(subject, ())
        begin_ns = self._server.begin_ns
        reset_ns = max((a for a, _, one in spans if one.kind == "reset" and a <= at_ns), default=begin_ns)
        if reset_ns > begin_ns:
            yield begin_ns, reset_ns
        for from_ns, until_ns, one in spans:
            if one.kind == "stuck" and from_ns <= at_ns and until_ns > reset_ns:
                yield max(from_ns, reset_ns), min(until_ns, at_ns)


def less(one: Amounts, other: Amounts) -> Amounts:
    """The difference of two states."""
    return Amounts(*(a - b for a, b in zip(one, other, strict=True)))


def _histograms(model: Model, requests: int) -> dict[str, Histogram]:
    """All requests in one bucket of the grid; the empty one below tells where it begins."""
    return {
        kind: {**({repr(GRID[cell - 1]): 0} if cell else {}), repr(GRID[cell]): requests}
        for kind, cell in cells(model).items()
    }
