"""Watts that models draw while they compute, fitted to what windows told; refused where windows do not tell them.

ACCOUNTING section 4: non-negative least squares over at least 200 windows, used only where the condition number of the
scaled matrix is below 1e4 and the residual below 10 %. All that a fit needs of its windows are sums of products, which
add up, so that as many windows as there are cost no more memory than one.
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from joulefleet_collector.account.policy import BusyWatts

LEAST_WINDOWS = 200
MOST_CONDITION = 1e4
MOST_RESIDUAL = 0.1
PREFILL, DECODE, BOTH = "prefill", "decode", ""

Floats = NDArray[np.float64]
Label = tuple[str, str]
"""A model, and its phase or `BOTH`."""
_ENOUGH = 1e-12
"""Below which a gradient of the scaled problem is rounding, against the largest."""
_MW = 3


class Sums(NamedTuple):
    """What windows add up to: of seconds by label, and of joules."""

    labels: tuple[Label, ...]
    products: Floats
    """Of seconds of each two labels, in s^2."""
    moments: Floats
    """Of joules and seconds of each label, in J s."""
    square_j2: float
    windows: int
    """Those in which anything was done."""


class Solution(NamedTuple):
    """What fits best."""

    values: Floats
    """By label, 0 or more; NaN for one without any seconds."""
    condition: float
    """Of the matrix with columns of equal length; infinite where labels cannot be told apart, and then no value is."""
    residual: float
    """Root of the mean square of what is not explained, against that of the joules."""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """Watts of the models of one hardware that were seen on boards together."""

    hardware: str
    models: tuple[str, ...]
    windows: int
    condition: float | None = None
    residual: float | None = None
    watts: tuple[BusyWatts, ...] = ()
    """One for each model; none where the fit was refused."""
    refused: str = ""
    """Why, in words."""


def sums_of(labels: Sequence[Label], seconds: Floats, joules: Floats) -> Sums:
    """Sums over windows; `seconds` by window and label, `joules` by window."""
    return Sums(
        tuple(labels),
        seconds.T @ seconds,
        seconds.T @ joules,
        float(joules @ joules),
        int(np.count_nonzero(seconds.any(axis=1))),
    )


def gathered(parts: Sequence[Sums], rename: Callable[[Label], Label] = lambda label: label) -> Sums:
    """The sums of all, labels that have one name added up."""
    labels = tuple(sorted({rename(label) for part in parts for label in part.labels}))
    products, moments = np.zeros((len(labels), len(labels))), np.zeros(len(labels))
    for part in parts:
        places = np.array([[rename(label) == name for label in part.labels] for name in labels], np.float64)
        products += places @ part.products @ places.T
        moments += places @ part.moments
    return Sums(labels, products, moments, sum(p.square_j2 for p in parts), sum(p.windows for p in parts))


def by_model(sums: Sums) -> Sums:
    """Without phases."""
    return gathered([sums], lambda label: (label[0], BOTH))


def solved(sums: Sums) -> Solution:
    """The non-negative watts that leave the least unexplained."""
    values, lengths = np.full(len(sums.labels), np.nan), np.sqrt(np.diag(sums.products))
    told = lengths > 0
    scaled = sums.products[np.ix_(told, told)] / np.outer(lengths[told], lengths[told])
    condition = _condition(scaled)
    if condition >= MOST_CONDITION:
        return Solution(values, condition, np.inf)
    values[told] = non_negative(scaled, sums.moments[told] / lengths[told]) / lengths[told]
    return Solution(values, condition, _residual(sums, np.nan_to_num(values)))


def _condition(scaled: Floats) -> float:
    # Eigenvalues of the products are squares of the matrix's singular values.
    own = np.linalg.eigvalsh(scaled)
    return float(np.sqrt(own[-1] / own[0])) if len(own) and own[0] > 0 else np.inf


def _residual(sums: Sums, values: Floats) -> float:
    left = float(sums.square_j2 - 2 * values @ sums.moments + values @ sums.products @ values)
    return sqrt(max(left, 0.0) / sums.square_j2) if sums.square_j2 else 1.0


def non_negative(products: Floats, moments: Floats) -> Floats:
    """The x >= 0 with the least x' products x - 2 x' moments, where `products` is positive definite.

    Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23: values leave 0 one by one, each time the one
    that explains most, and return to it where they would go below.
    """
    found, free = np.zeros(len(moments)), np.zeros(len(moments), np.bool_)
    # More rounds than that are rounding: it takes about as many as there are values.
    for _ in range(3 * len(moments)):
        gradient = np.where(free, -np.inf, moments - products @ found)
        best = int(gradient.argmax())
        if gradient[best] <= _ENOUGH * np.abs(moments).max():
            break
        free[best] = True
        _settle(products, moments, found, free)
    return found


def _settle(products: Floats, moments: Floats, found: Floats, free: NDArray[np.bool_]) -> None:
    """Go to the best values of those that are free; those that come to 0 on the way are free no longer."""
    while free.any():
        aim = np.zeros(len(found))
        aim[free] = np.linalg.solve(products[np.ix_(free, free)], moments[free])
        below = free & (aim <= 0)
        if not below.any():
            found[:] = aim
            return
        steps = found[below] / (found[below] - aim[below])
        found += steps.min() * (aim - found)
        free[np.flatnonzero(below)[steps == steps.min()]] = False
        found[~free] = 0.0


def fits(hardware: str, parts: Sequence[Sums]) -> list[Fit]:
    """A fit for each set of models of one hardware that boards link, directly or through others."""
    return [fit(hardware, _of_one_kind(group)) for group in _linked(parts)]


def fit(hardware: str, sums: Sums) -> Fit:
    """Watts by model and phase; by model alone where phases cannot be told apart; else refused."""
    found = Fit(hardware=hardware, models=tuple(sorted({model for model, _ in sums.labels})), windows=sums.windows)
    if sums.windows < LEAST_WINDOWS:
        return msgspec.structs.replace(found, refused=f"{sums.windows} windows, fewer than {LEAST_WINDOWS}")
    told, best = sums, solved(sums)
    if best.condition >= MOST_CONDITION:
        told = by_model(sums)
        best = solved(told)
    if best.condition >= MOST_CONDITION:
        return msgspec.structs.replace(found, refused="the models' busy times rise and fall together")
    found = msgspec.structs.replace(found, condition=best.condition, residual=best.residual)
    if best.residual >= MOST_RESIDUAL:
        return msgspec.structs.replace(
            found, refused=f"busy time explains the joules to no better than {MOST_RESIDUAL:.0%}"
        )
    watts = {model: _watts(model, told.labels, best.values) for model in found.models}
    silent = [model for model, both in watts.items() if not any(both)]
    if silent:
        return msgspec.structs.replace(found, refused=f"no watts can be told of {', '.join(silent)}")
    return msgspec.structs.replace(
        found,
        watts=tuple(
            BusyWatts(hardware=hardware, model=model, prefill_w=prefill_w, decode_w=decode_w)
            for model, (prefill_w, decode_w) in watts.items()
        ),
    )


def _watts(model: str, labels: Sequence[Label], values: Floats) -> tuple[float, float]:
    """Of prompts and of the rest; one of which nothing is known is taken to draw as the other."""
    known = {
        phase: round(float(value), _MW)
        for (its, phase), value in zip(labels, values, strict=True)
        if its == model and not np.isnan(value)
    }
    either = known.get(BOTH, max(known.values(), default=0.0))
    return known.get(PREFILL, either), known.get(DECODE, either)


def _of_one_kind(parts: Sequence[Sums]) -> Sums:
    """By phase, if all tell phases."""
    together = gathered(parts)
    return by_model(together) if any(phase == BOTH for _, phase in together.labels) else together


def _linked(parts: Sequence[Sums]) -> list[list[Sums]]:
    groups: list[tuple[set[str], list[Sums]]] = []
    for part in parts:
        models, members = {model for model, _ in part.labels}, [part]
        apart = [group for group in groups if group[0].isdisjoint(models)]
        for others, theirs in (group for group in groups if not group[0].isdisjoint(models)):
            models, members = models | others, members + theirs
        groups = [*apart, (models, members)]
    return [members for _, members in sorted(groups, key=lambda group: min(group[0]))]
