"""A look at the store that neither changes nor holds up the writer."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from joulefleet.window import Window
from joulefleet_collector.store.embedded import FILE_NAME, EmbeddedStore
from joulefleet_collector.store.snapshot import snapshot
from joulefleet_collector.store.store import StoreUnavailable

COUNT = "SELECT count(*) FROM windows"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as opened:
        yield opened


def test_what_is_written_meanwhile_is_not_seen_and_not_held_up(
    store: EmbeddedStore, put: Callable[..., int], a_window: Callable[..., Window]
) -> None:
    put(store, a_window(minute=0))
    with snapshot(store.path) as db:
        assert put(store, a_window(minute=1)) == 1
        assert db.execute(COUNT).fetchone() == (1,)
    with snapshot(store.path) as db:
        assert db.execute(COUNT).fetchone() == (2,)


def test_it_may_only_read(store: EmbeddedStore) -> None:
    with (
        pytest.raises(StoreUnavailable, match="may not be written"),
        snapshot(store.path) as db,
    ):
        db.execute("DELETE FROM windows")


def test_a_missing_file_is_told_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened"), snapshot(tmp_path / FILE_NAME):
        pass
    assert not (tmp_path / FILE_NAME).exists()


def test_files_of_others_and_of_other_versions_are_told(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StoreUnavailable, match="did not make"), snapshot(path):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 1")
    with pytest.raises(StoreUnavailable, match="start the collector once"), snapshot(path):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreUnavailable, match="install the newer"), snapshot(path):
        pass
