"""Copies made while the collector writes."""

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from joulefleet.window import Window
from joulefleet_collector.store import backup
from joulefleet_collector.store.backup import back_up
from joulefleet_collector.store.embedded import FILE_NAME, EmbeddedStore
from joulefleet_collector.store.store import DAY_NS, Question, StoreUnavailable

Put = Callable[..., int]
AWindow = Callable[..., Window]
EVER = {"since_ns": 0, "until_ns": 40_000 * DAY_NS}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore(tmp_path / "data", lambda: "first life")) as opened:
        yield opened


def silent(done: int, total: int) -> None:
    pass


def joules(store: EmbeddedStore) -> float:
    return sum(one.fields["active_j"] for one in store.ask(Question(kind="usage", fields=("active_j",), **EVER)))


def test_a_copy_taken_while_windows_come_in_is_one_instant_of_the_store(
    store: EmbeddedStore, put: Put, a_window: AWindow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_PAGES_AT_LEAST", 5)
    put(store, *(a_window(f"s{number}", joules=1.0) for number in range(300)))
    minutes = iter(range(1, 10_000))

    def write_meanwhile(done: int, total: int) -> None:
        told.append((done, total))
        put(store, a_window("late", next(minutes), 1.0))

    told: list[tuple[int, int]] = []
    (tmp_path / "restored").mkdir()
    size = back_up(store.path, tmp_path / "restored" / FILE_NAME, write_meanwhile)
    assert size == (tmp_path / "restored" / FILE_NAME).stat().st_size == told[-1][1]
    assert len(told) > 10 and told == sorted(told) and told[-1][0] == told[-1][1]
    assert joules(store) == 300.0 + len(told)
    with closing(EmbeddedStore(tmp_path / "restored", lambda: "second life")) as copy:
        assert (joules(copy), len(list(copy.windows(None, **EVER)))) == (300.0, 300)


def test_a_copy_is_whole_though_a_thread_writes_all_the_time(
    store: EmbeddedStore, put: Put, a_window: AWindow, tmp_path: Path
) -> None:
    ended = threading.Event()

    def write() -> None:
        for minute in range(100_000):
            if ended.is_set():
                return
            put(store, *(a_window(name, minute, 1.0) for name in "abc"))

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for number in range(3):
            back_up(store.path, _in(tmp_path, number), silent)
    finally:
        ended.set()
        writing.join()
    for number in range(3):
        with closing(EmbeddedStore(_in(tmp_path, number).parent, lambda: "x")) as copy:
            assert joules(copy) == len(list(copy.windows(None, **EVER)))


def _in(folder: Path, number: int) -> Path:
    (folder / str(number)).mkdir(exist_ok=True)
    return folder / str(number) / FILE_NAME


def test_each_start_on_a_copy_is_a_new_life_and_the_store_goes_on_with_its_own(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    back_up(store.path, tmp_path / "copy", silent)
    assert store.epoch == "first life"
    for life in ("second life", "third life"):
        _in(tmp_path, 0).write_bytes((tmp_path / "copy").read_bytes())
        with closing(EmbeddedStore(tmp_path / "0", partial(str, life))) as restored:
            assert restored.epoch == life
        with closing(EmbeddedStore(tmp_path / "0", lambda: "never")) as again:
            assert again.epoch == life


def test_a_damaged_store_gives_no_copy(store: EmbeddedStore, put: Put, a_window: AWindow, tmp_path: Path) -> None:
    put(store, *(a_window(f"s{number}") for number in range(500)))
    store.close()
    with store.path.open("r+b") as file:
        file.seek(40 * 4096)
        file.write(random.Random(1).randbytes(40 * 4096))
    with pytest.raises(StoreUnavailable, match="the copy is not whole"):
        back_up(store.path, tmp_path / "copy", silent)
    assert not (tmp_path / "copy").exists()


def test_the_store_itself_is_never_written_over(store: EmbeddedStore, put: Put, a_window: AWindow) -> None:
    put(store, a_window())
    with pytest.raises(StoreUnavailable, match="already there"):
        back_up(store.path, store.path, silent)
    assert joules(store) == 600.0


def test_a_copy_needs_no_files_beside_it(store: EmbeddedStore, put: Put, a_window: AWindow, tmp_path: Path) -> None:
    put(store, a_window())
    (tmp_path / "there").mkdir()
    back_up(store.path, tmp_path / "there" / "copy", silent)
    assert [one.name for one in (tmp_path / "there").iterdir()] == ["copy"]
    with closing(sqlite3.connect(tmp_path / "there" / "copy")) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
