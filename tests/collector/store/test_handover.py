"""Groups on their way from a worker to the writer: as they were, each sheet sent once and forgotten at both ends."""

import gc
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.window import Window
from joulefleet_collector.rows import KINDS, Row
from joulefleet_collector.sheet import COLUMNS, Sheet, SheetRows
from joulefleet_collector.store.handover import Group, Packer, Unpacker
from joulefleet_collector.store.store import Accounted

AWindow = Callable[..., Window]
NUMBERS = st.floats(width=64)
TEXT = st.text(max_size=3)


def sent(group: Group) -> Group:
    """The group as it comes out of the lane."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(group), type=Group)


@st.composite
def sheets(draw: st.DrawFn) -> Sheet:
    kinds = sorted(draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4)), key=list(KINDS).index)
    return Sheet(draw(st.dictionaries(TEXT, TEXT, max_size=2)), [(kind, {"n": f"{k}"}) for k, kind in enumerate(kinds)])


@st.composite
def rows(draw: st.DrawFn, known: Sequence[Sheet], start_ns: int) -> Sequence[Row]:
    """The rows of a window: by one of these sheets, or each by itself."""
    sheet = draw(st.none() | st.sampled_from(known))
    if sheet is None:
        fields = st.dictionaries(st.sampled_from(KINDS["usage"].sums), NUMBERS, max_size=3)
        return [Row("usage", start_ns, {"model": draw(TEXT)}, draw(fields)) for _ in range(draw(st.integers(0, 3)))]
    width = sum(number * len(COLUMNS[kind]) for kind, number in sheet.shape)
    values = np.full(width, np.nan)
    values[: min(width, 5)] = draw(st.lists(NUMBERS, min_size=5, max_size=5))[:width]
    return SheetRows(sheet, start_ns, values)


def content(one: Accounted) -> tuple[object, ...]:
    """All that a store uses of a window; NaN as text, since it equals nothing."""
    told = [
        (row.kind, row.start_ns, row.tags, {name: repr(value) for name, value in row.fields.items()})
        for row in one.rows
    ]
    return one.window.key, one.window.server, one.window.timeline, one.window.end_ns, one.body, told


@given(data=st.data())
def test_windows_come_out_as_they_went_in(data: st.DataObject) -> None:
    packer, unpacker = Packer(), Unpacker()
    known = data.draw(st.lists(sheets(), min_size=1, max_size=3))
    for _ in range(data.draw(st.integers(1, 4))):
        windows = []
        for minute in range(data.draw(st.integers(0, 4))):
            start_ns = minute * 60 * 10**9
            window = Window(server=data.draw(TEXT), timeline=minute, start_ns=start_ns, step_ns=60 * 10**9)
            windows.append(Accounted(window, data.draw(st.binary(max_size=9)), data.draw(rows(known, start_ns))))
        group = sent(packer.group(windows, 5))
        assert group.received_ns == 5
        assert [content(one) for one in unpacker.accounted(group)] == [content(one) for one in windows]


def a_sheet() -> Sheet:
    return Sheet({"server": "a"}, [("agent", {})])


def a_group(packer: Packer, window: Window, sheet: Sheet) -> Group:
    values = np.zeros(sum(number * len(COLUMNS[kind]) for kind, number in sheet.shape))
    return sent(packer.group([Accounted(window, b"", SheetRows(sheet, 0, values))], 0))


def test_a_sheet_is_sent_once_and_is_the_same_one_at_the_other_end(a_window: AWindow) -> None:
    packer, unpacker, sheet = Packer(), Unpacker(), a_sheet()
    groups = [a_group(packer, a_window(), sheet) for _ in range(3)]
    assert [len(group.sheets) for group in groups] == [1, 0, 0]
    found = [unpacker.accounted(group)[0].rows for group in groups]
    assert len({id(one.sheet) for one in found if isinstance(one, SheetRows)}) == 1


def test_a_sheet_that_is_used_no_more_is_forgotten_at_both_ends(a_window: AWindow) -> None:
    packer, unpacker, sheet = Packer(), Unpacker(), a_sheet()
    unpacker.accounted(a_group(packer, a_window(), sheet))
    (number,) = unpacker._sheets
    del sheet
    gc.collect()
    group = a_group(packer, a_window(), kept := a_sheet())
    assert group.gone == [number]
    unpacker.accounted(group)
    assert number not in unpacker._sheets and len(unpacker._sheets) == len(packer._numbers) == 1
    assert kept in packer._numbers


def test_a_group_that_counts_on_a_sheet_of_another_packer_is_refused(a_window: AWindow) -> None:
    packer, sheet = Packer(), a_sheet()
    a_group(packer, a_window(), sheet)
    with pytest.raises(KeyError):
        Unpacker().accounted(a_group(packer, a_window(), sheet))
