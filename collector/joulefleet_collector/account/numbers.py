"""The numbers of many windows side by side, and which of these windows a plan says all of."""

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from joulefleet.reading import COUNT_FIELDS
from joulefleet_collector.account.plan import Plan
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.skim import UNKNOWN, Skimmed
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
_MOST_PICOJOULES = 2.0**62
_of_meter, _of_engine, _of_counts = attrgetter(*_METER), attrgetter(*_ENGINE), attrgetter(*COUNT_FIELDS)


class Numbers(NamedTuple):
    """What was measured: arrays by window, then meter or engine, in the order of the plan. NaN is unknown."""

    meters: dict[str, Floats]
    engines: dict[str, Floats]
    counts: dict[str, Floats]
    late: dict[str, Floats]

    def of(self, chosen: Bools) -> "Numbers":
        """Those of the chosen windows."""
        return Numbers(*({name: values[chosen] for name, values in part.items()} for part in self))


def numbers_of(plan: Plan, windows: Sequence[Skimmed]) -> Numbers:
    """The numbers of these windows."""
    meters = len(plan.resolution_uj)
    engines = [w.engines[place] for w in windows for place in plan.engines]
    counted = len(windows), len(engines) // len(windows)
    read = _arrays(_METER, (_of_meter(one) for w in windows for one in w.meters), (len(windows), meters))
    gaps = np.fromiter((sum(one.gaps_ns.values()) for w in windows for one in w.meters), np.float64)
    read |= {"gap_ns": gaps.reshape(len(windows), meters), "idle_mw": _or_nan(read["idle_mw"])}
    return Numbers(
        read,
        _all_or_nan(_arrays(_ENGINE, map(_of_engine, engines), counted)),
        _all_or_nan(_arrays(COUNT_FIELDS, (_of_counts(one.work[0].counts) for one in engines), counted)),
        _all_or_nan(_arrays(COUNT_FIELDS, (_of_counts(one.work[0].late) for one in engines), counted)),
    )


def _arrays(names: Sequence[str], told: Iterable[tuple[int, ...]], shape: tuple[int, int]) -> dict[str, Floats]:
    every = np.fromiter(chain.from_iterable(told), np.float64, shape[0] * shape[1] * len(names))
    every = every.reshape(*shape, len(names))
    return {name: every[:, :, number] for number, name in enumerate(names)}


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
    return cast("Bools", good)
