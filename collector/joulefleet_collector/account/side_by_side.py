"""Rows of what was measured as it is, as in `measured`, of many windows at once, all of one plan."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, cast

import numpy as np

from joulefleet import units
from joulefleet_collector.account.numbers import Numbers, Told
from joulefleet_collector.account.plan import Plan
from joulefleet_collector.account.sensor import BY_GAUGE, BY_STATE, FAULTS
from joulefleet_collector.sheet import COLUMNS, Floats

Columns = dict[str, Any]
"""Numbers of one row of every window by field: an array, or one number for all."""

_j = cast("Callable[[Any], Floats]", units.uj_to_j)
_s = cast("Callable[[Any], Floats]", units.ns_to_s)

_COST = ("cpu_ns", "energy_uj", "rss_bytes", "spool_windows", "spool_bytes")
_CLOCK = ("clock_ahead_ns", "clock_error_ns")
_LOSSES = ("windows", "seconds", "energy_uj", "refused_windows")
_of_cost, _of_clock, _of_losses = attrgetter(*_COST), attrgetter(*_CLOCK), attrgetter(*_LOSSES)


def meters(plan: Plan, numbers: Numbers) -> Floats:
    """As `measured.meter`, all meters side by side."""
    read = numbers.meters
    told = (read["covered_ns"] > 0) | (read["energy_uj"] > 0)
    checked = read["gauge_ns"] > 0
    columns = {
        "window_s": np.full_like(read["energy_uj"], units.ns_to_s(plan.step_ns)),
        "energy_j": np.where(told, _j(read["energy_uj"]), np.nan),
        "covered_s": _s(read["covered_ns"]),
        "interpolated_s": _s(read["interpolated_ns"]),
        "late_j": _j(read["late_uj"]),
        "rejected_j": _j(read["rejected_uj"]),
        "lower_bound_j": _j(read["lower_bound_uj"]),
        "gauge_j": np.where(checked, _j(read["gauge_uj"]), np.nan),
        "gauge_s": np.where(checked, _s(read["gauge_ns"]), np.nan),
        "gap_s": _s(read["gap_ns"]),
        **by_state(plan, read["energy_uj"]),
        **by_fault(plan, numbers),
    }
    side_by_side = np.stack([columns[name] for name in COLUMNS["meter"]], axis=2)
    return side_by_side.reshape(len(side_by_side), -1)


def by_state(plan: Plan, energy_uj: Floats) -> Columns:
    """As `sensor.by_state`, by meter."""
    return {field: _j(energy_uj * plan.bearing(state)) for state, field in BY_STATE.items()}


def by_fault(plan: Plan, numbers: Numbers) -> Columns:
    """As `sensor.by_fault`, by meter."""
    read = numbers.meters
    faults = {f"{fault}_s": _s(read[f"{fault}_ns"]) for fault in FAULTS}
    return faults | {f"{BY_GAUGE}_s": faults[f"{BY_GAUGE}_s"] + _s(read["covered_ns"] * plan.bearing(BY_GAUGE))}


def agent(plan: Plan, windows: Sequence[Told]) -> Columns:
    """As `measured.agent`."""
    cost = np.array([_of_cost(w.agent) for w in windows], np.float64)
    measured = cost[:, _COST.index("rss_bytes")] > 0
    cpu_ns, energy_uj, *held = np.where(measured[:, np.newaxis], cost, np.nan).T
    # Where a clock was not compared there is None, of which an array of floats makes NaN.
    ahead_ns, error_ns = np.array([_of_clock(w.agent) for w in windows], np.float64).T
    lost_windows, lost_s, lost_uj, refused = np.array([_of_losses(w.losses) for w in windows], np.float64).T
    return {
        "windows": 1.0,
        "window_s": units.ns_to_s(plan.step_ns),
        "cpu_s": _s(cpu_ns),
        "energy_j": _j(energy_uj),
        **dict(zip(("rss_bytes", "spool_windows", "spool_bytes"), held, strict=True)),
        "clock_ahead_s": _s(ahead_ns),
        "clock_error_s": _s(error_ns),
        "lost_windows": lost_windows,
        "lost_s": lost_s,
        "lost_j": _j(lost_uj),
        "refused_windows": refused,
    }
