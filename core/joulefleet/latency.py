"""The one fixed log grid of latencies, so that bucket counts of different engines add up.

Cell k holds requests with a latency in (GRID[k-1], GRID[k]] seconds; cell 0 begins at 0, and the last cell,
number len(GRID), has no upper end. Eight cells a decade from 1 ms to 10,000 s bound a quantile to a factor of 1.33.
"""

import math
from collections.abc import Iterable, Mapping

CELLS_PER_DECADE = 8
FIRST_EDGE_S = 1e-3
DECADES = 7
GRID: tuple[float, ...] = tuple(
    FIRST_EDGE_S * 10 ** (k / CELLS_PER_DECADE) for k in range(CELLS_PER_DECADE * DECADES + 1)
)

Cells = dict[int, int]
"""Requests by cell number; empty cells are left out."""


def onto_grid(buckets: Mapping[float, int]) -> Cells:
    """Lay the counts of an engine's own buckets (by upper edge in seconds, inf for the last) onto the grid.

    A bucket that spans several cells is shared among them in proportion to their widths on the log scale, in whole
    requests (largest remainder), so that no request is lost. The open last bucket goes where its lower edge lies.
    """
    cells: Cells = {}
    lower = 0.0
    for upper in sorted(buckets):
        for cell, count in zip(*_share(lower, upper, buckets[upper]), strict=True):
            if count:
                cells[cell] = cells.get(cell, 0) + count
        lower = upper
    return cells


def cell_of(latency_s: float) -> int:
    """Number of the cell that holds this latency."""
    low, high = 0, len(GRID)
    while low < high:
        middle = (low + high) // 2
        # An edge that an engine writes as 0.01 must fall into the cell that ends there, not into the next one.
        if latency_s <= GRID[middle] * (1 + 1e-9):
            high = middle
        else:
            low = middle + 1
    return low


def add(cells: Iterable[Cells]) -> Cells:
    """The sum of several sets of cells."""
    total: Cells = {}
    for one in cells:
        for cell, count in one.items():
            total[cell] = total.get(cell, 0) + count
    return total


def quantile_s(cells: Cells, share: float) -> float | None:
    """Latency in seconds below which this share of the requests lies; None without requests.

    Interpolated on the log scale inside its cell; the open last cell gives its lower edge.
    """
    total = sum(cells.values())
    if total == 0:
        return None
    wanted, seen = share * total, 0
    for cell in sorted(cells):
        if seen + cells[cell] >= wanted:
            return _inside(cell, (wanted - seen) / cells[cell])
        seen += cells[cell]
    return _inside(max(cells), 1.0)


def _inside(cell: int, part: float) -> float:
    if cell >= len(GRID):
        return GRID[-1]
    upper = GRID[cell]
    lower = GRID[cell - 1] if cell else upper * 10 ** (-1 / CELLS_PER_DECADE)
    return float(lower * (upper / lower) ** part)


def _share(lower: float, upper: float, count: int) -> tuple[list[int], list[int]]:
    """Cells that the bucket (lower, upper] touches, and its count shared out among them."""
    first = _cell_above(lower)
    if math.isinf(upper):
        return [first], [count]
    cells = list(range(first, max(cell_of(upper), first) + 1))
    return cells, _largest_remainder(count, [_log_width(cell, lower, upper) for cell in cells])


def _cell_above(latency_s: float) -> int:
    """Number of the cell that holds what is just above this latency."""
    cell = cell_of(latency_s)
    ends_here = cell < len(GRID) and latency_s >= GRID[cell] * (1 - 1e-9)
    return cell + 1 if ends_here else cell


def _log_width(cell: int, lower: float, upper: float) -> float:
    top = min(GRID[cell], upper) if cell < len(GRID) else upper
    bottom = max(_inside(cell, 0.0), lower)
    return math.log(top / bottom) if top > bottom else 0.0


def _largest_remainder(count: int, weights: list[float]) -> list[int]:
    total = sum(weights)
    if total <= 0:
        return [count] + [0] * (len(weights) - 1)
    exact = [count * weight / total for weight in weights]
    whole = [math.floor(share) for share in exact]
    by_rest = sorted(range(len(weights)), key=lambda k: whole[k] - exact[k])
    for k in by_rest[: count - sum(whole)]:
        whole[k] += 1
    return whole
