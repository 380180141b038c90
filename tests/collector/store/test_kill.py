"""Killed at any instant while it prunes, compacts or recounts, the store has every sum and knows every window."""

import multiprocessing
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from joulefleet.window import Window
from joulefleet_collector.rows import Row
from joulefleet_collector.store import retention
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.retention import Keep
from joulefleet_collector.store.store import DAY_NS, Accounted, Question

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="children are forked")

Account = Callable[[Window], list[Row]]
Work = Callable[[EmbeddedStore, Callable[[], None]], None]
"""Goes on until it is killed; calls its second argument at each step."""

KILLS = 15
SERVERS, DAYS = 40, 30
KEEP = Keep(windows_ns=2 * DAY_NS, minutes_ns=3 * DAY_NS)
EVER = {"since_ns": 0, "until_ns": 40_000 * DAY_NS}
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def windows(a_window: Callable[..., Window]) -> list[Window]:
    return [a_window(f"s{server}", 24 * 60 * day + server, 1.0) for day in range(DAYS) for server in range(SERVERS)]


@pytest.fixture
def folder(tmp_path: Path, windows: list[Window], account: Account) -> Path:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as store:
        for day in range(DAYS):
            several = windows[day * SERVERS : (day + 1) * SERVERS]
            store.write([Accounted(one, one.encode(), account(one)) for one in several], several[-1].end_ns)
    return tmp_path


@contextmanager
def working(folder: Path, work: Work) -> Iterator[Connection]:
    """A child that works on the store and tells of each step; it is killed at the end."""
    ours, theirs = FORK.Pipe()

    def child() -> None:
        work(EmbeddedStore(folder, lambda: "e"), lambda: theirs.send(None))

    process = FORK.Process(target=child)
    process.start()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


def kill_again_and_again(folder: Path, work: Work, check: Callable[[EmbeddedStore], None]) -> None:
    """Kill after more and more steps, somewhere inside the next one."""
    rng = random.Random(5)
    for steps in range(KILLS):
        with working(folder, work) as told:
            for _ in range(1 + steps % 5):
                told.recv()
            told.poll(rng.uniform(0, 0.02))
        with closing(EmbeddedStore(folder, lambda: "e")) as store:
            check(store)


@pytest.fixture
def check(windows: list[Window], account: Account, start_ns: int) -> Callable[[EmbeddedStore], None]:
    def checked(store: EmbeddedStore) -> None:
        for step in ("hour", "day"):
            asked = Question(kind="usage", step=step, by=("server",), fields=("active_j",), **EVER)
            assert [one.fields for one in store.ask(asked)] == [{"active_j": 1.0}] * len(windows)
        assert store._writer.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert store.write([Accounted(one, one.encode(), account(one)) for one in windows], start_ns) == 0

    return checked


def test_killed_while_it_prunes(
    folder: Path, check: Callable[[EmbeddedStore], None], monkeypatch: pytest.MonkeyPatch, start_ns: int
) -> None:
    monkeypatch.setattr(retention, "WINDOWS_AT_ONCE", 8)
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 30)
    now_ns = start_ns + DAYS * DAY_NS

    def prune(store: EmbeddedStore, step: Callable[[], None]) -> None:
        while True:
            store.prune(KEEP, now_ns)
            step()

    kill_again_and_again(folder, prune, check)
    with closing(EmbeddedStore(folder, lambda: "e")) as store:
        left = sum(1 for _ in store.windows(None, **EVER))
        assert 3 * SERVERS <= left < DAYS * SERVERS - KILLS * 8
        while store.prune(KEEP, now_ns).more:
            pass
        assert sum(1 for _ in store.windows(None, **EVER)) == 3 * SERVERS
        check(store)


def test_killed_while_it_compacts(folder: Path, check: Callable[[EmbeddedStore], None]) -> None:
    def compact(store: EmbeddedStore, step: Callable[[], None]) -> None:
        while True:
            step()
            store.compact()

    kill_again_and_again(folder, compact, check)


def test_killed_while_it_recounts(
    folder: Path, check: Callable[[EmbeddedStore], None], account: Account, start_ns: int
) -> None:
    with closing(EmbeddedStore(folder, lambda: "e")) as store:
        store.prune(Keep(windows_ns=20 * DAY_NS, minutes_ns=40 * DAY_NS), start_ns + DAYS * DAY_NS)
        assert store.settled_days()

    def recount(store: EmbeddedStore, step: Callable[[], None]) -> None:
        while True:
            store.recount(account, lambda done, total: step())

    kill_again_and_again(folder, recount, check)
