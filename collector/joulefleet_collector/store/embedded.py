"""The store that needs nothing installed: one SQLite file with every window and its sums.

Windows are the truth. Their rows are added to the rollups in the transaction that keeps the window, and only if the
window is new, so that a window sent twice counts once. Readers see the last commit and never wait for the writer.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import zstandard

from joulefleet.grid import HOUR_NS
from joulefleet.window import Window, WrongSchema, decode
from joulefleet_collector.rows import KINDS, Row
from joulefleet_collector.store import schema
from joulefleet_collector.store.rollup import ROLLUPS, add_up, canonical, grains, lasting, pieces
from joulefleet_collector.store.selection import selection
from joulefleet_collector.store.store import STEP_NS, Account, Accounted, Overlap, Question, StoreUnavailable, Total
from joulefleet_collector.store.trouble import told_clearly

FILE_NAME = "joulefleet.db"
BUSY_TIMEOUT_S = 10.0
PAGE = 200
"""Windows read at a time when many are gone through."""
_WAL_LIMIT_BYTES = 64 * 1024 * 1024

_OVERLAPS = """
SELECT a.server, a.timeline, b.timeline,
       min(max(a.start_ns, b.start_ns)), max(min(a.start_ns + a.step_ns, b.start_ns + b.step_ns))
FROM timelines s JOIN timelines t
  ON t.server = s.server AND t.timeline > s.timeline AND t.first_ns < s.end_ns AND s.first_ns < t.end_ns
JOIN windows a
  ON a.server = s.server AND a.timeline = s.timeline AND a.start_ns >= ? AND a.start_ns < ?
JOIN windows b
  ON b.server = t.server AND b.timeline = t.timeline
 AND b.start_ns > a.start_ns - ? AND b.start_ns < a.start_ns + a.step_ns AND a.start_ns < b.start_ns + b.step_ns
GROUP BY a.server, a.timeline, b.timeline ORDER BY 1, 4, 2, 3
"""

_PAGE_OF_WINDOWS = """
SELECT start_ns, id, body FROM windows
WHERE start_ns >= :start AND start_ns < :until AND (start_ns, id) > (:start, :id)
  AND (:server IS NULL OR server = :server)
ORDER BY start_ns, id LIMIT :page
"""


class EmbeddedStore:
    """A `Store` on one SQLite file. Its methods may be called from any thread."""

    def __init__(self, data_dir: Path, new_epoch: Callable[[], str]) -> None:
        """Open the store in this folder, or make it, with an epoch from `new_epoch`. Raises StoreUnavailable."""
        self.path = data_dir / FILE_NAME
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
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
        with self._writing() as db:
            new = [one for one in accounted if _keep(db, one, received_ns)]
            _add_rows(db, [row for one in new for row in one.rows])
        return len(new)

    def ask(self, question: Question) -> list[Total]:
        """Sums, ordered by step and tags. Raises ValueError where the instants are no whole minutes."""
        fleet = "server" not in question.by and "server" not in question.where
        usable = grains(question.kind, STEP_NS[question.step], fleet)
        parts = pieces(question.since_ns, question.until_ns, usable)
        if not parts:
            return []
        fields = question.fields or KINDS[question.kind].sums
        statement, values = selection(question, parts, fields)
        with self._reading() as db:
            found = db.execute(statement, values).fetchall()
        return [_total(question, fields, line) for line in found]

    def latest(self, kind: str) -> list[Row]:
        """The newest row of each combination of tags, without the tags that rollups drop."""
        statement = "SELECT start_ns, tags, fields FROM latest JOIN series ON id = series WHERE kind = ? ORDER BY tags"
        with self._reading() as db:
            found = db.execute(statement, (kind,)).fetchall()
        return [
            Row(kind, start, msgspec.json.decode(tags), msgspec.json.decode(fields)) for start, tags, fields in found
        ]

    def tags(self, kind: str) -> set[str]:
        """Names of the tags that rows of this kind have so far, labels included."""
        statement = "SELECT DISTINCT key FROM series, json_each(series.tags) WHERE kind = ?"
        with self._reading() as db:
            return {name for (name,) in db.execute(statement, (kind,))}

    def windows(self, server: str | None, since_ns: int, until_ns: int) -> Iterator[Window]:
        """Windows that start in this time, of one server or of all, ordered by start."""
        last = (since_ns, -1)
        while True:
            values = {"server": server, "until": until_ns, "start": last[0], "id": last[1], "page": PAGE}
            with self._reading() as db:
                page = db.execute(_PAGE_OF_WINDOWS, values).fetchall()
            if not page:
                return
            for _, number, body in page:
                yield self._window(number, body)
            last = page[-1][:2]

    def recount(self, account: Account, progress: Callable[[int, int], None]) -> None:
        """Make all sums anew from the windows in one transaction; `progress` is told (done, total)."""
        with self._writing() as db:
            _forget_sums(db)
            total = db.execute("SELECT count(*) FROM windows").fetchone()[0]
            done, last = 0, 0
            while page := db.execute(
                "SELECT id, body FROM windows WHERE id > ? ORDER BY id LIMIT ?", (last, PAGE)
            ).fetchall():
                _add_rows(db, [row for number, body in page for row in account(self._window(number, body))])
                done, last = done + len(page), page[-1][0]
                progress(done, total)

    def timelines(self, since_ns: int, until_ns: int) -> list[Overlap]:
        """Timelines of one server that overlap in windows that start in this time."""
        with self._reading() as db:
            found = db.execute(_OVERLAPS, (since_ns, until_ns, HOUR_NS)).fetchall()
        return [Overlap(server, (one, other), since, until) for server, one, other, since, until in found]

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
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_lock, told_clearly(self.path):
            yield self._reader

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


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    return connection


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return (status.st_dev, status.st_ino)


def _keep(db: sqlite3.Connection, one: Accounted, received_ns: int) -> bool:
    """Put the window down; False where its key is already there."""
    body = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(one.body)
    kept = db.execute(
        "INSERT INTO windows (server, timeline, step_ns, start_ns, received_ns, body) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (server, timeline, step_ns, start_ns) DO NOTHING",
        (*one.window.key, received_ns, body),
    )
    if kept.rowcount != 1:
        return False
    db.execute(
        "INSERT INTO timelines VALUES (?, ?, ?, ?) ON CONFLICT (server, timeline) DO UPDATE"
        " SET first_ns = min(first_ns, excluded.first_ns), end_ns = max(end_ns, excluded.end_ns)",
        (one.window.server, one.window.timeline, one.window.start_ns, one.window.end_ns),
    )
    return True


def _add_rows(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    kept = [lasting(row) for row in rows]
    numbers: dict[tuple[str, str], int] = {}
    for rollup in ROLLUPS:
        lines: dict[str, list[tuple[float | None, ...]]] = {}
        for row in add_up(kept, rollup):
            sums = (row.fields.get(name) for name in KINDS[row.kind].sums)
            lines.setdefault(row.kind, []).append((row.start_ns, _series(db, row, numbers), *sums))
        for kind, values in lines.items():
            db.executemany(schema.upsert(rollup.table(kind), KINDS[kind].sums), values)
    newest = {(row.kind, canonical(row.tags)): row for row in sorted(kept, key=lambda row: row.start_ns)}
    db.executemany(
        "INSERT INTO latest VALUES (?, ?, ?) ON CONFLICT (series) DO UPDATE"
        " SET start_ns = excluded.start_ns, fields = excluded.fields WHERE excluded.start_ns >= start_ns",
        [
            (_series(db, row, numbers), row.start_ns, msgspec.json.encode(row.fields).decode())
            for row in newest.values()
        ],
    )


def _series(db: sqlite3.Connection, row: Row, known: dict[tuple[str, str], int]) -> int:
    key = (row.kind, canonical(row.tags))
    if key not in known:
        db.execute("INSERT INTO series (kind, tags) VALUES (?, ?) ON CONFLICT DO NOTHING", key)
        known[key] = db.execute("SELECT id FROM series WHERE kind = ? AND tags = ?", key).fetchone()[0]
    return known[key]


def _forget_sums(db: sqlite3.Connection) -> None:
    for name in [name for _, _, name in schema.tables()] + ["latest", "series"]:
        db.execute(f"DELETE FROM {name}")  # noqa: S608 names are our own constants


def _total(question: Question, fields: tuple[str, ...], line: tuple[object, ...]) -> Total:
    start, tags, sums = line[0], line[1 : 1 + len(question.by)], line[1 + len(question.by) :]
    return Total(
        start if isinstance(start, int) and question.step != "none" else None,
        dict(zip(question.by, map(str, tags), strict=True)),
        {name: value for name, value in zip(fields, sums, strict=True) if isinstance(value, float)},
    )
