"""The one writer: groups of several processes in one commit, each with its own outcome."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from fixtures.processes import until
from joulefleet.window import Window
from joulefleet_collector.rows import Row
from joulefleet_collector.store import writer as module
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.handover import Done, Fault, Outcome, Unavailable
from joulefleet_collector.store.store import DAY_NS, Accounted, StoreUnavailable
from joulefleet_collector.store.writer import Writer

AWindow = Callable[..., Window]
Account = Callable[[Window], list[Row]]
DEADLINE_S = 20.0


class Held(EmbeddedStore):
    """A store whose commits wait until they may begin, and can be spoilt."""

    commits = 0
    down = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, lambda: "e")
        self.free = threading.Event()
        self.began = threading.Event()

    def keep(self, accounted, received_ns):  # type: ignore[no-untyped-def]  # as the one of EmbeddedStore
        self.began.set()
        assert self.free.wait(DEADLINE_S)
        if self.down:
            raise StoreUnavailable("/data", "no space is left", "free some")
        new = super().keep(accounted, received_ns)
        self.commits += 1
        return new


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Held]:
    with closing(Held(tmp_path)) as opened:
        yield opened


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as opened:
        yield opened


def all_at_once(store: Held, writer: Writer, pool: ThreadPoolExecutor, groups: list[list[Accounted]]) -> list[Outcome]:
    """The first group holds the store up until all others wait."""
    found: list[Future[Outcome]] = [pool.submit(writer.keep, groups[0], 1)]
    assert store.began.wait(DEADLINE_S)
    found += [pool.submit(writer.keep, group, 1) for group in groups[1:]]
    until(lambda: len(writer._waiting) == len(groups) - 1, "the others to wait")
    store.free.set()
    return [one.result(DEADLINE_S) for one in found]


def test_groups_that_wait_share_a_commit_and_each_is_told_what_was_new(
    store: Held, pool: ThreadPoolExecutor, a_window: AWindow, account: Account
) -> None:
    def group(*names: str) -> list[Accounted]:
        return [Accounted(one, one.encode(), account(one)) for one in map(a_window, names)]

    groups = [group("a"), group("b", "c"), group("c", "d", "a"), [], group("d")]
    told = all_at_once(store, Writer(store), pool, groups)
    assert store.commits == 2
    assert told[0] == Done(1)
    # Which of those that wait comes first is open; each window was new to one of them.
    assert sorted(one.server for one in store.windows(None, 0, 40_000 * DAY_NS)) == ["a", "b", "c", "d"]
    assert sum(one.new for one in told if isinstance(one, Done)) == 4


def test_a_commit_that_has_enough_leaves_the_rest_for_the_next(
    store: Held,
    pool: ThreadPoolExecutor,
    a_window: AWindow,
    account: Account,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ENOUGH", 2)
    windows = [a_window(f"s{number}") for number in range(6)]
    groups = [[Accounted(one, one.encode(), account(one))] for one in windows]
    assert all_at_once(store, Writer(store), pool, groups) == [Done(1)] * 6
    assert store.commits == 4


def test_a_group_that_spoils_the_commit_is_alone_in_it(
    store: Held, pool: ThreadPoolExecutor, a_window: AWindow, account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    def group(name: str) -> list[Accounted]:
        window = a_window(name)
        odd = [Row("usage", window.start_ns, {}, {"no_such_field": 1.0})] if name == "odd" else account(window)
        return [Accounted(window, window.encode(), odd)]

    told = all_at_once(store, Writer(store), pool, [group(name) for name in ("a", "b", "odd", "c")])
    assert told == [Done(1), Done(1), Fault("ValueError: no_such_field: no fields of 'usage' rows"), Done(1)]
    assert sorted(one.server for one in store.windows(None, 0, 40_000 * DAY_NS)) == ["a", "b", "c"]
    assert "no_such_field" in caplog.text


def test_a_store_that_is_down_is_told_to_all_and_nothing_is_kept(
    store: Held, pool: ThreadPoolExecutor, a_window: AWindow, account: Account
) -> None:
    store.down = True
    groups = [[Accounted(one, one.encode(), account(one))] for one in (a_window(name) for name in "abc")]
    told = all_at_once(store, Writer(store), pool, groups)
    assert told == [Unavailable("/data", "no space is left", "free some")] * 3
    assert list(store.windows(None, 0, 40_000 * DAY_NS)) == []
    store.down = False
    assert Writer(store).keep(groups[0], 1) == Done(1)


def test_outcomes_are_told_apart_on_their_way() -> None:
    for one in (Done(3), Unavailable("a", "b", "c"), Fault("x")):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Outcome) == one
