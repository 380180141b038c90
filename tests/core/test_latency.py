"""Latencies on the one grid: no request is lost, sums stay sums, quantiles stay near."""

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from joulefleet.latency import CELLS_PER_DECADE, GRID, add, cell_of, onto_grid, quantile_s

edges = st.sets(
    st.one_of(st.sampled_from([0.0, 0.001, 0.01, 0.25, 1.0, 10.0, 1e4, 2e4, 1e5]), st.floats(1e-6, 1e6)), max_size=12
)
buckets = edges.flatmap(
    lambda some: st.fixed_dictionaries({edge: st.integers(0, 10**6) for edge in [*sorted(some), math.inf]})
)
CELL = 10 ** (1 / CELLS_PER_DECADE)


def test_the_grid() -> None:
    assert len(GRID) == 57
    assert (GRID[0], GRID[-1]) == (1e-3, 1e4)
    assert all(upper / lower == pytest.approx(CELL) for lower, upper in pairwise(GRID))


@given(buckets)
@example({2e4: 3, 4e4: 5, math.inf: 7})
@example({0.0: 3, math.inf: 7})
@example({math.inf: 7})
def test_no_request_is_lost_and_none_is_negative(some: dict[float, int]) -> None:
    cells = onto_grid(some)
    assert sum(cells.values()) == sum(some.values())
    assert all(count > 0 and 0 <= cell <= len(GRID) for cell, count in cells.items())


@given(edges, st.data())
def test_sums_of_buckets_are_sums_of_cells_but_for_rounding(some: set[float], data: st.DataObject) -> None:
    each = st.fixed_dictionaries({edge: st.integers(0, 10**6) for edge in [*some, math.inf]})
    a, b = data.draw(each), data.draw(each)
    together = onto_grid({edge: a[edge] + b[edge] for edge in a})
    apart = add([onto_grid(a), onto_grid(b)])
    assert sum(together.values()) == sum(apart.values())
    # Each bucket is rounded three times by less than one request, in each cell it touches.
    assert all(abs(together.get(cell, 0) - apart.get(cell, 0)) < 3 * len(a) for cell in {*together, *apart})


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.integers(1, 1000))
def test_requests_stay_between_the_edges_of_their_bucket(one: float, other: float, count: int) -> None:
    lower, upper = sorted((one, other))
    cells = onto_grid({lower: 0, upper: count, math.inf: 0} if lower < upper else {upper: count, math.inf: 0})
    assert min(cells) >= (cell_of(lower) if lower < upper else 0)
    assert max(cells) <= cell_of(upper) + 1


@pytest.mark.parametrize(
    ("some", "cells"),
    [
        # Eight cells between the edges of a decade, an equal share for each.
        ({0.01: 0, 0.1: 16, math.inf: 0}, dict.fromkeys(range(9, 17), 2)),
        ({0.001: 5, math.inf: 0}, {0: 5}),
        # The open bucket goes where it begins: after an edge of the grid, or into the cell that holds its lower edge.
        ({0.1: 0, math.inf: 4}, {17: 4}),
        ({0.0015: 0, math.inf: 4}, {2: 4}),
        ({1e4: 0, math.inf: 4}, {57: 4}),
        ({math.inf: 4}, {0: 4}),
        ({}, {}),
    ],
)
def test_where_requests_go(some: dict[float, int], cells: dict[int, int]) -> None:
    assert onto_grid(some) == cells


@given(st.floats(0, 1e6))
def test_a_cell_holds_its_upper_edge(latency_s: float) -> None:
    cell = cell_of(latency_s)
    assert cell == len(GRID) or latency_s <= GRID[cell] * (1 + 1e-8)
    assert cell == 0 or latency_s > GRID[cell - 1]


@pytest.mark.parametrize("decade", range(-3, 5))
def test_a_power_of_ten_as_written_ends_its_cell(decade: int) -> None:
    assert cell_of(float(f"1e{decade}")) == (decade + 3) * CELLS_PER_DECADE


@given(st.lists(st.dictionaries(st.integers(0, 57), st.integers(1, 10**9)), max_size=4), st.randoms())
def test_adding_knows_no_order(several: list[dict[int, int]], random: object) -> None:
    total = add(several)
    shuffled = list(several)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert add(shuffled) == total
    assert sum(total.values()) == sum(sum(one.values()) for one in several)


@given(st.lists(st.floats(1e-3, 9e3), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_within_one_cell(latencies_s: list[float], share: float) -> None:
    cells = add([{cell_of(latency_s): 1} for latency_s in latencies_s])
    told_s = quantile_s(cells, share)
    true_s = sorted(latencies_s)[max(math.ceil(share * len(latencies_s) - 1e-9) - 1, 0)]
    assert told_s is not None
    assert true_s / CELL * (1 - 1e-6) <= told_s <= true_s * CELL * (1 + 1e-6)


def test_quantiles_at_the_ends() -> None:
    assert quantile_s({}, 0.5) is None
    assert quantile_s({57: 1}, 0.99) == 1e4
    assert quantile_s({8: 10}, 1.0) == pytest.approx(0.01)
    assert quantile_s({8: 10}, 0.5) == pytest.approx(0.01 / math.sqrt(CELL))
