"""Adding up many rows at once is adding them up one by one."""

import json

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.sheet import COLUMNS
from joulefleet_collector.store import sums
from joulefleet_collector.store.sums import Block, add_up, joined, newest, pack, unpack

KIND = "agent"
WIDTH = len(COLUMNS[KIND])
number = st.none() | st.integers(-100, 100).map(float)
rows = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 3), st.lists(number, min_size=WIDTH, max_size=WIDTH)), min_size=1
)
Told = list[tuple[int, int, list[float | None]]]


def block(told: Told) -> Block:
    values = np.array([[np.nan if each is None else each for each in row] for _, _, row in told])
    series = np.array([series for _, series, _ in told])
    return Block(np.array([start for start, _, _ in told]), series, series % 2 + 10, values)


def one_by_one(told: Told, step: int, fleet: bool) -> dict[tuple[int, int], list[float | None]]:
    found: dict[tuple[int, int], list[float | None]] = {}
    for start, series, row in told:
        key = (start - start % step, series % 2 + 10 if fleet else series)
        before = found.get(key, [None] * WIDTH)
        found[key] = [a if b is None else b if a is None else a + b for a, b in zip(before, row, strict=True)]
    return found


def as_told(block: Block) -> dict[tuple[int, int], list[float | None]]:
    values = [[None if np.isnan(each) else each for each in row] for row in block.values.tolist()]
    return dict(zip(zip(block.start_ns.tolist(), block.series.tolist(), strict=True), values, strict=True))


@given(told=rows, step=st.sampled_from([1, 4]), fleet=st.booleans())
def test_rows_add_up_as_one_by_one(told: Told, step: int, fleet: bool) -> None:
    found = add_up(block(told), step, fleet)
    assert as_told(found) == one_by_one(told, step, fleet)
    assert len(found.start_ns) == len(as_told(found))


@given(told=rows)
def test_finer_sums_add_up_to_the_coarser(told: Told) -> None:
    assert as_told(add_up(add_up(block(told), 2), 4)) == one_by_one(told, 4, False)


@given(told=rows, more=rows)
def test_what_is_packed_is_unpacked(told: Told, more: Told) -> None:
    back = unpack(pack(joined([{KIND: block(told)}, {KIND: block(more)}])))
    assert as_told(add_up(back[KIND], 1)) == one_by_one(told + more, 1, False)
    assert back[KIND].fleet.tolist() == block(told + more).fleet.tolist()


def test_columns_gained_since_are_unknown_and_lost_ones_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    body = pack({KIND: block([(0, 1, [float(number) for number in range(WIDTH)])])})
    monkeypatch.setitem(sums.COLUMNS, KIND, ("new_s", *COLUMNS[KIND][1:]))
    (row,) = unpack(body)[KIND].values.tolist()
    assert np.isnan(row[0])
    assert row[1:] == [float(number) for number in range(1, WIDTH)]


def test_damaged_bytes_are_noticed() -> None:
    body = pack({KIND: block([(0, 1, [1.0] * WIDTH)])})
    for harmed in (body[:-1], body[:-3] + b"abc", b"x", zstandard.compress(b"\xc0")):
        with pytest.raises((zstandard.ZstdError, msgspec.DecodeError, msgspec.ValidationError)):
            unpack(harmed)


def test_the_newest_row_of_each_series_with_what_is_known() -> None:
    old, new = [1.0] * WIDTH, [None] * (WIDTH - 1) + [2.0]
    told: Told = [(9, 1, new), (3, 1, old), (3, 2, old)]
    found = {series: (start, json.loads(fields)) for series, start, fields in newest(KIND, block(told))}
    assert found == {1: (9, {COLUMNS[KIND][-1]: 2.0}), 2: (3, dict.fromkeys(COLUMNS[KIND], 1.0))}


def test_of_two_rows_of_one_start_the_later_is_the_newest() -> None:
    found = list(newest(KIND, block([(3, 1, [1.0] * WIDTH), (3, 1, [5.0] * WIDTH)])))
    assert [json.loads(fields)[COLUMNS[KIND][0]] for _, _, fields in found] == [5.0]
