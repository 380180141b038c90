"""Means and ratios of paired figures, each with how far it may be off."""

from collections.abc import Sequence
from math import fsum, sqrt
from statistics import fmean, stdev

import msgspec

STUDENT_975: tuple[tuple[int, float], ...] = (
    (1, 12.706),
    (2, 4.303),
    (3, 3.182),
    (4, 2.776),
    (5, 2.571),
    (6, 2.447),
    (7, 2.365),
    (8, 2.306),
    (9, 2.262),
    (10, 2.228),
    (12, 2.179),
    (15, 2.131),
    (20, 2.086),
    (30, 2.042),
    (60, 2.000),
    (120, 1.980),
)
"""Degrees of freedom and the 97.5 % quantile of Student's t; between two rows the wider one holds."""


class Interval(msgspec.Struct, frozen=True):
    """A mean and its 95 % interval: mean - half_width to mean + half_width."""

    mean: float
    half_width: float

    @property
    def includes_zero(self) -> bool:
        """Whether the data do not tell its sign."""
        return abs(self.mean) <= self.half_width


class Ratio(msgspec.Struct, frozen=True):
    """A ratio of sums and its standard error (k = 1)."""

    value: float
    error: float


def student_975(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, or a little more. Raises ValueError below one degree of freedom."""
    if freedom < 1:
        raise ValueError("an interval needs two values")
    return next(quantile for row, quantile in reversed(STUDENT_975) if row <= freedom)


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of independent values and its 95 % interval by Student's t. Raises ValueError below two values."""
    quantile = student_975(len(values) - 1)
    return Interval(fmean(values), quantile * stdev(values) / sqrt(len(values)))


def ratio_of_sums(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """Sum of the second figures over the sum of the first, and its standard error.

    The error is that of the ratio estimator, by the delta method: Cochran, Sampling Techniques, 3rd edition 1977,
    section 2.11: v(R) = sum((y - R x)^2) / ((n - 1) n mean(x)^2). Raises ValueError below two pairs, or where the
    first figures add up to nothing.
    """
    number, first = len(pairs), fsum(x for x, _ in pairs)
    if number < 2 or first <= 0:
        raise ValueError("a ratio needs two pairs whose first figures add up to more than 0")
    value = fsum(y for _, y in pairs) / first
    squares = fsum((y - value * x) ** 2 for x, y in pairs)
    return Ratio(value, sqrt(squares / ((number - 1) * number)) * number / first)
