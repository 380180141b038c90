"""The tables: made once, widened when rows gain fields."""

import sqlite3
from contextlib import closing
from math import isnan

import pytest

from joulefleet.grid import HOUR_NS
from joulefleet_collector.rows import KINDS
from joulefleet_collector.store import schema
from joulefleet_collector.store.store import DAY_NS, StoreUnavailable
from joulefleet_collector.store.table import Table


@pytest.fixture
def db() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def test_every_kind_has_a_table_for_every_grain_and_a_column_for_every_sum(db: sqlite3.Connection) -> None:
    schema.prepare(db, "here", "e")
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {name for _, _, name in schema.tables()} <= tables
    for kind, shape in KINDS.items():
        assert fields(db, kind) == list(enumerate(shape.sums))


def fields(db: sqlite3.Connection, kind: str) -> list[tuple[int, str]]:
    return db.execute("SELECT place, name FROM fields WHERE kind = ? ORDER BY place", (kind,)).fetchall()


def test_preparing_again_keeps_the_first_epoch(db: sqlite3.Connection) -> None:
    schema.prepare(db, "here", "first")
    schema.prepare(db, "here", "second")
    assert db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchall() == [("first",)]


def test_a_field_that_rows_gained_is_added_behind_the_others(db: sqlite3.Connection) -> None:
    schema.prepare(db, "here", "e")
    db.execute("DELETE FROM fields WHERE kind = 'agent' AND place > 0")
    db.execute("UPDATE fields SET name = 'gone' WHERE kind = 'agent'")
    schema.prepare(db, "here", "e")
    assert fields(db, "agent") == list(enumerate(("gone", *KINDS["agent"].sums)))


def test_newer_and_foreign_files_are_refused(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    with pytest.raises(StoreUnavailable, match="newer joulefleet"):
        schema.prepare(db, "here", "e")
    with closing(sqlite3.connect(":memory:")) as other:
        other.execute("CREATE TABLE theirs (x)")
        with pytest.raises(StoreUnavailable, match="did not make"):
            schema.prepare(other, "here", "e")


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_file_is_brought_up_and_keeps_what_it_has(db: sqlite3.Connection, version: int) -> None:
    schema.prepare(db, "here", "e")
    made = _made(db)
    _as_it_was(db, version)
    db.execute("INSERT INTO windows VALUES (1, 'a', 1, 1, 0, 0, x'')")
    db.execute("INSERT INTO agent_hour (start_ns, series, windows, cpu_s) VALUES (?, 7, 5, 0.5)", (3 * HOUR_NS,))
    db.execute("INSERT INTO agent_hour (start_ns, series, windows) VALUES (?, 8, 0)", (4 * HOUR_NS,))
    schema.prepare(db, "here", "never")
    assert _made(db) == made
    assert db.execute("SELECT server FROM windows").fetchall() == [("a",)]
    hour = next(rollup for rollup, kind, name in schema.tables() if name == "agent_hour")
    (block,) = Table(db, "agent", hour).between(0, DAY_NS)
    assert block.start_ns.tolist() == [3 * HOUR_NS, 4 * HOUR_NS] and block.series.tolist() == [7, 8]
    kept = [dict(zip(KINDS["agent"].sums, row, strict=True)) for row in block.values.tolist()]
    assert [{name: value for name, value in row.items() if not isnan(value)} for row in kept] == [
        {"windows": 5.0, "cpu_s": 0.5},
        {"windows": 0.0},
    ]
    schema.check(db, "here")


def _as_it_was(db: sqlite3.Connection, version: int) -> None:
    """The tables of an older version; one of them lacks a field that rows have gained since."""
    for _, kind, name in schema.tables():
        columns = ", ".join(f"{field} REAL" for field in KINDS[kind].sums if field != "energy_j" or kind != "agent")
        db.execute(f"DROP TABLE {name}")
        db.execute(
            f"CREATE TABLE {name} (start_ns INTEGER NOT NULL, series INTEGER NOT NULL, {columns},"
            " PRIMARY KEY (start_ns, series)) WITHOUT ROWID"
        )
    db.execute("DROP TABLE fields")
    if version == 1:
        db.executescript(
            """DROP TABLE counted; DROP TABLE pending; DROP INDEX windows_by_start;
            CREATE INDEX windows_by_start ON windows (start_ns)"""
        )
    db.execute(f"PRAGMA user_version = {version}")


def _made(db: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def test_a_reader_is_told_of_versions_that_it_would_misread(db: sqlite3.Connection) -> None:
    for version, said in ((0, "did not make"), (1, "start the collector once"), (schema.VERSION + 1, "the newer")):
        db.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(StoreUnavailable, match=said):
            schema.check(db, "here")


def test_a_copy_begins_a_new_life_once(db: sqlite3.Connection) -> None:
    schema.prepare(db, "here", "first")
    db.execute("INSERT INTO meta VALUES (?, '')", (schema.COPIED,))
    for epoch in ("second", "third"):
        schema.prepare(db, "here", epoch)
        assert db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchall() == [("second",)]
