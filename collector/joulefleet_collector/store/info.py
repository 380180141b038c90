"""What is in the store: sizes, counts, times and versions."""

import sqlite3
from pathlib import Path

import msgspec

from joulefleet_collector.store import counted, retention, schema
from joulefleet_collector.store.snapshot import snapshot
from joulefleet_collector.store.table import Table


class Span(msgspec.Struct, frozen=True):
    """Windows or rows, and the first and the last start among them; None where there are none."""

    count: int
    first_ns: int | None
    last_ns: int | None


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """The store at one instant."""

    path: str
    epoch: str
    schema: int
    sqlite: str
    file_bytes: int
    unused_bytes: int
    """Part of the file that is free for what comes next."""
    log_bytes: int
    """The write-ahead log beside the file."""
    servers: int
    windows: Span
    """Those that are kept."""
    windows_forgotten: int
    """Those that were counted and are no longer kept."""
    waiting_bytes: int
    """Rows of kept windows that are still to be added to the sums, and so not counted in `rollups`."""
    minutes_from_ns: int
    """The instant from which sums of minutes are whole; 0 where none was removed."""
    rollups: dict[str, Span]
    """Rows of sums by table."""


def inspect(path: Path) -> Info:
    """Look at the store of this path. Raises StoreUnavailable."""
    with snapshot(path) as db:
        page_bytes = _number(db, "PRAGMA page_size")
        return Info(
            path=str(path),
            epoch=str(db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[0]),
            schema=_number(db, "PRAGMA user_version"),
            sqlite=sqlite3.sqlite_version,
            file_bytes=_number(db, "PRAGMA page_count") * page_bytes,
            unused_bytes=_number(db, "PRAGMA freelist_count") * page_bytes,
            log_bytes=_size(path.with_name(path.name + "-wal")),
            servers=_number(db, "SELECT count(DISTINCT server) FROM timelines"),
            windows=_windows(db),
            windows_forgotten=counted.number(db),
            waiting_bytes=_number(db, "SELECT coalesce(sum(length(body)), 0) FROM pending"),
            minutes_from_ns=retention.minutes_from(db),
            rollups={name: _rows(Table(db, kind, rollup)) for rollup, kind, name in schema.tables()},
        )


def _number(db: sqlite3.Connection, statement: str) -> int:
    return int(db.execute(statement).fetchone()[0])


def _windows(db: sqlite3.Connection) -> Span:
    # Apart, so that the first and the last are found by the index and not by going through all.
    count, first, last = (
        db.execute(f"SELECT {what} FROM windows").fetchone()[0]  # noqa: S608 our own words
        for what in ("count(*)", "min(start_ns)", "max(start_ns)")
    )
    return Span(count, first, last)


def _rows(table: Table) -> Span:
    return Span(table.count(), *(table.span() or (None, None)))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
