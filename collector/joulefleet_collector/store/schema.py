"""The tables of the embedded store, made from the shapes of the rows."""

import sqlite3
from itertools import repeat

import numpy as np

from joulefleet_collector.rows import KINDS
from joulefleet_collector.store.rollup import ROLLUPS, Rollup
from joulefleet_collector.store.store import StoreUnavailable
from joulefleet_collector.store.sums import Block
from joulefleet_collector.store.table import ROWS_AT_ONCE, Table

VERSION = 3
"""Rises when an older program would misread the file; a new field of a row does not raise it."""
COPIED = "copied"
"""Marks a copy: whoever opens it to write begins a new life of the store, with a new epoch."""

_SINCE_2 = (
    "CREATE TABLE pending (id INTEGER PRIMARY KEY, shard INTEGER NOT NULL, body BLOB NOT NULL)",
    "CREATE INDEX pending_by_shard ON pending (shard)",
    """CREATE TABLE counted (
        server TEXT NOT NULL, timeline INTEGER NOT NULL, step_ns INTEGER NOT NULL,
        first_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL,
        PRIMARY KEY (server, timeline, step_ns, first_ns)) WITHOUT ROWID""",
)
_FIELDS = """CREATE TABLE fields (
    kind TEXT NOT NULL, place INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (kind, place)) WITHOUT ROWID"""
"""Which field each column of a packed row of sums is."""
_FIXED = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE windows (
        id INTEGER PRIMARY KEY,
        server TEXT NOT NULL, timeline INTEGER NOT NULL, step_ns INTEGER NOT NULL, start_ns INTEGER NOT NULL,
        received_ns INTEGER NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (server, timeline, step_ns, start_ns))""",
    "CREATE INDEX windows_by_start ON windows (start_ns, received_ns)",
    """CREATE TABLE timelines (
        server TEXT NOT NULL, timeline INTEGER NOT NULL, first_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL,
        PRIMARY KEY (server, timeline)) WITHOUT ROWID""",
    "CREATE TABLE series (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, tags TEXT NOT NULL, UNIQUE (kind, tags))",
    "CREATE TABLE latest (series INTEGER PRIMARY KEY, start_ns INTEGER NOT NULL, fields TEXT NOT NULL)",
    *_SINCE_2,
    _FIELDS,
)
_FROM_1 = (
    "DROP INDEX windows_by_start",
    "CREATE INDEX windows_by_start ON windows (start_ns, received_ns)",
    *_SINCE_2,
)
"""What brings a file of version 1 to version 2."""


def tables() -> list[tuple[Rollup, str, str]]:
    """Every rollup table as (grain, kind, name)."""
    return [(rollup, kind, rollup.table(kind)) for rollup in ROLLUPS for kind in rollup.kinds]


def prepare(connection: sqlite3.Connection, where: str, epoch: str) -> None:
    """Make the tables in a new file, or check those of an old one and add fields that rows have gained since.

    Call it inside a transaction. Raises StoreUnavailable where the file was made by a newer version or is not ours.
    """
    found = _version(connection, where)
    if found == 0:
        _make(connection, where, epoch)
    elif found < VERSION:
        _bring_up(connection, found)
    _add_missing_fields(connection)
    _live_anew(connection, epoch)


def check(connection: sqlite3.Connection, where: str) -> None:
    """Raises StoreUnavailable where a reader would misread the file: made by another program or another version."""
    found = _version(connection, where)
    if found == 0:
        raise StoreUnavailable(where, "a database that joulefleet did not make", "name another data folder")
    if found < VERSION:
        reason = f"the store has schema {found}, and this version of joulefleet reads schema {VERSION}"
        raise StoreUnavailable(where, reason, "start the collector once, which brings it there")


def _version(connection: sqlite3.Connection, where: str) -> int:
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > VERSION:
        reason = f"the store has schema {found}, and this version of joulefleet knows schema {VERSION}"
        raise StoreUnavailable(where, reason, "install the newer joulefleet, or name another data folder")
    return found


def _make(connection: sqlite3.Connection, where: str, epoch: str) -> None:
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise StoreUnavailable(where, "a database that joulefleet did not make", "name another data folder")
    for statement in _FIXED:
        connection.execute(statement)
    _make_sums(connection)
    connection.execute("INSERT INTO meta VALUES ('epoch', ?)", (epoch,))
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _make_sums(connection: sqlite3.Connection) -> None:
    for _, _, name in tables():
        connection.execute(f"CREATE TABLE {name} (number INTEGER PRIMARY KEY, sums BLOB NOT NULL)")


def _bring_up(connection: sqlite3.Connection, found: int) -> None:
    if found == 1:
        for statement in _FROM_1:
            connection.execute(statement)
    connection.execute(_FIELDS)
    _add_missing_fields(connection)
    for rollup, kind, name in tables():
        connection.execute(f"ALTER TABLE {name} RENAME TO unpacked")
        connection.execute(f"CREATE TABLE {name} (number INTEGER PRIMARY KEY, sums BLOB NOT NULL)")
        _pack(connection, Table(connection, kind, rollup), kind)
        connection.execute("DROP TABLE unpacked")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _pack(connection: sqlite3.Connection, table: Table, kind: str) -> None:
    """Rows as version 2 kept them, a column for each field."""
    present = {column[1] for column in connection.execute("PRAGMA table_info(unpacked)")}
    fields = ", ".join(name if name in present else "NULL" for name in KINDS[kind].sums)
    found = connection.execute(f"SELECT start_ns, series, {fields} FROM unpacked ORDER BY 1, 2")  # noqa: S608 names are our own constants
    while rows := found.fetchmany(ROWS_AT_ONCE):
        keys = np.array([row[:2] for row in rows], np.int64)
        table.add(Block(keys[:, 0], keys[:, 1], keys[:, 1], np.array([row[2:] for row in rows], np.float64)))


def _live_anew(connection: sqlite3.Connection, epoch: str) -> None:
    # What was taken after the copy was made is not in it: agents that see a new epoch send again what they still keep.
    if connection.execute("DELETE FROM meta WHERE name = ?", (COPIED,)).rowcount:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (epoch,))


def _add_missing_fields(connection: sqlite3.Connection) -> None:
    for kind, shape in KINDS.items():
        present = [name for (name,) in connection.execute("SELECT name FROM fields WHERE kind = ?", (kind,))]
        missing = [name for name in shape.sums if name not in present]
        places = range(len(present), len(present) + len(missing))
        connection.executemany("INSERT INTO fields VALUES (?, ?, ?)", zip(repeat(kind), places, missing))
