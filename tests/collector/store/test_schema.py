"""The tables: made once, widened when rows gain fields."""

import sqlite3
from contextlib import closing

import pytest

from joulefleet_collector.rows import KINDS
from joulefleet_collector.store import schema
from joulefleet_collector.store.store import StoreUnavailable


@pytest.fixture
def db() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def test_every_kind_has_a_table_for_every_grain_with_every_sum(db: sqlite3.Connection) -> None:
    schema.prepare(db, "here", "e")
    for _, kind, name in schema.tables():
        columns = {line[1] for line in db.execute(f"PRAGMA table_info({name})")}
        assert columns == {"start_ns", "series", *KINDS[kind].sums}


def test_preparing_again_keeps_the_first_epoch(db: sqlite3.Connection) -> None:
    schema.prepare(db, "here", "first")
    schema.prepare(db, "here", "second")
    assert db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchall() == [("first",)]


def test_a_field_that_rows_gained_is_added_and_unknown_before(db: sqlite3.Connection) -> None:
    schema.prepare(db, "here", "e")
    db.execute("INSERT INTO agent_day (start_ns, series, windows) VALUES (0, 1, 5)")
    db.execute("ALTER TABLE agent_day DROP COLUMN cpu_s")
    schema.prepare(db, "here", "e")
    assert db.execute("SELECT windows, cpu_s FROM agent_day").fetchall() == [(5.0, None)]


def test_an_upsert_adds_and_null_is_unknown(db: sqlite3.Connection) -> None:
    schema.prepare(db, "here", "e")
    statement = schema.upsert("agent_day", ("windows", "cpu_s", "energy_j"))
    db.execute(statement, (0, 1, 1.0, None, None))
    db.execute(statement, (0, 1, 2.0, 4.0, None))
    db.execute(statement, (0, 1, None, None, None))
    assert db.execute("SELECT windows, cpu_s, energy_j FROM agent_day").fetchall() == [(3.0, 4.0, None)]


def test_newer_and_foreign_files_are_refused(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    with pytest.raises(StoreUnavailable, match="newer joulefleet"):
        schema.prepare(db, "here", "e")
    with closing(sqlite3.connect(":memory:")) as other:
        other.execute("CREATE TABLE theirs (x)")
        with pytest.raises(StoreUnavailable, match="did not make"):
            schema.prepare(other, "here", "e")


def test_a_file_of_version_1_is_brought_up_and_keeps_what_it_has(db: sqlite3.Connection) -> None:
    schema.prepare(db, "here", "e")
    made = _made(db)
    db.executescript(
        """DROP TABLE counted; DROP TABLE pending; DROP INDEX windows_by_start;
        CREATE INDEX windows_by_start ON windows (start_ns);
        INSERT INTO windows VALUES (1, 'a', 1, 1, 0, 0, x''); PRAGMA user_version = 1"""
    )
    schema.prepare(db, "here", "never")
    assert _made(db) == made
    assert db.execute("SELECT server FROM windows").fetchall() == [("a",)]
    schema.check(db, "here")


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
