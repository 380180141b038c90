"""The buffer of the whole system: closed windows on this server's disk until a collector's store has them.

One SQLite file. The cutter's state and the windows it closed are committed in one transaction, so that a killed agent
goes on exactly where it was. It is bounded in bytes and age, and never fills the disk; what has to go is the oldest
window that still waits, and its joules and seconds are added to the losses that travel with every later window.
"""

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import msgspec

from joulefleet.units import ns_to_s, s_to_ns
from joulefleet.window import Losses, Window

FORMAT = 1
MAX_DISK_SHARE = 0.95
LEAST_BYTES = 1024 * 1024
"""What the spool keeps of windows however full its disk is: without any, nothing would ever be delivered."""
LOG_PAGES = 100
"""Pages in SQLite's log before they are brought into the file, which then grows by as much: a tenth of what SQLite
would wait for, so that a small disk is not filled by it."""
Disk = Callable[[Path], os.statvfs_result]
TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS windows (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    start_ns INTEGER NOT NULL,
    made_ns INTEGER NOT NULL,  -- when it was kept
    status TEXT NOT NULL,      -- waiting, stored, refused
    due_ns INTEGER NOT NULL,   -- not to be sent before
    done_ns INTEGER NOT NULL,  -- when it was stored or refused
    code TEXT NOT NULL,        -- why it was refused
    energy_uj INTEGER NOT NULL,
    step_ns INTEGER NOT NULL,
    size INTEGER NOT NULL,
    body BLOB NOT NULL
);
-- What is asked at each commit and each send is in these alone: after an outage the windows are a hundred megabytes.
CREATE INDEX IF NOT EXISTS by_turn ON windows (status, seq, due_ns, size);
CREATE INDEX IF NOT EXISTS by_age ON windows (made_ns, size);
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

    def __init__(self, path: Path, bounds: Bounds | None = None, disk: Disk = os.statvfs) -> None:
        self.path = path
        self.bounds = bounds or Bounds()
        self._disk = disk
        with self._translated():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=10, isolation_level=None)
        try:
            self._prepare()
        except SpoolUnavailable:
            self._db.close()
            raise
        self._identity = _identity(path)

    @property
    def is_removed(self) -> bool:
        """Whether its file was removed or replaced since it was opened; what is kept now ends with the process."""
        return _identity(self.path) != self._identity

    def put_back(self) -> None:
        """Write the file anew where it was removed. Raises SpoolUnavailable, also where another stands in its place."""
        if self.path.exists():
            raise SpoolUnavailable(self.path, "another file stands in the place of the one that was removed")
        with self._translated():
            # A log that was left behind belongs to the removed file, and would be read into the new one.
            for suffix in ("-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            self._db.execute("VACUUM INTO ?", (str(self.path),))

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def timeline(self) -> int:
        """This spool's timeline; made by chance when the spool is new."""
        kept = self._kept_timeline()
        if kept is None:
            kept = secrets.randbits(32)
            with self._transaction():
                self._begin_timeline(kept)
        return kept

    def losses(self) -> Losses:
        """What was lost on this timeline."""
        kept = self._get("losses")
        return msgspec.msgpack.decode(kept, type=Losses) if kept else Losses()

    def state(self) -> bytes | None:
        """The state that was committed last."""
        return self._get("state")

    def learnt(self) -> bytes | None:
        """What was learnt, as it was committed last."""
        return self._get("learnt")

    def commit(  # noqa: PLR0913, PLR0917 - all that goes into one transaction
        self,
        state: bytes,
        windows: Sequence[Window],
        now_ns: int,
        lost: Losses | None = None,
        timeline: int | None = None,
        learnt: bytes | None = None,
    ) -> None:
        """Keep the state, what was learnt if it is told, and these closed windows, all or nothing.

        Raises SpoolUnavailable.

        `lost` is of windows that could not be kept while the disk refused: it is counted. `timeline` is the one of the
        state; the losses of a new one begin at nothing.
        """
        with self._transaction():
            # First, so that what they leave free is there for what follows, on a disk that has nothing else.
            self._forget_stored(now_ns)
            if timeline is not None and timeline != self._kept_timeline():
                self._begin_timeline(timeline)
            self._set("state", state)
            if learnt is not None:
                self._set("learnt", learnt)
            if lost is not None and lost.windows:
                self._lose(lost)
            for window in windows:
                self._insert(window, now_ns)
            self._stay_in_bounds(now_ns)

    def waiting(self, limit: int, now_ns: int, max_bytes: int, newest_first: bool = False) -> list[Waiting]:
        """The oldest windows that are due, or the newest; at most so many, and so many bytes beyond the first."""
        out: list[Waiting] = []
        size = 0
        with self._translated():
            rows = self._db.execute(
                "SELECT seq, start_ns, body FROM windows WHERE status='waiting' AND due_ns<=?"  # noqa: S608 # our words
                f" ORDER BY seq {'DESC' if newest_first else 'ASC'} LIMIT ?",
                (now_ns, limit),
            )
            for seq, start_ns, body in rows:
                size += len(body)
                if out and size > max_bytes:
                    break
                out.append(Waiting(seq, start_ns, body))
        return out

    def newest(self, now_ns: int) -> int:
        """The number of the newest window that waits and is due, 0 where none is; a later window has a higher one."""
        with self._translated():
            found = self._db.execute(
                "SELECT seq FROM windows WHERE status='waiting' AND due_ns<=? ORDER BY seq DESC LIMIT 1", (now_ns,)
            ).fetchone()
        return int(found[0]) if found else 0

    def stored(self, seqs: Sequence[int], now_ns: int) -> None:
        """A collector's store has committed these."""
        self._mark("status='stored', done_ns=?", [(now_ns, seq) for seq in seqs])

    def refused(self, seq: int, code: str, now_ns: int) -> None:
        """A collector will never take this one: set aside, counted, kept."""
        with self._transaction():
            number = self._db.execute(
                "UPDATE windows SET status='refused', code=?, done_ns=? WHERE seq=? AND status='waiting'",
                (code, now_ns, seq),
            ).rowcount
            self._lose(Losses(refused_windows=number))

    def postpone(self, seq: int, due_ns: int) -> None:
        """A collector takes this one later."""
        self._mark("due_ns=?", [(due_ns, seq)])

    def follow_store(self, epoch: str, now_ns: int) -> int:
        """A store of this epoch has answered: if it began a new life, what it should have kept of late waits again.

        Returns how many windows do.
        """
        before, told = self._get("store_epoch"), epoch.encode()
        if before == told:
            return 0
        with self._transaction():
            self._set("store_epoch", told)
            if before is None:
                return 0
            since_ns = now_ns - s_to_ns(self.bounds.keep_after_ack_s)
            return self._db.execute(
                "UPDATE windows SET status='waiting' WHERE status='stored' AND done_ns>=?", (since_ns,)
            ).rowcount

    def wait_again(self) -> None:
        """What is set aside or not due waits again, and no longer counts as refused: it will be declared a backfill."""
        with self._transaction():
            self._db.execute("UPDATE windows SET due_ns=0 WHERE status='waiting'")
            number = self._db.execute(
                "UPDATE windows SET status='waiting', code='', due_ns=0 WHERE status='refused'"
            ).rowcount
            # Those of an earlier timeline are counted there, and its losses are no longer at hand.
            self._lose(Losses(refused_windows=-min(number, self.losses().refused_windows)))

    def waiting_span(self) -> tuple[int, int]:
        """Start of the first and end of the last window that waits; 0 where none does."""
        with self._translated():
            first_ns, end_ns = self._db.execute(
                "SELECT coalesce(min(start_ns), 0), coalesce(max(start_ns + step_ns), 0) FROM windows"
                " WHERE status='waiting'"
            ).fetchone()
        return int(first_ns), int(end_ns)

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

    def _prepare(self) -> None:
        with self._translated():
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
            self._db.executescript(TABLES)
            self._check_format()

    def _kept_timeline(self) -> int | None:
        kept = self._get("timeline")
        return None if kept is None else int(msgspec.msgpack.decode(kept, type=int))

    def _begin_timeline(self, timeline: int) -> None:
        self._set("timeline", msgspec.msgpack.encode(timeline))
        self._set("losses", msgspec.msgpack.encode(Losses()))

    def _insert(self, window: Window, now_ns: int) -> None:
        body = window.encode()
        self._db.execute(
            "INSERT INTO windows (start_ns, made_ns, status, due_ns, done_ns, code, energy_uj, step_ns, size, body)"
            " VALUES (?, ?, 'waiting', 0, 0, '', ?, ?, ?, ?)",
            (window.start_ns, now_ns, energy_uj(window), window.step_ns, len(body), body),
        )

    def _forget_stored(self, now_ns: int) -> None:
        before_ns = now_ns - s_to_ns(self.bounds.keep_after_ack_s)
        self._db.execute("DELETE FROM windows WHERE status='stored' AND done_ns<?", (before_ns,))

    def _stay_in_bounds(self, now_ns: int) -> None:
        """Let the oldest windows go while there are too many bytes, or too old ones, or the disk is nearly full."""
        oldest_ns = now_ns - s_to_ns(self.bounds.max_age_s)
        size = self._db.execute("SELECT coalesce(sum(size), 0) FROM windows").fetchone()[0]
        excess = max(size - self.bounds.max_bytes, min(self._over_disk_share(), size - LEAST_BYTES))
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
                self._lose(Losses(windows=1, seconds=ns_to_s(step_ns), energy_uj=energy_uj))

    def _lose(self, lost: Losses) -> None:
        self._set("losses", msgspec.msgpack.encode(added(self.losses(), lost)))

    def _over_disk_share(self) -> int:
        """Bytes by which the spool's disk is fuller than MAX_DISK_SHARE, less what this file already has free inside.

        A file does not shrink when windows go; it only stops growing. Counting what went before twice would let one
        full disk empty the spool.
        """
        disk = self._disk(self.path.parent)
        over = round((1 - MAX_DISK_SHARE) * disk.f_blocks * disk.f_frsize) - disk.f_bavail * disk.f_frsize
        free_pages, page_bytes = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_size")
        )
        return int(over - free_pages * page_bytes)

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


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of its name; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def added(losses: Losses, more: Losses) -> Losses:
    """Both together."""
    return Losses(
        windows=losses.windows + more.windows,
        seconds=losses.seconds + more.seconds,
        energy_uj=losses.energy_uj + more.energy_uj,
        refused_windows=losses.refused_windows + more.refused_windows,
    )


def energy_uj(window: Window) -> int:
    """The joules that a window tells, late ones too, of the meters that no other one contains: none is told twice."""
    contained = {kind for meter in window.meters for kind in meter.meter.contains}
    apart = (one for one in window.meters if not one.meter.inside and one.meter.kind not in contained)
    return sum(one.energy_uj + one.late_uj for one in {one.meter.device or one.meter.id: one for one in apart}.values())
