"""Rows of what was measured as it is, without any decision: work, meters, the agent itself, facts."""

from collections.abc import Iterator

from joulefleet.describe import Meter
from joulefleet.units import ns_to_s, uj_to_j
from joulefleet.window import EngineWindow, MeterWindow, Window
from joulefleet_collector.account.identity import Entry, Tags
from joulefleet_collector.account.sensor import by_fault, by_state
from joulefleet_collector.account.work import counted
from joulefleet_collector.rows import FRONT


def work(engine: EngineWindow, tags: Tags, step_ns: int) -> Iterator[Entry]:
    """One entry for each model and tenant of an engine, whether its energy is known or not."""
    layer = FRONT if engine.engine.front else ""
    for each in engine.work:
        key = {"model": each.key.model, "revision": each.key.revision, "tenant": each.key.tenant, "layer": layer}
        fields = {
            **counted(each.counts),
            **counted(each.late, "late_"),
            "window_s": ns_to_s(step_ns),
            "covered_s": ns_to_s(engine.covered_ns),
        }
        yield Entry("work", tags | key, fields)


def meter(reading: MeterWindow, step_ns: int) -> Entry:
    """The entry of one meter, whether it is in a cover or not."""
    declared = reading.meter
    fields = {
        "window_s": ns_to_s(step_ns),
        "covered_s": ns_to_s(reading.covered_ns),
        "interpolated_s": ns_to_s(reading.interpolated_ns),
        "late_j": uj_to_j(reading.late_uj),
        "rejected_j": uj_to_j(reading.rejected_uj),
        "lower_bound_j": uj_to_j(reading.lower_bound_uj),
        "gap_s": ns_to_s(sum(reading.gaps_ns.values())),
        **by_fault(reading),
        **by_state([reading]),
    }
    # 0 J in no time would say that nothing was used.
    if reading.covered_ns or reading.energy_uj:
        fields["energy_j"] = uj_to_j(reading.energy_uj)
    if reading.gauge_ns:
        fields |= {"gauge_j": uj_to_j(reading.gauge_uj), "gauge_s": ns_to_s(reading.gauge_ns)}
    return Entry("meter", meter_tags(declared), fields)


def meter_tags(declared: Meter) -> Tags:
    """Tags of the row of one meter."""
    return {"meter": declared.id, "kind": declared.kind, "grade": declared.grade, "hw_model": declared.hw_model}


def agent(window: Window) -> Entry:
    """The entry of the agent: its own cost, its spool, its clock and what it has lost.

    Its cost is unknown where it was not measured (a recording, or a window that was closed together with a later one
    which bears the cost of both): every process holds some memory. Its clock is unknown where it was not compared.
    """
    cost, losses = window.agent, window.losses
    own = {
        "cpu_s": ns_to_s(cost.cpu_ns),
        "energy_j": uj_to_j(cost.energy_uj),
        "rss_bytes": float(cost.rss_bytes),
        "spool_windows": float(cost.spool_windows),
        "spool_bytes": float(cost.spool_bytes),
    }
    clock = {"clock_ahead_s": cost.clock_ahead_ns, "clock_error_s": cost.clock_error_ns}
    fields = {
        "windows": 1.0,
        "window_s": ns_to_s(window.step_ns),
        **(own if cost.rss_bytes else {}),
        **{name: ns_to_s(length_ns) for name, length_ns in clock.items() if length_ns is not None},
        "lost_windows": float(losses.windows),
        "lost_s": losses.seconds,
        "lost_j": uj_to_j(losses.energy_uj),
        "refused_windows": float(losses.refused_windows),
    }
    return Entry("agent", {}, fields)


def facts(window: Window) -> Iterator[Entry]:
    """One entry for each fact."""
    for fact, value in window.facts.items():
        yield Entry("facts", {"fact": fact, "value": value}, {"seen": 1.0})
