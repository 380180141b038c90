"""How the models of one engine share what is known of it as a whole, in many windows at once.

As `work.model_ways` without busy time, and `share.share_out`. Arrays have a line for each window; models are told by
number over all engines, as the plan has them.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from joulefleet.reading import COUNT_FIELDS
from joulefleet_collector.account.plan import Plan
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.sheet import Floats

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Columns = dict[str, Floats]

_MOST_EXACT = 2.0**52
_MOST_PRODUCT = 2.0**62


class Weights(NamedTuple):
    """How an engine's models share: whole numbers by window and model."""

    usual: Ints
    ends: tuple[Ints, ...]
    """At both ends of `Policy.decode_weight_range`."""


def by_model(plan: Plan, counts: Columns, late: Columns) -> tuple[Columns, Columns]:
    """Counts and late counts of each model, tenants summed (`work.by_model`)."""
    if plan.work_models == tuple(range(len(plan.model_engines))):
        return counts, late
    of = [[work for work, its in enumerate(plan.work_models) if its == m] for m in range(len(plan.model_engines))]
    return (
        {name: np.stack([counts[name][:, works].sum(axis=1) for works in of], axis=1) for name in COUNT_FIELDS},
        {name: np.stack([_known_sum(late[name][:, works]) for works in of], axis=1) for name in COUNT_FIELDS},
    )


def _known_sum(values: Floats) -> Floats:
    return cast("Floats", np.where(np.isnan(values).all(axis=1), np.nan, np.nansum(values, axis=1)))


def shared_exactly(plan: Plan, counts: Columns, late: Columns, most: Floats, policy: Policy) -> Bools:
    """Windows whose sums and products stay whole numbers here, where nothing shared is larger than `most`."""
    told, later = by_model(plan, counts, late)
    good = np.ones(len(most), np.bool_)
    for part in (told, later):
        good &= ~np.any([(each > _MOST_EXACT).any(axis=1) for each in part.values()], axis=0)
    for engine in range(len(plan.engines)):
        if len(plan.models_of(engine)) > 1:
            # How long each was busy is better than tokens, and too large a number to share by here.
            good &= np.isnan(told["busy_ns"][:, plan.models_of(engine)]).any(axis=1)
            for weight in (policy.decode_weight, *policy.decode_weight_range):
                whole = _weights(plan, engine, told, policy, weight).sum(axis=1)
                good &= (whole < _MOST_EXACT) & (whole * most < _MOST_PRODUCT)
    return good


def weights_of(plan: Plan, engine: int, counts: Columns, policy: Policy) -> Weights:
    """How the models of this engine share; `counts` are by model."""
    usual, *ends = (
        _weights(plan, engine, counts, policy, weight).astype(np.int64)
        for weight in (policy.decode_weight, *policy.decode_weight_range)
    )
    return Weights(usual, tuple(ends))


def _weights(plan: Plan, engine: int, counts: Columns, policy: Policy, decode_weight: int) -> Floats:
    of = plan.models_of(engine)
    known = {name: ~np.isnan(counts[name][:, of]) for name in COUNT_FIELDS}
    told = {name: np.where(known[name], counts[name][:, of], 0.0) for name in COUNT_FIELDS}
    prompts, outputs = (np.all(known[name], axis=1, keepdims=True) for name in ("prompt_tokens", "output_tokens"))
    computed = np.maximum(told["prompt_tokens"] - told["cached_tokens"], 0.0)
    units = prompts * policy.prefill_weight * computed + outputs * decode_weight * told["output_tokens"]
    units = units * _sizes([plan.model_names[model] for model in of], policy)
    requests = np.all(known["requests_ok"], axis=1, keepdims=True) * (told["requests_ok"] + told["requests_failed"])
    equal = np.where(np.any(requests, axis=1, keepdims=True), requests, 1.0)
    return cast("Floats", np.where(np.any(units, axis=1, keepdims=True), units, equal))


def _sizes(names: Sequence[str | None], policy: Policy) -> list[int]:
    known = [policy.model_weights[name] for name in names if name is not None and name in policy.model_weights]
    return known if len(known) == len(names) else [1] * len(names)


def share(totals: Ints, weights: Ints) -> Ints:
    """`share_out` of each of several totals: by total, window and model, from totals by total and window."""
    whole = weights.sum(axis=1)[:, None]
    exact = totals[:, :, None] * weights
    parts = exact // whole
    rest = exact - parts * whole
    rank = np.argsort(np.argsort(-rest, axis=2, kind="stable"), axis=2, kind="stable")
    return cast("Ints", parts + (rank < (totals - parts.sum(axis=2))[:, :, None]))


def share_in_range(totals: Ints, weights: Weights) -> tuple[Ints, Ints]:
    """The usual shares, and by how much the sum of each model's moves over the range of the decode weight."""
    shared = share(totals, weights.usual)
    sums = np.array([shared.sum(axis=0), *(share(totals, each).sum(axis=0) for each in weights.ends)])
    return shared, sums.max(axis=0) - sums.min(axis=0)


def share_signed(columns: Columns, weights: Ints) -> list[Columns]:
    """Whole numbers of an engine, of either sign or unknown, as its models share them (`usage._loads`)."""
    whole = np.array(list(columns.values()))
    parts = share(np.abs(np.nan_to_num(whole)).astype(np.int64), weights) * np.sign(whole)[:, :, None]
    return [dict(zip(columns, parts[:, :, place] + 0.0, strict=True)) for place in range(weights.shape[1])]
