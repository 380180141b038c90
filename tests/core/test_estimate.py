"""Intervals and ratios against known answers, and how often they hold."""

import random
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.estimate import mean_interval, ratio_of_sums, student_975


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.706), (9, 2.262), (11, 2.228), (29, 2.086), (10**6, 1.980)])
def test_the_quantile_is_that_of_the_table_or_a_wider_one(freedom: int, quantile: float) -> None:
    assert student_975(freedom) == quantile


def test_no_interval_from_one_value() -> None:
    for values in ([], [5.0]):
        with pytest.raises(ValueError, match="two"):
            mean_interval(values)


def test_a_known_interval() -> None:
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.mean == 3.0
    assert found.half_width == pytest.approx(2.776 * sqrt(2.5 / 5))
    assert not found.includes_zero
    assert mean_interval([-1.0, 2.0, 0.5]).includes_zero


def test_the_interval_holds_the_truth_19_times_in_20() -> None:
    chance = random.Random(7)
    found = [mean_interval([chance.gauss(3, 2) for _ in range(8)]) for _ in range(4_000)]
    hits = sum(abs(one.mean - 3) <= one.half_width for one in found)
    assert 0.94 < hits / 4_000 < 0.96


def test_a_known_ratio() -> None:
    # x = 1, 2, 3; y = 2, 4, 9: R = 15/6; residuals -0.5, -1, 1.5 with squares 3.5; v = 3.5 / (2 * 3 * 4).
    found = ratio_of_sums([(1, 2), (2, 4), (3, 9)])
    assert found.value == 2.5
    assert found.error == pytest.approx(sqrt(3.5 / 24))


@given(st.lists(st.floats(1, 1e6), min_size=2, max_size=50), st.floats(0.1, 10))
def test_figures_in_proportion_have_their_ratio_and_no_error(first: list[float], gain: float) -> None:
    found = ratio_of_sums([(x, x * gain) for x in first])
    assert found.value == pytest.approx(gain)
    assert found.error == pytest.approx(0, abs=1e-6 * gain)


def test_the_error_of_a_ratio_is_what_it_scatters_by() -> None:
    chance = random.Random(3)

    def once() -> tuple[float, float]:
        powers = [chance.uniform(100, 300) for _ in range(40)]
        found = ratio_of_sums([(p, 1.04 * p + chance.gauss(0, 10)) for p in powers])
        return found.value, found.error

    found = [once() for _ in range(2_000)]
    scatter = sqrt(sum((value - 1.04) ** 2 for value, _ in found) / len(found))
    assert sum(error for _, error in found) / len(found) == pytest.approx(scatter, rel=0.05)


@pytest.mark.parametrize("pairs", [[], [(1.0, 1.0)], [(0.0, 1.0), (0.0, 2.0)], [(1.0, 1.0), (-2.0, 1.0)]])
def test_no_ratio_from_nothing(pairs: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="two pairs"):
        ratio_of_sums(pairs)
