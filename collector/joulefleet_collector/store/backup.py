"""A copy of the store while the collector runs, whole and checked.

A copy is marked, so that a collector that is started on it begins a new life of the store: agents then send again what
they still keep of the time since the copy was made.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from joulefleet_collector.store import schema
from joulefleet_collector.store.snapshot import snapshot
from joulefleet_collector.store.store import StoreUnavailable
from joulefleet_collector.store.trouble import database_told_clearly
from joulefleet_collector.store.whole_file import whole_file

_STEPS = 50
"""Times that progress is told."""
_PAGES_AT_LEAST = 256

Progress = Callable[[int, int], None]
"""Told (done, total)."""


def back_up(path: Path, target: Path, progress: Progress) -> int:
    """Copy the store at `path` to the new file `target`; returns its bytes. Raises StoreUnavailable."""
    with whole_file(target) as part:
        with (
            snapshot(path) as db,
            database_told_clearly(target),
            closing(sqlite3.connect(part, isolation_level=None)) as copy,
        ):
            _copy(db, copy, progress)
            _mark(copy)
            _check(copy, target)
        return part.stat().st_size


def _copy(db: sqlite3.Connection, copy: sqlite3.Connection, progress: Progress) -> None:
    page_bytes, pages = (int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_size", "page_count"))
    db.backup(
        copy,
        pages=max(_PAGES_AT_LEAST, pages // _STEPS),
        progress=lambda _, left, total: progress((total - left) * page_bytes, total * page_bytes),
        sleep=0,
    )


def _mark(copy: sqlite3.Connection) -> None:
    copy.execute("PRAGMA journal_mode = DELETE")
    copy.execute("INSERT OR REPLACE INTO meta VALUES (?, '')", (schema.COPIED,))


def _check(copy: sqlite3.Connection, target: Path) -> None:
    try:
        found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        mend = "the store itself may be damaged: check its disk, and keep the older copies"
        raise StoreUnavailable(str(target), f"the copy is not whole ({found})", mend)
