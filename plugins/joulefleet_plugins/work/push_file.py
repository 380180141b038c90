"""Keeps what was pushed in one SQLite file, so that a program may forget it as soon as it has its answer."""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import msgspec

from joulefleet import Counts, WorkKey
from joulefleet_plugins.work.push_book import Book, Sender

T = TypeVar("T")
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA locking_mode = EXCLUSIVE;
CREATE TABLE IF NOT EXISTS kept (kind TEXT, name TEXT, body BLOB, PRIMARY KEY (kind, name)) WITHOUT ROWID;
"""
ENGINE, SENDER, BEGUN, LIFE = "engine", "sender", "begun", "life"
LOCK_WAIT_S = 1.0


class Unkept(Exception):
    """The file cannot be used, and why."""


class PushFile:
    """The file, for one process at a time; calls must not overlap."""

    def __init__(self, path: Path) -> None:
        """Raises Unkept where it cannot be written, or another process has it."""
        self.path = path
        with self._telling():
            self._database = sqlite3.connect(path, LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
            self._database.executescript(SCHEMA)
            # The lock is taken with the first write and kept.
            self._database.execute("INSERT OR IGNORE INTO kept VALUES (?, '', ?)", (LIFE, uuid4().hex))

    def life(self) -> str:
        """Of the counters in the file: another one in each file. Raises Unkept."""
        with self._telling():
            return str(self._database.execute("SELECT body FROM kept WHERE kind = ?", (LIFE,)).fetchone()[0])

    def book(self) -> Book:
        """All that is kept. Raises Unkept."""
        return Book(self._all(ENGINE, dict[WorkKey, Counts]), self._all(SENDER, Sender))

    def begun(self) -> set[str]:
        """Engines whose counters are told. Raises Unkept."""
        with self._telling():
            rows = self._database.execute("SELECT name FROM kept WHERE kind = ?", (BEGUN,))
            return {str(name) for (name,) in rows}

    def begin(self, engine: str) -> None:
        """Its counters are told from now on; durable when this returns. Raises Unkept."""
        with self._telling():
            self._database.execute("INSERT OR IGNORE INTO kept VALUES (?, ?, '')", (BEGUN, engine))

    def write(self, change: Book) -> None:
        """Keep what changed, all of it or nothing; durable when this returns. Raises Unkept."""
        with self._telling(), self._transaction():
            self._database.executemany(
                "DELETE FROM kept WHERE kind = ? AND name = ?", [(SENDER, name) for name in change.forgotten]
            )
            self._database.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", _rows(ENGINE, change.engines))
            self._database.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", _rows(SENDER, change.senders))

    def close(self) -> None:
        """Let another process have it."""
        self._database.close()

    def _all(self, kind: str, form: type[T]) -> dict[str, T]:
        with self._telling():
            rows = self._database.execute("SELECT name, body FROM kept WHERE kind = ?", (kind,)).fetchall()
            return {str(name): msgspec.msgpack.decode(body, type=form) for name, body in rows}

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise Unkept(f"{self.path}: {error}") from error


def _rows(kind: str, of: Mapping[str, object]) -> list[tuple[str, str, bytes]]:
    return [(kind, name, msgspec.msgpack.encode(one)) for name, one in of.items()]
