"""Rows of sums as few bytes: most of their numbers are 0, unknown, or equal to the one before.

A packed row is a byte with the length of its codes, the codes (four bits for each column), and the numbers that they
announce. A column behind the last code is unknown, so that rows stay readable when their kind gains columns.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from joulefleet_collector.sheet import Floats

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

UNKNOWN, ZERO, SAME, SHORT, SINGLE, DOUBLE = range(6)
"""What a code says of its column; SAME is equal to the last number before it, the last three bring a number."""
_NUMBERS: dict[int, np.dtype[Any]] = {SHORT: np.dtype("<u2"), SINGLE: np.dtype("<f4"), DOUBLE: np.dtype("<f8")}
_SIZES = np.array([0, 0, 0, *(number.itemsize for number in _NUMBERS.values())])
_SHORTS = 2**16
_WITHOUT = np.array([np.nan, 0.0, *([np.nan] * 4)])
"""What a column is before the numbers are put in, by its code."""


class Damaged(ValueError):
    """Bytes that `packed` did not make."""


def packed(values: Floats) -> list[bytes]:
    """Each row as bytes; NaN is unknown. A row has 510 columns at most. A number comes back as it was, to the bit."""
    width = values.shape[1] + values.shape[1] % 2
    codes = np.full((len(values), width), UNKNOWN, np.uint8)
    codes[:, : values.shape[1]][values == 0] = ZERO
    row, column = np.nonzero((values != 0) & ~np.isnan(values))
    numbers = values[row, column]
    of_number = _codes(numbers, row)
    codes[row, column] = of_number
    sizes, head = _SIZES[of_number], 1 + width // 2
    lengths = head + _by_row(row, sizes, len(values))
    ends = np.cumsum(lengths)
    data = np.empty(lengths.sum(), np.uint8)
    data[ends - lengths] = width // 2
    data[(ends - lengths)[:, None] + np.arange(1, head)] = codes[:, ::2] << 4 | codes[:, 1::2]
    places = np.cumsum(sizes) - sizes + (row + 1) * head
    for code, form in _NUMBERS.items():
        chosen = of_number == code
        data[places[chosen][:, None] + np.arange(form.itemsize)] = _as_bytes(numbers[chosen], form)
    whole = data.tobytes()
    return [whole[begin:end] for begin, end in pairwise([0, *ends.tolist()])]


def unpacked(rows: Sequence[bytes], width: int) -> Floats:
    """The rows with so many columns. Raises Damaged."""
    by_head: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        by_head.setdefault(row[0] if row else 0, []).append(place)
    if len(by_head) == 1:
        return _unpacked(rows, 1 + next(iter(by_head)), width)
    values = np.full((len(rows), width), np.nan)
    for of_codes, places in by_head.items():
        values[places] = _unpacked([rows[place] for place in places], 1 + of_codes, width)
    return values


def _unpacked(rows: Sequence[bytes], head: int, width: int) -> Floats:
    """Rows whose beginnings are equally long."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    if (lengths < head).any():
        raise Damaged("a row that ends within its codes")
    data = np.frombuffer(b"".join(rows), np.uint8)
    begins = np.cumsum(lengths) - lengths
    nibbles = data[begins[:, None] + np.arange(1, head)]
    codes = np.stack((nibbles >> 4, nibbles & 15), axis=2).reshape(len(rows), -1)
    if codes.size and codes.max() > DOUBLE:
        raise Damaged("an unknown code")
    row, column = np.nonzero(codes >= SAME)
    of_number = codes[row, column]
    sizes = _SIZES[of_number]
    if (head + _by_row(row, sizes, len(rows)) != lengths).any():
        raise Damaged("a row of the wrong length")
    numbers = np.empty(len(row))
    places = np.cumsum(sizes) - sizes + (row + 1) * head
    for code, form in _NUMBERS.items():
        chosen = of_number == code
        numbers[chosen] = np.ascontiguousarray(data[places[chosen][:, None] + np.arange(form.itemsize)]).view(form)[
            :, 0
        ]
    values = _WITHOUT[codes]
    last = _last(of_number != SAME)
    if (of_number[last] == SAME).any() or (row[last] != row).any():
        raise Damaged("a number that is the same as none")
    values[row, column] = numbers[last]
    return _with_columns(values, width)


def _with_columns(values: Floats, width: int) -> Floats:
    if values.shape[1] >= width:
        return values[:, :width]
    return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=np.nan)


def _codes(numbers: Floats, row: Places) -> Bytes:
    """The code of each number; those of one row stand together."""
    codes = np.full(len(numbers), DOUBLE, np.uint8)
    with np.errstate(over="ignore"):
        codes[numbers.astype(np.float32) == numbers] = SINGLE
    codes[(numbers > 0) & (numbers < _SHORTS) & (numbers == np.floor(numbers))] = SHORT
    codes[1:][(numbers[1:] == numbers[:-1]) & (row[1:] == row[:-1])] = SAME
    return codes


def _last(chosen: NDArray[np.bool_]) -> Places:
    """For each place the last chosen one up to it."""
    return np.maximum.accumulate(np.where(chosen, np.arange(len(chosen)), 0))


def _by_row(row: Places, sizes: Places, rows: int) -> Places:
    """Bytes of the numbers of each row."""
    return np.bincount(row, sizes, rows).astype(np.int64)


def _as_bytes(numbers: Floats, form: np.dtype[Any]) -> Bytes:
    return numbers.astype(form).view(np.uint8).reshape(-1, form.itemsize)
