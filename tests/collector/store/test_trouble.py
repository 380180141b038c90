"""Errors of SQLite and of files, in words."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from joulefleet_collector.store.store import StoreUnavailable
from joulefleet_collector.store.trouble import database_told_clearly, file_told_clearly, told_clearly


def test_a_real_error_of_sqlite_gets_its_mend(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "x.db"
    with (
        pytest.raises(StoreUnavailable, match=r"cannot be opened.*check that the folder exists") as told,
        told_clearly(path),
    ):
        sqlite3.connect(path)
    assert told.value.where == str(path)
    assert isinstance(told.value.__cause__, sqlite3.OperationalError)


def test_a_fault_of_the_program_passes_as_it_is() -> None:
    with pytest.raises(sqlite3.OperationalError, match="syntax"), told_clearly(Path("x")):
        sqlite3.connect(":memory:").execute("SELEC")
    with pytest.raises(ValueError, match="mine"), told_clearly(Path("x")):
        raise ValueError("mine")


def test_an_error_of_the_file_system_names_its_reason() -> None:
    with pytest.raises(StoreUnavailable, match="Permission denied; name a folder"), told_clearly(Path("x")):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_read_only_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    sqlite3.connect(path).execute("CREATE TABLE t (x)")
    with pytest.raises(StoreUnavailable, match="may not be written"), told_clearly(path):
        sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute("INSERT INTO t VALUES (1)")


def test_a_full_disk_is_told_as_such() -> None:
    with pytest.raises(StoreUnavailable, match="No space left on device; free space"), file_told_clearly(Path("x")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_two_files_are_told_apart() -> None:
    inside, outside = Path("inside"), Path("outside")
    with pytest.raises(StoreUnavailable, match="outside"), file_told_clearly(outside), database_told_clearly(inside):
        raise OSError(errno.EACCES, "x")
    with (
        pytest.raises(StoreUnavailable, match="outside"),
        database_told_clearly(outside),
        file_told_clearly(inside),
    ):
        sqlite3.connect("/nonexistent/folder/x.db")
