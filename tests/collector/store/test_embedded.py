"""The embedded store on its file: crashes, full disks, damage, other processes."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from joulefleet.window import Window
from joulefleet_collector.agents import end_ns
from joulefleet_collector.rows import Row
from joulefleet_collector.store import embedded
from joulefleet_collector.store.embedded import FILE_NAME, EmbeddedStore
from joulefleet_collector.store.pending import is_waiting
from joulefleet_collector.store.store import Accounted, Question, StoreUnavailable

Put = Callable[..., int]
AWindow = Callable[..., Window]
EVER = {"since_ns": 0, "until_ns": 2**62 - 2**62 % (86_400 * 10**9)}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore(tmp_path, lambda: "first")) as store:
        yield store


def joules(store: EmbeddedStore) -> float:
    return sum(one.fields["active_j"] for one in store.ask(Question(kind="usage", fields=("active_j",), **EVER)))


def test_a_store_opened_again_has_everything_and_its_epoch(tmp_path: Path, put: Put, a_window: AWindow) -> None:
    with closing(EmbeddedStore(tmp_path, lambda: "first")) as store:
        put(store, a_window())
    with closing(EmbeddedStore(tmp_path, lambda: "second")) as store:
        assert (store.epoch, joules(store), put(store, a_window())) == ("first", 600.0, 0)


def test_retired_servers_outlive_a_collector_and_no_line_is_set_aside(tmp_path: Path) -> None:
    with closing(EmbeddedStore(tmp_path, lambda: "first")) as store:
        store.retire({"a": 5})
        assert store.lines_set_aside is None
    with closing(EmbeddedStore(tmp_path, lambda: "second")) as store:
        assert store.retired() == {"a": 5}


def test_servers_are_heard_while_their_rows_wait_to_be_added_up(
    opened: EmbeddedStore, put: Put, a_window: AWindow
) -> None:
    put(opened, a_window("s0"))
    put(opened, *(a_window(f"s{number}", minute=5) for number in range(100)))
    newest_ns = a_window(minute=5).end_ns
    assert {row.tags["server"]: end_ns(row) for row in opened.heard()} == {f"s{k}": newest_ns for k in range(100)}
    with opened._reading() as db:
        assert is_waiting(db)


def test_writes_are_durable_by_the_settings_of_the_file(opened: EmbeddedStore) -> None:
    with opened._writing() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_full_disk_stores_nothing_and_says_so(opened: EmbeddedStore, put: Put, a_window: AWindow) -> None:
    put(opened, a_window(minute=0))
    pages = opened._writer.execute("PRAGMA page_count").fetchone()[0]
    opened._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    many = [a_window(f"server-{number}", minute=1) for number in range(500)]
    with pytest.raises(StoreUnavailable, match=r"no space is left.*free space"):
        put(opened, *many)
    assert (joules(opened), len(list(opened.windows(None, **EVER)))) == (600.0, 1)
    opened._writer.execute("PRAGMA max_page_count = 1000000")
    assert put(opened, *many) == 500


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database, not at all" * 100)
    with pytest.raises(StoreUnavailable, match="damaged or is no JouleFleet store"):
        EmbeddedStore(tmp_path, lambda: "x")


def test_a_damaged_file_is_told_and_not_repaired_in_silence(tmp_path: Path, put: Put, a_window: AWindow) -> None:
    with closing(EmbeddedStore(tmp_path, lambda: "x")) as store:
        put(store, *(a_window(minute=minute) for minute in range(300)))
    path = tmp_path / FILE_NAME
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    with pytest.raises(StoreUnavailable, match="damaged"), closing(EmbeddedStore(tmp_path, lambda: "x")) as store:
        list(store.windows(None, **EVER))


def test_a_damaged_window_is_told(opened: EmbeddedStore, put: Put, a_window: AWindow) -> None:
    put(opened, a_window())
    opened._writer.execute("UPDATE windows SET body = x'00'")
    with pytest.raises(StoreUnavailable, match="window 1 is damaged"):
        list(opened.windows(None, **EVER))


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
        other.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StoreUnavailable, match="did not make"):
        EmbeddedStore(tmp_path, lambda: "x")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    EmbeddedStore(tmp_path, lambda: "x").close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreUnavailable, match=r"schema 99.*install the newer joulefleet"):
        EmbeddedStore(tmp_path, lambda: "x")


def test_a_file_where_the_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(StoreUnavailable, match="name a folder"):
        EmbeddedStore(tmp_path / "data", lambda: "x")
    with pytest.raises(StoreUnavailable, match="name a folder"):
        EmbeddedStore(tmp_path / "data" / "deeper", lambda: "x")


def test_a_file_removed_under_a_running_collector_takes_no_more(
    opened: EmbeddedStore, put: Put, a_window: AWindow
) -> None:
    opened.path.unlink()
    with pytest.raises(StoreUnavailable):
        put(opened, a_window())
    opened.path.write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="removed or replaced"):
        put(opened, a_window())


def test_a_store_held_by_another_process_is_told_after_a_while(
    tmp_path: Path, put: Put, a_window: AWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "BUSY_TIMEOUT_S", 0.01)
    with closing(EmbeddedStore(tmp_path, lambda: "x")) as store, closing(sqlite3.connect(store.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another process is writing"):
            put(store, a_window())
        other.rollback()
        assert put(store, a_window()) == 1


def test_readers_do_not_wait_for_a_writer(opened: EmbeddedStore, put: Put, a_window: AWindow) -> None:
    put(opened, a_window(minute=0))
    accounted = a_window(minute=1)
    seen: list[float] = []

    def ask_meanwhile(window: Window) -> list[Row]:
        asking = threading.Thread(target=lambda: seen.append(joules(opened)))
        asking.start()
        asking.join()
        return []

    opened.write([Accounted(accounted, accounted.encode(), [])], 1)
    opened.recount(ask_meanwhile, lambda done, total: None)
    assert seen == [600.0, 600.0]


def test_threads_may_write_at_once(opened: EmbeddedStore, put: Put, a_window: AWindow) -> None:
    writing = [threading.Thread(target=put, args=(opened, a_window(f"s{n}", joules=1.0))) for n in range(8)]
    for thread in writing:
        thread.start()
    for thread in writing:
        thread.join()
    assert joules(opened) == 8.0


CRASHING = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from conftest import make_window, tiny_account
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import Accounted
store = EmbeddedStore(Path(sys.argv[1]), lambda: "x")
for minute in range(1_000_000):
    windows = [make_window(name, minute, 1.0) for name in ("a", "b", "c")]
    store.write([Accounted(one, one.encode(), tiny_account(one)) for one in windows], 1)
    print(minute, flush=True)
"""


@pytest.mark.parametrize("commits", [3, 40])
def test_what_was_acknowledged_survives_a_kill(
    tmp_path: Path, commits: int, account: Callable[[Window], list[Row]]
) -> None:
    tests = str(Path(__file__).parent.parent)
    with subprocess.Popen([sys.executable, "-c", CRASHING, str(tmp_path), tests], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(commits):
            told = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        told = max([told, *map(int, child.stdout.read().split(b"\n")[:-1])])
    with closing(EmbeddedStore(tmp_path, lambda: "y")) as store:
        kept = list(store.windows(None, **EVER))
        assert len(kept) % 3 == 0 and len(kept) // 3 in (told + 1, told + 2)
        assert joules(store) == len(kept)
        store.recount(account, lambda done, total: None)
        assert joules(store) == len(kept)
