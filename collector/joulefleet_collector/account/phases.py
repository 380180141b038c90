"""Phases of many windows at once, all of one plan: as `phase`, in numbers side by side."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from joulefleet import units
from joulefleet_collector.account.plan import Plan
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.sheet import Floats

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Columns = dict[str, Any]

_HALF = 2**22
_MOST_WEIGHT = 2.0**40
_MOST_ENERGY = 2.0**45
"""Below which a product of an energy and a weight, halved as in `_prefill`, is less than 2**63."""

_j = cast("Callable[[Any], Floats]", units.uj_to_j)


class Ways(NamedTuple):
    """How one model's energy is split in each window. Weights have a line for the usual ones and for each end of the
    range."""

    known: Bools
    prefill: Floats
    both: Floats
    """Of prefill and decode together."""


def ways_of(plan: Plan, counts: Columns, policy: Policy) -> list[Ways]:
    """As `phase.phase_weights`, by model; `counts` are by model too."""
    return [_ways(plan, model, counts, policy) for model in range(len(plan.model_engines))]


def split_exactly(ways: Sequence[Ways], energy_uj: Floats) -> Bools:
    """Windows whose phases are told exactly here; `energy_uj` is that of all meters."""
    good: Bools = energy_uj.sum(axis=1) < _MOST_ENERGY
    for way in ways:
        good &= (way.both < _MOST_WEIGHT).all(axis=0)
    return good


def by_phase(ways: Ways, active_uj: Ints, idle_uj: Ints) -> Columns:
    """As `phase.by_phase`."""
    prefill, both = ways.prefill.astype(np.int64), ways.both.astype(np.int64)
    active, idle = _prefill(active_uj, prefill, both), _prefill(idle_uj, prefill, both)
    in_range, done = active + idle, both[0] > 0
    columns = {
        "prefill_active_j": active[0],
        "prefill_idle_j": idle[0],
        "decode_active_j": np.where(done, active_uj - active[0], 0),
        "decode_idle_j": np.where(done, idle_uj - idle[0], 0),
        "prefill_low_j": in_range.min(axis=0),
        "prefill_high_j": in_range.max(axis=0),
    }
    return {name: np.where(ways.known, _j(energy_uj), np.nan) for name, energy_uj in columns.items()}


def _ways(plan: Plan, model: int, counts: Columns, policy: Policy) -> Ways:
    told = {name: values[:, model] for name, values in counts.items()}
    if phase := plan.phases[plan.model_engines[model]]:
        both = np.ones((1, len(told["busy_ns"])))
        return Ways(both[0] > 0, both * (phase == "prefill"), both)
    busy, prefill_busy = told["busy_ns"], np.minimum(told["prefill_busy_ns"], told["busy_ns"])
    measured = (busy > 0) & ~np.isnan(prefill_busy)
    counted = ~np.isnan(told["prompt_tokens"]) & ~np.isnan(told["output_tokens"])
    prompts = np.nan_to_num(np.maximum(told["prompt_tokens"] - np.nan_to_num(told["cached_tokens"]), 0.0)) * counted
    outputs = np.nan_to_num(told["output_tokens"]) * counted
    ends = [(policy.prefill_weight, decode) for decode in policy.decode_weight_range]
    of_prefill, of_decode = np.array([_usual(plan.model_names[model], policy), *ends]).T[:, :, None]
    prefill = np.where(measured, prefill_busy, of_prefill * prompts)
    both = np.where(measured, busy, of_prefill * prompts + of_decode * outputs)
    return Ways(measured | counted, prefill, both)


def _usual(model: str | None, policy: Policy) -> tuple[int, int]:
    usual = (policy.prefill_weight, policy.decode_weight)
    return usual if model is None else policy.phase_weights.get(model, usual)


def _prefill(energy_uj: Ints, prefill: Ints, both: Ints) -> Ints:
    """As `phase._prefill`. Energy is multiplied in two halves, since the product may need more than 64 bits."""
    whole = np.maximum(both, 1)
    high, rest = np.divmod(energy_uj // _HALF * prefill, whole)
    low, rest = np.divmod(rest * _HALF + energy_uj % _HALF * prefill, whole)
    return cast("Ints", high * _HALF + low + (2 * rest >= whole))
