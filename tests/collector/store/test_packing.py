"""Packed rows: small, exact to the bit, and refused where they are damaged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.store.packing import Damaged, packed, unpacked

USUAL = st.sampled_from([0.0, float("nan"), 60.0, 60.0, 1230.0, 65535.0, 65536.0, 16777217.0, 0.1, -3.0, 240036.814875])
ANY = USUAL | st.floats(allow_nan=False)
rows = st.integers(1, 60).flatmap(
    lambda width: st.lists(st.lists(ANY, min_size=width, max_size=width), min_size=1, max_size=8)
)


@given(told=rows, more=st.integers(0, 4))
def test_what_is_packed_comes_back_and_columns_gained_since_are_unknown(told: list[list[float]], more: int) -> None:
    values = np.array(told)
    back = unpacked(packed(values), values.shape[1] + more)
    assert np.array_equal(back[:, : values.shape[1]], values, equal_nan=True)
    assert np.isnan(back[:, values.shape[1] :]).all()


@given(told=rows)
def test_rows_of_several_widths_are_read_together(told: list[list[float]]) -> None:
    values = np.array(told)
    wider = np.pad(values, ((0, 0), (0, 5)), constant_values=7.0)
    back = unpacked([*packed(values), *packed(wider)], wider.shape[1])
    assert np.array_equal(back[: len(values), : values.shape[1]], values, equal_nan=True)
    assert np.isnan(back[: len(values), values.shape[1] :]).all()
    assert np.array_equal(back[len(values) :], wider, equal_nan=True)


def test_nothing_zero_and_what_is_said_twice_take_half_a_byte() -> None:
    (row,) = packed(np.array([[60.0, 60.0, 0.0, 0.0, np.nan, np.nan, 0.1, 0.1]]))
    assert len(row) == 1 + 4 + 2 + 8


@given(told=rows, data=st.data())
def test_damage_is_noticed_or_changes_a_number_only(told: list[list[float]], data: st.DataObject) -> None:
    (row, *_) = packed(np.array(told))
    end = data.draw(st.integers(0, len(row) - 1))
    with pytest.raises(Damaged):
        unpacked([row[:end]], len(told[0]))
    with pytest.raises(Damaged):
        unpacked([row + b"x"], len(told[0]))
    with pytest.raises(Damaged):
        unpacked([row[:1] + b"\xff" + row[2:]], len(told[0]))
