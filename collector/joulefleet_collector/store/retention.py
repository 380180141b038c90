"""Letting go of what is older than shall be kept, a little at a time, without touching a sum that stays."""

import sqlite3
from collections.abc import Sequence

import msgspec

from joulefleet.grid import HOUR_NS, floor_to
from joulefleet_collector.rows import KINDS
from joulefleet_collector.store import counted
from joulefleet_collector.store.rollup import MINUTE, Piece
from joulefleet_collector.store.store import DAY_NS, NotKept
from joulefleet_collector.store.table import Table

WINDOWS_AT_ONCE = 2_000
ROWS_AT_ONCE = 10_000
PAGES_AT_ONCE = 1_000
"""The most that one transaction removes: writers wait for it."""
FREE_SHARE = 0.1
"""Of the file; what is unused up to here stays for what comes next."""
_MINUTES_FROM_NS = "minutes_from_ns"
"""Entry of `meta`: sums of minutes before it may be gone."""


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """How long windows and sums of minutes are kept; sums of hours and days are kept for ever."""

    windows_ns: int = 7 * DAY_NS
    minutes_ns: int = 90 * DAY_NS


class Pruned(msgspec.Struct, frozen=True):
    """What one transaction removed."""

    windows: int
    minute_rows: int
    given_back_bytes: int
    """Unused space of the file that the disk has again."""
    more: bool
    """Whether there may be more to remove now."""


def prune(db: sqlite3.Connection, keep: Keep, now_ns: int) -> Pruned:
    """Remove a bounded part of what is too old. Call it inside a transaction.

    A window is as old as its start or its receipt, whichever is later, so that a backfill is kept as long as others.
    """
    now_ns = min(now_ns, _newest(db))
    windows = _prune_windows(db, now_ns - keep.windows_ns)
    rows = _prune_minutes(db, floor_to(now_ns - keep.minutes_ns, HOUR_NS))
    more = windows == WINDOWS_AT_ONCE or rows == ROWS_AT_ONCE
    pages = 0 if more else _give_back(db)
    return Pruned(windows, rows, pages * _pragma(db, "page_size"), more or pages >= PAGES_AT_ONCE)


def _newest(db: sqlite3.Connection) -> int:
    # A clock that runs ahead must not empty the store: time is no later than what servers have told of.
    return int(db.execute("SELECT coalesce(max(start_ns), 0) FROM windows").fetchone()[0])


def _prune_windows(db: sqlite3.Connection, before_ns: int) -> int:
    old = db.execute(
        "SELECT id, server, timeline, step_ns, start_ns FROM windows WHERE id IN"
        " (SELECT id FROM windows WHERE start_ns < :before AND received_ns < :before ORDER BY start_ns LIMIT :most)",
        {"before": before_ns, "most": WINDOWS_AT_ONCE},
    ).fetchall()
    if old:
        counted.add(db, [key for _, *key in old])
        db.executemany("DELETE FROM windows WHERE id = ?", [(number,) for number, *_ in old])
    return len(old)


def _prune_minutes(db: sqlite3.Connection, before_ns: int) -> int:
    removed = 0
    for kind in KINDS:
        removed += Table(db, kind, MINUTE).forget_before(before_ns, ROWS_AT_ONCE - removed)
    if removed and before_ns > minutes_from(db):
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_MINUTES_FROM_NS, str(before_ns)))
    return removed


def _give_back(db: sqlite3.Connection) -> int:
    """Pages given back to the disk; none where the file was made without this ability, until it is compacted."""
    pages, free = _pragma(db, "page_count"), _pragma(db, "freelist_count")
    for _ in range(min(PAGES_AT_ONCE, free - int(pages * FREE_SHARE))):
        db.execute("PRAGMA incremental_vacuum(1)")  # Python takes one step of it at a time, which is one page
    return pages - _pragma(db, "page_count")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def minutes_from(db: sqlite3.Connection) -> int:
    """The instant from which sums of minutes are whole; 0 where none was ever removed."""
    found = db.execute("SELECT value FROM meta WHERE name = ?", (_MINUTES_FROM_NS,)).fetchone()
    return int(found[0]) if found else 0


def check_kept(db: sqlite3.Connection, parts: Sequence[Piece]) -> None:
    """Raises NotKept where an answer from these parts would lack sums of minutes that are gone."""
    from_ns = minutes_from(db)
    if any(part.rollup == MINUTE and part.since_ns < from_ns for part in parts):
        raise NotKept(from_ns)
