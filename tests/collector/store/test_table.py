"""Rows of sums in the file: kept by their number, added up where they are there, found by time and by series."""

import sqlite3
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.rows import KINDS
from joulefleet_collector.store import schema, table
from joulefleet_collector.store.rollup import MINUTE
from joulefleet_collector.store.store import MINUTE_NS, StoreUnavailable
from joulefleet_collector.store.sums import Block, add_up
from joulefleet_collector.store.table import SERIES_BITS, Table

WIDTH = len(KINDS["agent"].sums)
NUMBER = st.none() | st.integers(0, 9).map(float)
Told = dict[tuple[int, int], list[float | None]]
told = st.dictionaries(
    st.tuples(st.integers(0, 9), st.integers(1, 40)), st.lists(NUMBER, min_size=WIDTH, max_size=WIDTH), min_size=1
)


def made() -> Table:
    db = sqlite3.connect(":memory:", isolation_level=None)
    schema.prepare(db, "here", "e")
    return Table(db, "agent", MINUTE)


@pytest.fixture
def agents() -> Table:
    return made()


def block(rows: Told) -> Block:
    """Rows by minute and series."""
    start = np.array([minute * MINUTE_NS for minute, _ in rows])
    series = np.array([series for _, series in rows])
    values = np.array([[np.nan if one is None else one for one in row] for row in rows.values()], np.float64)
    return Block(start, series, series, values)


def rows(blocks: Iterable[Block]) -> Told:
    found: Told = {}
    for one in blocks:
        values = [[None if np.isnan(each) else each for each in row] for row in one.values.tolist()]
        keys = zip((one.start_ns // MINUTE_NS).tolist(), one.series.tolist(), strict=True)
        found |= dict(zip(keys, values, strict=True))
    return found


def both(one: Told, other: Told) -> Told:
    joined = Block(*(np.concatenate(pair) for pair in zip(block(one), block(other), strict=True)))
    return rows([add_up(joined, MINUTE_NS)])


@given(first=told, second=told)
def test_rows_are_added_to_those_that_are_there(first: Told, second: Told) -> None:
    agents = made()
    agents.add(block(first))
    agents.add(block(second))
    assert rows(agents.between(0, 10 * MINUTE_NS)) == both(first, second)
    assert agents.count() == len(first.keys() | second.keys())


@given(kept=told, since=st.integers(0, 10), length=st.integers(0, 10), series=st.sets(st.integers(1, 40)))
def test_time_and_series_choose_the_same_rows_either_way(kept: Told, since: int, length: int, series: set[int]) -> None:
    agents, time = made(), (since * MINUTE_NS, (since + length) * MINUTE_NS)
    agents.add(block(kept))
    read = rows(agents.between(*time))
    assert read == {key: row for key, row in kept.items() if since <= key[0] < since + length}
    assert rows(agents.of_series(sorted(series), *time)) == {key: row for key, row in read.items() if key[1] in series}


def test_long_times_are_read_in_parts(agents: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: Told = {(minute, series): [1.0] * WIDTH for minute in range(20) for series in range(3)}
    agents.add(block(kept))
    monkeypatch.setattr(table, "ROWS_AT_ONCE", 7)
    assert len(list(agents.between(0, 20 * MINUTE_NS))) == 9
    assert rows(agents.between(0, 20 * MINUTE_NS)) == kept
    assert rows(agents.of_series([0, 1, 2], 0, 20 * MINUTE_NS)) == kept


def test_the_oldest_rows_go_first_and_the_span_is_told(agents: Table) -> None:
    assert agents.span() is None
    agents.add(block({(minute, 1): [1.0] * WIDTH for minute in range(6)}))
    assert (agents.forget_before(4 * MINUTE_NS, 3), agents.forget_before(4 * MINUTE_NS, 3)) == (3, 1)
    assert agents.span() == (4 * MINUTE_NS, 5 * MINUTE_NS)
    agents.forget("start_ns = ?", str(5 * MINUTE_NS))
    assert agents.count() == 2
    agents.forget("start_ns = CAST(? AS INTEGER)", str(5 * MINUTE_NS))
    assert agents.span() == (4 * MINUTE_NS, 4 * MINUTE_NS)


def test_a_damaged_row_is_told_with_its_table(agents: Table) -> None:
    agents.add(block({(0, 1): [1.0] * WIDTH}))
    agents._db.execute("UPDATE agent_minute SET sums = x'0102'")
    with pytest.raises(StoreUnavailable, match="table agent_minute: it is damaged"):
        list(agents.between(0, MINUTE_NS))


def test_a_series_that_no_row_can_hold_is_refused(agents: Table) -> None:
    with pytest.raises(StoreUnavailable, match="too many series"):
        agents.add(block({(0, 1 << SERIES_BITS): [1.0] * WIDTH}))
