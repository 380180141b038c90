"""The store that needs nothing installed: one SQLite file with every window and its sums.

Windows are the truth. Their rows are added to the rollups in the transaction that keeps the window, and only if the
window is new, so that a window sent twice counts once. Readers see the last commit and never wait for the writer.
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import zstandard

from joulefleet.grid import HOUR_NS
from joulefleet.window import Window, WrongSchema, decode
from joulefleet_collector.agents import end_ns, newest
from joulefleet_collector.rows import KINDS, Row
from joulefleet_collector.store import counted, retention, retired, schema
from joulefleet_collector.store.pending import SHARDS, Pending, is_waiting
from joulefleet_collector.store.retention import Keep, Pruned
from joulefleet_collector.store.rollup import grains, pieces
from joulefleet_collector.store.selection import answer
from joulefleet_collector.store.store import (
    DAY_NS,
    STEP_NS,
    Account,
    Accounted,
    Course,
    Overlap,
    Question,
    Retired,
    StoreUnavailable,
    Total,
)
from joulefleet_collector.store.table import Table
from joulefleet_collector.store.trouble import told_clearly

FILE_NAME = "joulefleet.db"
BUSY_TIMEOUT_S = 10.0
PAGE = 200
"""Windows read at a time when many are gone through."""
BODY_LEVEL = -1
"""Of zstd: half the time of level 1, and 7 % larger."""
_WAL_LIMIT_BYTES = 64 * 1024 * 1024

_OVERLAPS = """
SELECT a.server, a.timeline, b.timeline,
       min(max(a.start_ns, b.start_ns)), max(min(a.start_ns + a.step_ns, b.start_ns + b.step_ns))
FROM timelines s CROSS JOIN timelines t
  ON t.server = s.server AND t.timeline > s.timeline AND t.first_ns < s.end_ns AND s.first_ns < t.end_ns
CROSS JOIN windows a
  ON a.server = s.server AND a.timeline = s.timeline AND a.start_ns >= ? AND a.start_ns < ?
CROSS JOIN windows b
  ON b.server = t.server AND b.timeline = t.timeline
 AND b.start_ns > a.start_ns - ? AND b.start_ns < a.start_ns + a.step_ns AND a.start_ns < b.start_ns + b.step_ns
GROUP BY a.server, a.timeline, b.timeline ORDER BY 1, 4, 2, 3
"""
"""CROSS JOIN keeps the order: windows are looked at only where two timelines of a server meet, and those are few."""

_WINDOW = (
    "INSERT INTO windows (server, timeline, step_ns, start_ns, received_ns, body) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (server, timeline, step_ns, start_ns) DO NOTHING"
)
_TIMELINE = (
    "INSERT INTO timelines VALUES (?, ?, ?, ?) ON CONFLICT (server, timeline) DO UPDATE"
    " SET first_ns = min(first_ns, excluded.first_ns), end_ns = max(end_ns, excluded.end_ns)"
)

_PAGE_OF_WINDOWS = """
SELECT start_ns, id, body FROM windows
WHERE start_ns >= :start AND start_ns < :until AND (start_ns, id) > (:start, :id)
ORDER BY start_ns, id LIMIT :page
"""
_PAGE_OF_SERVER = _PAGE_OF_WINDOWS.replace("WHERE", "WHERE server = :server AND")
"""By a statement of its own, so that the windows of other servers are not looked at."""

_OPEN = f"start_ns - start_ns % {DAY_NS} NOT IN (SELECT value FROM json_each(?))"  # noqa: S608 made of our own constants
"""Begins in a UTC day that is not settled; the value is a JSON list of the days that are."""
_COUNT_OPEN = f"SELECT count(*) FROM windows WHERE {_OPEN}"  # noqa: S608 as above
_PAGE_OF_OPEN = f"SELECT id, body FROM windows WHERE {_OPEN} AND id > ? ORDER BY id LIMIT ?"  # noqa: S608 as above


class EmbeddedStore:
    """A `Store` on one SQLite file. Its methods may be called from any thread."""

    def __init__(self, data_dir: Path, new_epoch: Callable[[], str]) -> None:
        """Open the store in this folder, or make it, with an epoch from `new_epoch`. Raises StoreUnavailable."""
        self.path = data_dir / FILE_NAME
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._pending = Pending()
        with told_clearly(data_dir):
            data_dir.mkdir(parents=True, exist_ok=True)
        with told_clearly(self.path):
            self._writer = _connect(self.path)
            self._identity = _identity(self.path)
        with self._writing() as db:
            schema.prepare(db, str(self.path), new_epoch())
            self._epoch: str = db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[0]
        with told_clearly(self.path):
            self._reader = _connect(self.path)
            self._reader.execute("PRAGMA query_only = ON")

    @property
    def epoch(self) -> str:
        """Identity of the store's life, made at random with it."""
        return self._epoch

    def write(self, accounted: Sequence[Accounted], received_ns: int) -> int:
        """Keep these windows with their rows, all or none; durable when it returns. Returns how many were new."""
        return len(self.keep(accounted, received_ns))

    def keep(self, accounted: Sequence[Accounted], received_ns: int) -> list[Accounted]:
        """As `write`; returns those that were new."""
        with self._writing() as db:
            new = _keep(db, counted.unknown(db, accounted), received_ns)
            self._pending.add(db, new)
        return new

    def ask(self, question: Question) -> list[Total]:
        """Sums, ordered by step and tags. Raises ValueError where the instants are no whole minutes, and NotKept."""
        fleet = "server" not in question.by and "server" not in question.where
        usable = grains(question.kind, STEP_NS[question.step], fleet)
        parts = pieces(question.since_ns, question.until_ns, usable)
        if not parts:
            return []
        fields = question.fields or KINDS[question.kind].sums
        with self._reading_sums() as db:
            totals = list(answer(db, question, parts, fields))
            # Looked at after the sums: what was removed while they were read would be missing from them.
            retention.check_kept(db, parts)
        return totals

    def latest(self, kind: str) -> list[Row]:
        """The newest row of each combination of tags, without the tags that rollups drop."""
        with self._reading_sums() as db:
            return _latest(db, kind)

    def heard(self) -> list[Row]:
        """The newest agent's row of each server, at hand without adding anything up.

        Its time is that of the newest window; what else it tells may be of one some minutes before, or missing.
        """
        with self._reading() as db:
            rows = newest(_latest(db, "agent"))
            ends = db.execute("SELECT server, max(end_ns) FROM timelines GROUP BY server").fetchall()
        return [*{**rows, **{server: _moved(server, rows.get(server), end) for server, end in ends}}.values()]

    def tags(self, kind: str) -> set[str]:
        """Names of the tags that rows of this kind have so far, labels included."""
        statement = "SELECT DISTINCT key FROM series, json_each(series.tags) WHERE kind = ?"
        with self._reading_sums() as db:
            return {name for (name,) in db.execute(statement, (kind,))}

    def windows(self, server: str | None, since_ns: int, until_ns: int) -> Iterator[Window]:
        """Windows that start in this time, of one server or of all, ordered by start."""
        last, statement = (since_ns, -1), _PAGE_OF_WINDOWS if server is None else _PAGE_OF_SERVER
        while True:
            values = {"server": server, "until": until_ns, "start": last[0], "id": last[1], "page": PAGE}
            with self._reading() as db:
                page = db.execute(statement, values).fetchall()
            if not page:
                return
            for _, number, body in page:
                yield self._window(number, body)
            last = page[-1][:2]

    def recount(self, account: Account, progress: Callable[[int, int], None]) -> None:
        """Make all sums anew from the windows in one transaction; `progress` is told (done, total).

        Sums of the days in `settled_days` stay as they are.
        """
        with self._writing() as db:
            self._settle_all(db)
            settled = json.dumps(counted.days(db))
            _forget_sums(db, settled)
            total = db.execute(_COUNT_OPEN, (settled,)).fetchone()[0]
            done, last = 0, 0
            while page := db.execute(_PAGE_OF_OPEN, (settled, last, PAGE)).fetchall():
                self._pending.add_rows(db, [row for id_, body in page for row in account(self._window(id_, body))])
                done, last = done + len(page), page[-1][0]
                progress(done, total)

    def settled_days(self) -> list[int]:
        """Starts of the UTC days whose sums can no longer be made anew, since not all their windows are kept."""
        with self._reading() as db:
            return counted.days(db)

    def prune(self, keep: Keep, now_ns: int) -> Pruned:
        """Remove a bounded part of what is older than `keep`, in one short transaction; call it while there is more."""
        with self._writing() as db:
            return retention.prune(db, keep, now_ns)

    def compact(self) -> None:
        """Write the file anew without unused space. Others cannot write until it is done.

        It needs as much space beside the file, for a while, as the file has, and as much again.
        """
        with self._write_lock, told_clearly(self.path):
            self._check_identity()
            # SQLite would put its copy into /var/tmp, which may be small and is not the disk that our errors name.
            _put_aside(self._writer, str(self.path.parent.absolute()))
            try:
                self._writer.execute("VACUUM")
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                _put_aside(self._writer, "")

    def timelines(self, since_ns: int, until_ns: int) -> list[Overlap]:
        """Timelines of one server that overlap in windows that start in this time."""
        with self._reading() as db:
            found = db.execute(_OVERLAPS, (since_ns, until_ns, HOUR_NS)).fetchall()
        return [Overlap(server, (one, other), since, until) for server, one, other, since, until in found]

    def courses(self, since_ns: int, until_ns: int) -> list[Course]:
        """Timelines that tell of this time, by server and number."""
        statement = "SELECT * FROM timelines WHERE end_ns > ? AND first_ns < ? ORDER BY server, timeline"
        with self._reading() as db:
            return [Course(*found) for found in db.execute(statement, (since_ns, until_ns)).fetchall()]

    def retired(self) -> Retired:
        """Servers that were retired, also those that came back since."""
        with self._reading() as db:
            return self._retired(db)

    def retire(self, changes: Mapping[str, int | None]) -> None:
        """Keep these servers as retired; None takes one back. Durable when it returns."""
        with self._writing() as db:
            text = retired.written(retired.changed(self._retired(db), changes))
            db.execute("INSERT OR REPLACE INTO meta VALUES ('retired', ?)", (text,))

    def _retired(self, db: sqlite3.Connection) -> Retired:
        found = db.execute("SELECT value FROM meta WHERE name = 'retired'").fetchone()
        return retired.read(found[0], str(self.path)) if found else {}

    @property
    def tells_known(self) -> bool:
        """Whether `write` tells windows that were there from those that are new."""
        return True

    @property
    def lines_set_aside(self) -> None:
        """This store never refuses a row alone."""

    def check(self) -> None:
        """Raises StoreUnavailable where a write would fail now."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('checked', '')")

    def close(self) -> None:
        """Let go of the file; what was written stays."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock, told_clearly(self.path):
            self._check_identity()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                self._pending.forget()
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_lock, told_clearly(self.path):
            yield self._reader

    @contextmanager
    def _reading_sums(self) -> Iterator[sqlite3.Connection]:
        """Reading when every row of the windows kept so far is in the sums."""
        with self._reading() as db:
            waiting = is_waiting(db)
        if waiting:
            self.settle()
        with self._reading() as db:
            yield db

    def settle(self) -> None:
        """Bring rows that wait into the sums, in short transactions, so that writers go on between them."""
        for _ in range(SHARDS):
            with self._writing() as db:
                if not self._pending.settle(db):
                    return

    def _settle_all(self, db: sqlite3.Connection) -> None:
        while self._pending.settle(db):
            pass

    def _check_identity(self) -> None:
        # SQLite would go on writing to a file that was removed, and its windows would be acknowledged and lost.
        if _identity(self.path) != self._identity:
            reason = "the file was removed or replaced while the collector ran"
            raise StoreUnavailable(str(self.path), reason, "start the collector again")

    def _window(self, number: int, body: bytes) -> Window:
        try:
            return decode(zstandard.ZstdDecompressor().decompress(body))
        except (zstandard.ZstdError, msgspec.MsgspecError, WrongSchema) as error:
            raise StoreUnavailable(str(self.path), f"window {number} is damaged: {error}", "put back a copy") from error


def _latest(db: sqlite3.Connection, kind: str) -> list[Row]:
    statement = "SELECT start_ns, tags, fields FROM latest JOIN series ON id = series WHERE kind = ? ORDER BY tags"
    found = db.execute(statement, (kind,)).fetchall()
    return [Row(kind, start, msgspec.json.decode(tags), msgspec.json.decode(fields)) for start, tags, fields in found]


def _moved(server: str, row: Row | None, until_ns: int) -> Row:
    """The row as if it were of the window that ends there."""
    if row is None:
        return Row("agent", until_ns, {"server": server}, {})
    return Row("agent", row.start_ns + max(until_ns - end_ns(row), 0), row.tags, row.fields)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # holds for a new file only, and before anything is in it
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "PRAGMA secure_delete = OFF"
    )  # some builds overwrite what is removed: pruning takes twice as long
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    return connection


def _put_aside(db: sqlite3.Connection, folder: str) -> None:
    """Where SQLite makes its temporary files; empty for its own choice."""
    db.execute("PRAGMA temp_store_directory = '{}'".format(folder.replace("'", "''")))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return (status.st_dev, status.st_ino)


def _keep(db: sqlite3.Connection, accounted: Sequence[Accounted], received_ns: int) -> list[Accounted]:
    """Put these windows down; returns those whose key was not there."""
    packed = zstandard.ZstdCompressor(level=BODY_LEVEL, write_checksum=True)
    lines = [(*one.window.key, received_ns, packed.compress(one.body)) for one in accounted]
    new = [one for one, is_new in zip(accounted, _insert(db, lines), strict=True) if is_new]
    spans: dict[tuple[str, int], tuple[int, int]] = {}
    for one in new:
        key, start_ns, end_ns = (one.window.server, one.window.timeline), one.window.start_ns, one.window.end_ns
        first, last = spans.get(key, (start_ns, end_ns))
        spans[key] = (min(first, start_ns), max(last, end_ns))
    db.executemany(_TIMELINE, [(*key, *span) for key, span in spans.items()])
    return new


def _insert(db: sqlite3.Connection, lines: Sequence[tuple[object, ...]]) -> list[bool]:
    """Whether each window is new. Mostly all are, and then one statement says so."""
    before = db.total_changes
    db.execute("SAVEPOINT one_by_one")
    db.executemany(_WINDOW, lines)
    if db.total_changes - before == len(lines):
        db.execute("RELEASE one_by_one")
        return [True] * len(lines)
    db.execute("ROLLBACK TO one_by_one")
    return [db.execute(_WINDOW, line).rowcount == 1 for line in lines]


def _forget_sums(db: sqlite3.Connection, settled: str) -> None:
    # Series stay: sums of settled days need them, and a collector that runs beside this knows their numbers.
    db.execute(f"DELETE FROM latest WHERE {_OPEN}", (settled,))  # noqa: S608 made of our own constants
    for rollup, kind, _ in schema.tables():
        Table(db, kind, rollup).forget(_OPEN, settled)
