"""Sharing out is exact, fair to the unit, and never gives to whom nothing is due."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.account.share import share_out

weights = st.lists(st.integers(0, 10**12), min_size=1, max_size=8).filter(any)


def test_the_largest_remainders_take_what_is_left() -> None:
    assert share_out(10, [1, 1, 1]) == [4, 3, 3]
    assert share_out(7, [3, 3, 1]) == [3, 3, 1]
    assert share_out(5, [1, 9]) == [1, 4]
    assert share_out(2, [1, 8, 9]) == [0, 1, 1]


@given(total=st.integers(0, 10**15), weights=weights)
def test_parts_add_up_and_are_within_one_of_the_exact_share(total: int, weights: list[int]) -> None:
    parts = share_out(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(total * weight, sum(weights))) < 1
        assert part == 0 or weight > 0


@given(total=st.integers(0, 10**9), weights=weights, scale=st.integers(1, 50))
def test_only_proportions_matter(total: int, weights: list[int], scale: int) -> None:
    assert share_out(total, [weight * scale for weight in weights]) == share_out(total, weights)


def test_nothing_is_shared_among_nobody() -> None:
    assert share_out(0, []) == []
    assert share_out(0, [0, 0]) == [0, 0]
    with pytest.raises(ValueError, match="no weight above 0"):
        share_out(1, [0, 0])


@pytest.mark.parametrize(("total", "weights"), [(-1, [1]), (1, [2, -1])])
def test_negative_amounts_are_refused(total: int, weights: list[int]) -> None:
    with pytest.raises(ValueError, match="neither may be negative"):
        share_out(total, weights)
