"""The numbers of many windows side by side, and which of these windows a plan says all of."""

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from joulefleet.reading import COUNT_FIELDS
from joulefleet_collector.account.models import by_model, shared_exactly
from joulefleet_collector.account.phases import split_exactly, ways_of
from joulefleet_collector.account.plan import Plan
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.sensor import FAULTS
from joulefleet_collector.account.skim import UNKNOWN, Skimmed, SkimmedCost, SkimmedLosses
from joulefleet_collector.account.work import OF_OTHERS
from joulefleet_collector.sheet import Floats

Bools = NDArray[np.bool_]

_METER = (
    "energy_uj",
    "covered_ns",
    "interpolated_ns",
    "late_uj",
    "rejected_uj",
    "lower_bound_uj",
    "gauge_uj",
    "gauge_ns",
    "idle_mw",
    "idle_learnt",
)
_ENGINE = ("covered_ns", "restarts", "running_start", "running_end", "running_ns")
_GAPS = ("gap_ns", *(f"{fault}_ns" for fault in FAULTS))
_NO_GAPS = (0,) * len(_GAPS)
_MOST_PICOJOULES = 2.0**62
_of_meter, _of_engine, _of_counts = attrgetter(*_METER), attrgetter(*_ENGINE), attrgetter(*COUNT_FIELDS)


class Told(msgspec.Struct, frozen=True, gc=False):
    """What a window tells, its numbers in one line: thousands of objects that are let go of while they are at hand."""

    start_ns: int
    agent: SkimmedCost
    losses: SkimmedLosses
    figures: NDArray[np.int64]
    """Those of all meters, their gaps, those of all engines, counts of all their work, late counts."""


def told(window: Skimmed) -> Told:
    """What this window tells."""
    meters, engines = window.meters, window.engines
    works = [work for engine in engines for work in engine.work]
    figures = chain(
        chain.from_iterable(map(_of_meter, meters)),
        chain.from_iterable([_of_gaps(gaps) if (gaps := meter.gaps_ns) else _NO_GAPS for meter in meters]),
        chain.from_iterable(map(_of_engine, engines)),
        chain.from_iterable([_of_counts(work.counts) for work in works]),
        chain.from_iterable([_of_counts(work.late) for work in works]),
    )
    several = len(meters) * len(_METER + _GAPS) + len(engines) * len(_ENGINE) + 2 * len(works) * len(COUNT_FIELDS)
    return Told(window.start_ns, window.agent, window.losses, np.fromiter(figures, np.int64, several))


def _of_gaps(gaps_ns: dict[str, int]) -> tuple[int, ...]:
    return (sum(gaps_ns.values()), *[gaps_ns.get(fault, 0) for fault in FAULTS])


class Numbers(NamedTuple):
    """What was measured: arrays by window, then meter, engine or work, in the order of the plan. NaN is unknown."""

    meters: dict[str, Floats]
    engines: dict[str, Floats]
    counts: dict[str, Floats]
    late: dict[str, Floats]

    def of(self, chosen: Bools) -> "Numbers":
        """Those of the chosen windows."""
        return Numbers(*({name: values[chosen] for name, values in part.items()} for part in self))


def numbers_of(plan: Plan, windows: Sequence[Told]) -> Numbers:
    """The numbers of these windows, which are all of this plan."""
    figures = np.stack([window.figures for window in windows]).astype(np.float64)
    meters, engines, works = [*range(len(plan.resolution_uj))], [*plan.engines], _works(plan)
    parts, first = [], 0
    for names, order in (
        *((_METER, meters), (_GAPS, meters), (_ENGINE, engines)),
        *((COUNT_FIELDS, works), (COUNT_FIELDS, works)),
    ):
        end = first + len(names) * len(order)
        each = figures[:, first:end].reshape(len(windows), len(order), len(names))[:, order]
        parts.append({name: each[:, :, number] for number, name in enumerate(names)})
        first = end
    read, gaps, *of_engines = parts
    read |= gaps | {"idle_mw": _or_nan(read["idle_mw"])}
    read_of, counts, late = map(_all_or_nan, of_engines)
    for columns in (counts, late):
        _keep_own(plan, columns)
    return Numbers(read, read_of, counts, late)


def _keep_own(plan: Plan, columns: dict[str, Floats]) -> None:
    """As `work.own_work`, of all works side by side."""
    for place, model in enumerate(plan.work_models):
        for name in OF_OTHERS.get(plan.phases[plan.model_engines[model]], ()):
            columns[name][:, place] *= 0.0


def _works(plan: Plan) -> list[int]:
    """Place of each work of the plan, engine by engine, among all works of a window in its own order."""
    several = [
        sum(plan.model_engines[model] == engine for model in plan.work_models) for engine in range(len(plan.engines))
    ]
    before = [
        sum(number for number, other in zip(several, plan.engines, strict=True) if other < place)
        for place in plan.engines
    ]
    return [first + number for first, its in zip(before, several, strict=True) for number in range(its)]


def _or_nan(values: Floats) -> Floats:
    return np.where(values == UNKNOWN, np.nan, values)


def _all_or_nan(columns: dict[str, Floats]) -> dict[str, Floats]:
    return {name: _or_nan(values) for name, values in columns.items()}


def fit(plan: Plan, numbers: Numbers, policy: Policy) -> Bools:
    """Which windows the plan says all of: everything is covered, and no server's meter lags behind its boards."""
    enough_ns = policy.pair_threshold * plan.step_ns
    energy_uj, covered_ns = numbers.meters["energy_uj"].astype(np.int64), numbers.meters["covered_ns"]
    good = np.all(numbers.engines["covered_ns"] >= enough_ns, axis=1)
    # Idle power of a meter that is in no cover is not asked for, but its product must not run over either.
    good &= ~np.any(numbers.meters["idle_mw"] * covered_ns > _MOST_PICOJOULES, axis=1)
    for cover in plan.covers:
        good &= np.all(covered_ns[:, cover.devices + cover.meters] >= enough_ns, axis=1)
        if cover.whole is not None:
            good &= energy_uj[:, cover.whole] >= energy_uj[:, cover.devices].sum(axis=1)
    if len(plan.work_models) > len(plan.engines):
        engines = [numbers.engines[name] for name in ("restarts", "running_start", "running_end", "running_ns")]
        held_ns = len(plan.resolution_uj) * plan.step_ns
        most = np.maximum(np.nanmax(np.concatenate([energy_uj, *engines], axis=1), axis=1), held_ns)
        good &= shared_exactly(plan, numbers.counts, numbers.late, most, policy)
    counts, _ = by_model(plan, numbers.counts, numbers.late)
    good &= split_exactly(ways_of(plan, counts, policy), numbers.meters["energy_uj"])
    return cast("Bools", good)
