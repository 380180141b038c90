"""The rows of sums in the embedded store: read by time or by series, and added to.

A row's number holds its step and its series, so that rows of one time lie together and each is found at once. Its sums
are packed; which column stands for which field is told by the file itself, since fields come and go with versions.
"""

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from joulefleet_collector.rows import KINDS
from joulefleet_collector.sheet import Floats
from joulefleet_collector.store.packing import Damaged, packed, unpacked
from joulefleet_collector.store.rollup import Rollup
from joulefleet_collector.store.store import StoreUnavailable
from joulefleet_collector.store.sums import Block, Ints, add_up

SERIES_BITS = 28
"""Of a row's number; above them stands its step, counted from 1970."""
ROWS_AT_ONCE = 10_000
_FIELDS = "SELECT name FROM fields WHERE kind = ? ORDER BY place"


class Table:
    """The rows of one kind in one grain. Its methods are called inside a transaction or alone."""

    def __init__(self, db: sqlite3.Connection, kind: str, rollup: Rollup) -> None:
        self._db = db
        self._kind = kind
        self._step_ns = rollup.step_ns
        self.name = rollup.table(kind)
        """As SQL knows it: one of our own constants."""

    def first_number(self, at_ns: int) -> int:
        """The least number of a row that starts at or after an instant."""
        return -(-at_ns // self._step_ns) << SERIES_BITS

    def span(self) -> tuple[int, int] | None:
        """Start of the first and of the last row; None where there is none."""
        # Apart, so that each is found by the index and not by going through all.
        first, last = (
            self._db.execute(f"SELECT {what}(number) FROM {self.name}").fetchone()[0]  # noqa: S608 our own constant
            for what in ("min", "max")
        )
        return None if first is None else (self._start_ns(first), self._start_ns(last))

    def between(self, since_ns: int, until_ns: int) -> Iterator[Block]:
        """All rows that start in [since_ns, until_ns), ordered by start and series."""
        found = self._db.execute(
            f"SELECT number, sums FROM {self.name} WHERE number >= ? AND number < ? ORDER BY number",  # noqa: S608 our own constant
            (self.first_number(since_ns), self.first_number(until_ns)),
        )
        while rows := found.fetchmany(ROWS_AT_ONCE):
            yield self._block(rows)

    def of_series(self, series: Sequence[int], since_ns: int, until_ns: int) -> Iterator[Block]:
        """Those of them that are of these series: each is looked up on its own."""
        at_once = max(ROWS_AT_ONCE // max(len(series), 1), 1) * self._step_ns
        for from_ns in range(since_ns, until_ns, at_once):
            steps = range(from_ns, min(from_ns + at_once, until_ns), self._step_ns)
            numbers = [self.first_number(start) + one for start in steps for one in series]
            if rows := self._numbered(numbers):
                yield self._block(rows)

    def add(self, block: Block) -> None:
        """Add these rows, of which no two have one key, to those that are there; unknown adds nothing."""
        there = self._numbered(self._numbers(block).tolist())
        if there:
            block = add_up(_joined(self._block(there), block), self._step_ns)
        if len(block.series) and block.series.max() >> SERIES_BITS:
            raise StoreUnavailable(f"table {self.name}", "it has too many series", "begin a new data folder")
        columns = self._columns()
        values = np.full((len(block.values), len(columns)), np.nan)
        for place, field in enumerate(KINDS[self._kind].sums):
            values[:, columns[field]] = block.values[:, place]
        self._db.executemany(
            f"INSERT OR REPLACE INTO {self.name} VALUES (?, ?)",  # noqa: S608 our own constant
            zip(self._numbers(block).tolist(), packed(values), strict=True),
        )

    def forget(self, which: str, value: str) -> None:
        """Remove rows of which a condition on `start_ns` with one value holds."""
        start_ns = f"(number >> {SERIES_BITS}) * {self._step_ns}"
        self._db.execute(
            f"DELETE FROM {self.name} WHERE number IN"  # noqa: S608 made of our own constants
            f" (SELECT number FROM (SELECT number, {start_ns} AS start_ns FROM {self.name}) WHERE {which})",
            (value,),
        )

    def forget_before(self, before_ns: int, most: int) -> int:
        """Remove so many rows at most that start before an instant, the oldest first; returns how many."""
        removed = self._db.execute(
            f"DELETE FROM {self.name} WHERE number IN"  # noqa: S608 our own constant
            f" (SELECT number FROM {self.name} WHERE number < ? ORDER BY number LIMIT ?)",
            (self.first_number(before_ns), most),
        )
        return removed.rowcount

    def count(self) -> int:
        """Number of rows."""
        return int(self._db.execute(f"SELECT count(*) FROM {self.name}").fetchone()[0])  # noqa: S608 our own constant

    def _numbers(self, block: Block) -> Ints:
        return (block.start_ns // self._step_ns << SERIES_BITS) + block.series

    def _numbered(self, numbers: Sequence[int]) -> list[tuple[int, bytes]]:
        found = self._db.execute(
            f"SELECT number, sums FROM {self.name} WHERE number IN (SELECT value FROM json_each(?))",  # noqa: S608 our own constant
            (msgspec.json.encode(numbers).decode(),),
        )
        return found.fetchall()

    def _block(self, rows: Sequence[tuple[int, bytes]]) -> Block:
        columns = self._columns()
        numbers = np.fromiter((number for number, _ in rows), np.int64, len(rows))
        try:
            values: Floats = unpacked([sums for _, sums in rows], max(columns.values()) + 1)
        except Damaged as damaged:
            raise StoreUnavailable(f"table {self.name}", f"it is damaged: {damaged}", "put back a copy") from damaged
        kept = values[:, [columns[field] for field in KINDS[self._kind].sums]]
        series = numbers & (1 << SERIES_BITS) - 1
        return Block((numbers >> SERIES_BITS) * self._step_ns, series, np.zeros_like(series), kept)

    def _columns(self) -> dict[str, int]:
        return {name: place for place, (name,) in enumerate(self._db.execute(_FIELDS, (self._kind,)))}

    def _start_ns(self, number: int) -> int:
        return (number >> SERIES_BITS) * self._step_ns


def _joined(one: Block, other: Block) -> Block:
    values = other.values[:, : one.values.shape[1]]
    return Block(
        np.concatenate((one.start_ns, other.start_ns)),
        np.concatenate((one.series, other.series)),
        np.concatenate((one.fleet, other.fleet)),
        np.concatenate((one.values, values)),
    )
