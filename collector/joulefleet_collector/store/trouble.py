"""What SQLite's errors mean to the person who runs the store, and what they can do about them."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from joulefleet_collector.store.store import StoreUnavailable

_DAMAGED = (
    "the file is damaged or is no JouleFleet store",
    "put back a copy, or move it aside: a new store is made and agents send again what they still keep",
)
_MEANING = {
    sqlite3.SQLITE_FULL: ("no space is left", "free space on its disk"),
    sqlite3.SQLITE_READONLY: ("it may not be written", "give the collector's user the right to write there"),
    sqlite3.SQLITE_PERM: ("access is refused", "give the collector's user the right to read and write there"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "check that the folder exists and may be written"),
    sqlite3.SQLITE_BUSY: ("another process is writing to it", "wait until that has ended, or end it"),
    sqlite3.SQLITE_LOCKED: ("another process is writing to it", "wait until that has ended, or end it"),
    sqlite3.SQLITE_IOERR: ("the disk failed to read or write", "check the disk and the kernel's log"),
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
}
_PRIMARY_CODE = 0xFF
"""SQLite's extended codes hold the primary one in their lowest byte."""


@contextmanager
def told_clearly(path: Path) -> Iterator[None]:
    """Turn what may befall a file into StoreUnavailable; faults of the program itself pass as they are."""
    with file_told_clearly(path), database_told_clearly(path):
        yield


@contextmanager
def database_told_clearly(path: Path) -> Iterator[None]:
    """As `told_clearly`, where only what SQLite does concerns this file."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
        if code not in _MEANING:
            raise
        reason, mend = _MEANING[code]
        raise StoreUnavailable(str(path), f"{reason} ({error})", mend) from error


@contextmanager
def file_told_clearly(path: Path) -> Iterator[None]:
    """As `told_clearly`, where what SQLite does concerns another file."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "free space on its disk" if full else "name a folder that the collector's user may write to"
        raise StoreUnavailable(str(path), f"{error.strerror}", mend) from error
