"""The buffer of the whole system: closed windows on this server's disk until a collector's store has them.

One SQLite file. The cutter's state and the windows it closed are committed in one transaction, so that a killed agent
goes on exactly where it was. It is bounded in bytes and age, and never fills the disk; what has to go is the oldest
window that still waits, and its joules and seconds are added to the losses that travel with every later window.
"""

import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import msgspec

from joulefleet.units import NS_PER_S, ns_to_s
from joulefleet.window import Losses, Window

FORMAT = 1
MAX_DISK_SHARE = 0.95
TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS windows (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    start_ns INTEGER NOT NULL,
    made_ns INTEGER NOT NULL,  -- when it was closed
    status TEXT NOT NULL,      -- waiting, stored, refused
    due_ns INTEGER NOT NULL,   -- not to be sent before
    done_ns INTEGER NOT NULL,  -- when it was stored or refused
    code TEXT NOT NULL,        -- why it was refused
    energy_uj INTEGER NOT NULL,
    step_ns INTEGER NOT NULL,
    size INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_status ON windows (status, due_ns, seq);
"""


class SpoolUnavailable(Exception):
    """The spool cannot be opened or written."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(path, reason)

    def __str__(self) -> str:
        return f"spool {self.path}: {self.reason}"


class Bounds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the spool may keep."""

    max_bytes: int = 256 * 1024 * 1024
    max_age_s: float = 30 * 86_400.0
    keep_after_ack_s: float = 600.0
    """How long a stored window is kept, in case the store loses it and begins a new life."""


class Waiting(msgspec.Struct, frozen=True):
    """A window that waits to be sent."""

    seq: int
    start_ns: int
    body: bytes


class Spool:
    """One agent's spool file. Each thread opens its own."""

    def __init__(self, path: Path, bounds: Bounds | None = None) -> None:
        self.path = path
        self.bounds = bounds or Bounds()
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=10, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(TABLES)
            self._check_format()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def timeline(self) -> int:
        """This spool's timeline; made by chance when the spool is new."""
        kept = self._get("timeline")
        if kept is None:
            return self.begin_timeline(secrets.randbits(32))
        return int(msgspec.msgpack.decode(kept, type=int))

    def begin_timeline(self, timeline: int) -> int:
        """Begin this timeline; its losses begin at nothing. Returns it."""
        with self._transaction():
            self._set("timeline", msgspec.msgpack.encode(timeline))
            self._set("losses", msgspec.msgpack.encode(Losses()))
        return timeline

    def losses(self) -> Losses:
        """What was lost on this timeline."""
        kept = self._get("losses")
        return msgspec.msgpack.decode(kept, type=Losses) if kept else Losses()

    def state(self) -> bytes | None:
        """The state that was committed last."""
        return self._get("state")

    def commit(self, state: bytes, windows: Sequence[Window], now_ns: int, lost: Sequence[Window] = ()) -> None:
        """Keep the state and these closed windows, all or nothing. Raises SpoolUnavailable.

        `lost` are windows that could not be kept while the disk refused: they are counted.
        """
        with self._transaction():
            self._set("state", state)
            for window in lost:
                self._lose(_energy_uj(window), window.step_ns)
            for window in windows:
                self._insert(window, now_ns)
            self._forget_stored(now_ns)
            self._stay_in_bounds(now_ns)

    def waiting(self, limit: int, now_ns: int, max_bytes: int) -> list[Waiting]:
        """The oldest windows that are due, at most so many, and so many bytes beyond the first."""
        out: list[Waiting] = []
        size = 0
        with self._translated():
            rows = self._db.execute(
                "SELECT seq, start_ns, body FROM windows WHERE status='waiting' AND due_ns<=? ORDER BY seq LIMIT ?",
                (now_ns, limit),
            )
            for seq, start_ns, body in rows:
                size += len(body)
                if out and size > max_bytes:
                    break
                out.append(Waiting(seq, start_ns, body))
        return out

    def stored(self, seqs: Sequence[int], now_ns: int) -> None:
        """A collector's store has committed these."""
        self._mark("status='stored', done_ns=?", [(now_ns, seq) for seq in seqs])

    def refused(self, seq: int, code: str, now_ns: int) -> None:
        """A collector will never take this one: set aside, counted, kept."""
        with self._transaction():
            self._db.execute(
                "UPDATE windows SET status='refused', code=?, done_ns=? WHERE seq=? AND status='waiting'",
                (code, now_ns, seq),
            )
            losses = self.losses()
            losses.refused_windows += 1
            self._set("losses", msgspec.msgpack.encode(losses))

    def postpone(self, seq: int, due_ns: int) -> None:
        """A collector takes this one later."""
        self._mark("due_ns=?", [(due_ns, seq)])

    def send_again(self, since_ns: int) -> int:
        """The store began a new life: windows stored since this instant wait again. Returns how many."""
        with self._transaction():
            return self._db.execute(
                "UPDATE windows SET status='waiting' WHERE status='stored' AND done_ns>=?", (since_ns,)
            ).rowcount

    def depth(self) -> tuple[int, int]:
        """Windows that wait, and their bytes."""
        with self._translated():
            number, size = self._db.execute(
                "SELECT count(*), coalesce(sum(size), 0) FROM windows WHERE status='waiting'"
            ).fetchone()
        return int(number), int(size)

    def refusals(self) -> dict[str, int]:
        """Windows set aside, by code."""
        with self._translated():
            return dict(self._db.execute("SELECT code, count(*) FROM windows WHERE status='refused' GROUP BY code"))

    def _mark(self, change: str, values: Sequence[tuple[int, int]]) -> None:
        with self._transaction():
            self._db.executemany(f"UPDATE windows SET {change} WHERE seq=?", values)  # noqa: S608 # our own words

    def _insert(self, window: Window, now_ns: int) -> None:
        body = window.encode()
        self._db.execute(
            "INSERT INTO windows (start_ns, made_ns, status, due_ns, done_ns, code, energy_uj, step_ns, size, body)"
            " VALUES (?, ?, 'waiting', 0, 0, '', ?, ?, ?, ?)",
            (window.start_ns, now_ns, _energy_uj(window), window.step_ns, len(body), body),
        )

    def _forget_stored(self, now_ns: int) -> None:
        before_ns = now_ns - round(self.bounds.keep_after_ack_s * NS_PER_S)
        self._db.execute("DELETE FROM windows WHERE status='stored' AND done_ns<?", (before_ns,))

    def _stay_in_bounds(self, now_ns: int) -> None:
        """Let the oldest windows go while there are too many bytes, or too old ones, or the disk is nearly full."""
        oldest_ns = now_ns - round(self.bounds.max_age_s * NS_PER_S)
        size = self._db.execute("SELECT coalesce(sum(size), 0) FROM windows").fetchone()[0]
        excess = max(size - self.bounds.max_bytes, self._over_disk_share())
        oldest = self._db.execute("SELECT min(made_ns) FROM windows").fetchone()[0]
        if oldest is None or (excess <= 0 and oldest >= oldest_ns):
            return
        for seq, made_ns, status, energy_uj, step_ns, body_size in self._db.execute(
            "SELECT seq, made_ns, status, energy_uj, step_ns, size FROM windows ORDER BY status='waiting', seq"
        ).fetchall():
            if excess <= 0 and made_ns >= oldest_ns:
                continue
            excess -= body_size
            self._db.execute("DELETE FROM windows WHERE seq=?", (seq,))
            if status == "waiting":
                self._lose(energy_uj, step_ns)

    def _lose(self, energy_uj: int, step_ns: int) -> None:
        losses = self.losses()
        losses.windows += 1
        losses.energy_uj += energy_uj
        losses.seconds += ns_to_s(step_ns)
        self._set("losses", msgspec.msgpack.encode(losses))

    def _over_disk_share(self) -> int:
        """Bytes by which the spool's disk is fuller than MAX_DISK_SHARE."""
        disk = os.statvfs(self.path.parent)
        return round((1 - MAX_DISK_SHARE) * disk.f_blocks * disk.f_frsize) - disk.f_bavail * disk.f_frsize

    def _get(self, name: str) -> bytes | None:
        with self._translated():
            row = self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return row[0] if row else None

    def _set(self, name: str, value: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _check_format(self) -> None:
        kept = self._get("format")
        if kept is None:
            self._set("format", msgspec.msgpack.encode(FORMAT))
        elif msgspec.msgpack.decode(kept) != FORMAT:
            raise SpoolUnavailable(self.path, f"written by another version (format {msgspec.msgpack.decode(kept)})")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise SpoolUnavailable(self.path, str(error)) from error


def _energy_uj(window: Window) -> int:
    """The joules of the window's widest meters, so that what is lost is told once."""
    widest = [meter for meter in window.meters if meter.meter.kind in ("server", "host")]
    return sum(meter.energy_uj for meter in widest or window.meters if not meter.meter.inside)
