"""Bringing rows into the sums of the embedded store, at once while there are few, else after they were added up.

A row of a window belongs to three sums of its server, and writing these one by one is what would limit a collector.
So a large write keeps its rows as they are, by shard of servers, and adds the oldest shard to the sums: until its
turn comes again, windows of one server have come several times and are written once. The rows lie in the same
transaction as their windows, so that a crash loses none; whoever asks brings them in first, so that none is missed.
"""

import sqlite3
from collections.abc import Sequence
from itertools import groupby
from weakref import WeakKeyDictionary
from zlib import crc32

import msgspec
import numpy as np
import zstandard

from joulefleet_collector.rows import Row
from joulefleet_collector.sheet import COLUMNS, Shape, Sheet, SheetRows
from joulefleet_collector.store.rollup import FLEET_KINDS, ROLLUPS, canonical, lasting
from joulefleet_collector.store.store import MINUTE_NS, Accounted, StoreUnavailable
from joulefleet_collector.store.sums import Block, Blocks, Ints, add_up, joined, newest, pack, unpack
from joulefleet_collector.store.table import Table

SHARDS = 32
AT_ONCE = 32
"""Windows of one write that are brought into the sums at once."""
TURN = 4_000
"""Windows that are kept before the next shard has its turn; so at most SHARDS times as many wait."""
MAX_SERIES = 20_000
"""Numbers of series kept by their tags; those of a sheet are kept with it."""

_NEWEST = (
    "INSERT INTO latest VALUES (?, ?, ?) ON CONFLICT (series) DO UPDATE"
    " SET start_ns = excluded.start_ns, fields = excluded.fields WHERE excluded.start_ns >= start_ns"
)


class Pending:
    """The way of rows into the sums. Every method is called inside a transaction of `db`, by one thread at a time."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], int] = {}
        self._sheets: WeakKeyDictionary[Sheet, Ints] = WeakKeyDictionary()
        self._kept = 0

    def forget(self) -> None:
        """Forget numbers of series: the transaction that made some of them was rolled back."""
        self._series.clear()
        self._sheets.clear()

    def add(self, db: sqlite3.Connection, new: Sequence[Accounted]) -> None:
        """Take the rows of these windows, and bring some that were taken before into the sums."""
        if len(new) <= AT_ONCE:
            _write(db, self._blocks(db, new))
        else:
            self._keep(db, new)
            self._kept += len(new)
        if len(new) <= AT_ONCE or self._kept >= TURN:
            self._kept = 0
            self.settle(db)

    def add_rows(self, db: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Bring these rows into the sums now."""
        _write(db, joined([self._of_rows(db, rows)]))

    def settle(self, db: sqlite3.Connection) -> bool:
        """Bring the oldest shard into the sums. False where nothing waits."""
        oldest = db.execute("SELECT shard FROM pending ORDER BY id LIMIT 1").fetchone()
        if oldest is None:
            return False
        bodies = db.execute("SELECT body FROM pending WHERE shard = ? ORDER BY id", oldest).fetchall()
        _write(db, joined(_opened(body) for (body,) in bodies))
        db.execute("DELETE FROM pending WHERE shard = ?", oldest)
        return True

    def _keep(self, db: sqlite3.Connection, new: Sequence[Accounted]) -> None:
        parts: dict[int, list[Blocks]] = {}
        for shard, several in groupby(sorted(new, key=_shard), _shard):
            rows = [row for one in several if not isinstance(one.rows, SheetRows) for row in one.rows]
            parts[shard] = [self._of_rows(db, rows)]
        for shape, windows in _by_shape(sorted(new, key=_shard)).items():
            blocks, first = self._of_sheets(db, shape, [one for _, one in windows]), 0
            for shard, its in groupby(windows, lambda one: one[0]):
                end = first + len(list(its))
                parts[shard].append({kind: blocks[kind].part(first * rows, end * rows) for kind, rows in shape})
                first = end
        packed = [(shard, pack(joined(several))) for shard, several in parts.items()]
        db.executemany("INSERT INTO pending (shard, body) VALUES (?, ?)", packed)

    def _blocks(self, db: sqlite3.Connection, new: Sequence[Accounted]) -> Blocks:
        rows = [row for one in new if not isinstance(one.rows, SheetRows) for row in one.rows]
        windows = _by_shape(new).items()
        parts = [self._of_sheets(db, shape, [one for _, one in several]) for shape, several in windows]
        return joined([*parts, self._of_rows(db, rows)])

    def _of_sheets(self, db: sqlite3.Connection, shape: Shape, several: Sequence[SheetRows]) -> Blocks:
        start = np.array([one.start_ns for one in several])
        numbers = np.stack([self._numbers(db, one.sheet) for one in several])
        values = np.stack([one.values for one in several])
        blocks, row, column = {}, 0, 0
        for kind, rows in shape:
            width = len(COLUMNS[kind])
            series, fleet = numbers[:, row : row + rows].reshape(-1, 2).T
            part = values[:, column : column + rows * width].reshape(-1, width)
            blocks[kind] = Block(np.repeat(start, rows), series, fleet, part)
            row, column = row + rows, column + rows * width
        return blocks

    def _of_rows(self, db: sqlite3.Connection, rows: Sequence[Row]) -> Blocks:
        by_kind: dict[str, list[Row]] = {}
        for row in rows:
            by_kind.setdefault(row.kind, []).append(lasting(row))
        return {kind: self._of_kind(db, kind, several) for kind, several in by_kind.items()}

    def _of_kind(self, db: sqlite3.Connection, kind: str, rows: Sequence[Row]) -> Block:
        numbers = np.array([self._pair(db, kind, row.tags) for row in rows])
        values = [[row.fields.get(name, np.nan) for name in COLUMNS[kind]] for row in rows]
        start = np.array([row.start_ns for row in rows])
        return Block(start, numbers[:, 0], numbers[:, 1], np.array(values, np.float64))

    def _numbers(self, db: sqlite3.Connection, sheet: Sheet) -> Ints:
        """Number of each row's series, with its server and without."""
        found = self._sheets.get(sheet)
        if found is None:
            rows = [lasting(Row(kind, 0, tags, {})) for kind, tags in sheet.rows()]
            found = np.array([self._pair(db, row.kind, row.tags) for row in rows])
            self._sheets[sheet] = found
        return found

    def _pair(self, db: sqlite3.Connection, kind: str, tags: dict[str, str]) -> tuple[int, int]:
        if kind not in FLEET_KINDS:
            return self._number(db, kind, tags), 0
        without = {name: value for name, value in tags.items() if name != "server"}
        return self._number(db, kind, tags), self._number(db, kind, without)

    def _number(self, db: sqlite3.Connection, kind: str, tags: dict[str, str]) -> int:
        key = (kind, canonical(tags))
        if key not in self._series:
            if len(self._series) >= MAX_SERIES:
                self._series.clear()
            db.execute("INSERT INTO series (kind, tags) VALUES (?, ?) ON CONFLICT DO NOTHING", key)
            self._series[key] = db.execute("SELECT id FROM series WHERE kind = ? AND tags = ?", key).fetchone()[0]
        return self._series[key]


def shard_of(server: str) -> int:
    """The shard of a server, the same in every process."""
    return crc32(server.encode()) % SHARDS


def is_waiting(db: sqlite3.Connection) -> bool:
    """Whether rows wait to be brought into the sums."""
    return db.execute("SELECT 1 FROM pending LIMIT 1").fetchone() is not None


def _shard(one: Accounted) -> int:
    return shard_of(one.window.server)


def _by_shape(accounted: Sequence[Accounted]) -> dict[Shape, list[tuple[int, SheetRows]]]:
    """Those with a sheet by its shape, each with the shard of its server; their order stays."""
    found: dict[Shape, list[tuple[int, SheetRows]]] = {}
    for one in accounted:
        if isinstance(one.rows, SheetRows):
            found.setdefault(one.rows.sheet.shape, []).append((_shard(one), one.rows))
    return found


def _opened(body: bytes) -> Blocks:
    try:
        return unpack(body)
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise StoreUnavailable("table pending", f"rows that wait are damaged: {error}", "put back a copy") from error


def _write(db: sqlite3.Connection, blocks: Blocks) -> None:
    for kind, block in blocks.items():
        minutes = add_up(block, MINUTE_NS)
        for rollup in ROLLUPS:
            if kind in rollup.kinds:
                sums = add_up(minutes, rollup.step_ns, rollup.fleet)
                Table(db, kind, rollup).add(sums)
        db.executemany(_NEWEST, newest(kind, block))
