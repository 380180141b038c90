"""Phases of many windows at once, all of one plan: as `phase`, in numbers side by side."""

from collections.abc import Callable
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

_FIELDS = ("prefill_active_j", "prefill_idle_j", "decode_active_j", "decode_idle_j", "prefill_low_j", "prefill_high_j")
_HALF = 2**22
_MOST_WEIGHT = 2.0**40
_MOST_ENERGY = 2.0**45
"""Below which a product of an energy and a weight, halved as in `_prefill`, is less than 2**63."""

_j = cast("Callable[[Any], Floats]", units.uj_to_j)


class Ways(NamedTuple):
    """Weights of prefill, and of both phases together, by window: the usual ones, and at both ends of the range."""

    known: Bools
    prefill: list[Floats]
    both: list[Floats]


def split_exactly(plan: Plan, counts: Columns, energy_uj: Floats, policy: Policy) -> Bools:
    """Windows whose phases are told exactly here; `counts` are by model, `energy_uj` that of all meters."""
    good: Bools = energy_uj.sum(axis=1) < _MOST_ENERGY
    for model in range(len(plan.model_engines)):
        if not plan.phases[plan.model_engines[model]]:
            good &= ~np.any([weight >= _MOST_WEIGHT for weight in _ways(plan, model, counts, policy).both], axis=0)
    return good


def by_phase(plan: Plan, model: int, counts: Columns, energy_uj: tuple[Ints, Ints], policy: Policy) -> Columns:
    """As `phase.by_phase` with the weights of this model; energy is active and idle."""
    phase = plan.phases[plan.model_engines[model]]
    if phase:
        prefill = [each if phase == "prefill" else each * 0 for each in energy_uj]
        return _columns(prefill, [each - its for each, its in zip(energy_uj, prefill, strict=True)], [sum(prefill)])
    ways = _ways(plan, model, counts, policy)
    parts = [
        [_prefill(each, *(weights.astype(np.int64) for weights in way)) for each in energy_uj]
        for way in zip(ways.prefill, ways.both, strict=True)
    ]
    done = ways.both[0] > 0
    decode = [np.where(done, each - its, 0) for each, its in zip(energy_uj, parts[0], strict=True)]
    columns = _columns(parts[0], decode, [sum(each) for each in parts])
    return {name: np.where(ways.known, values, np.nan) for name, values in columns.items()}


def _columns(prefill: list[Ints], decode: list[Ints], in_range: list[Any]) -> Columns:
    values = (*prefill, *decode, np.min(in_range, axis=0), np.max(in_range, axis=0))
    return dict(zip(_FIELDS, map(_j, values), strict=True))


def _ways(plan: Plan, model: int, counts: Columns, policy: Policy) -> Ways:
    told = {name: values[:, model] for name, values in counts.items()}
    busy, prefill_busy = told["busy_ns"], np.minimum(told["prefill_busy_ns"], told["busy_ns"])
    measured = (busy > 0) & ~np.isnan(prefill_busy)
    counted = ~np.isnan(told["prompt_tokens"]) & ~np.isnan(told["output_tokens"])
    prompts = np.nan_to_num(np.maximum(told["prompt_tokens"] - np.nan_to_num(told["cached_tokens"]), 0.0))
    outputs = np.nan_to_num(told["output_tokens"])
    weights = [
        _usual(plan.model_names[model], policy),
        *((policy.prefill_weight, decode) for decode in policy.decode_weight_range),
    ]
    prefill = [np.where(measured, prefill_busy, weight * prompts * counted) for weight, _ in weights]
    decode = [np.where(measured, busy - prefill_busy, weight * outputs * counted) for _, weight in weights]
    return Ways(measured | counted, prefill, [one + other for one, other in zip(prefill, decode, strict=True)])


def _usual(model: str | None, policy: Policy) -> tuple[int, int]:
    usual = (policy.prefill_weight, policy.decode_weight)
    return usual if model is None else policy.phase_weights.get(model, usual)


def _prefill(energy_uj: Ints, prefill: Ints, both: Ints) -> Ints:
    """The first of two parts by `share_out`: rounded to the nearest, and up from the middle; 0 where both are.

    Energy is multiplied in two halves, since the product may need more than 64 bits.
    """
    whole = np.maximum(both, 1)
    high, rest = np.divmod(energy_uj // _HALF * prefill, whole)
    low, rest = np.divmod(rest * _HALF + energy_uj % _HALF * prefill, whole)
    return cast("Ints", high * _HALF + low + (2 * rest >= whole))
