"""Rows that wait to be brought into the sums are never lost, missed or counted twice."""

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from joulefleet.window import Window
from joulefleet_collector.account.accounting import Accounting
from joulefleet_collector.account.numbers import told
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.skim import digest, skim
from joulefleet_collector.rows import Row
from joulefleet_collector.store import pending
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.pending import AT_ONCE, SHARDS, is_waiting, shard_of
from joulefleet_collector.store.rollup import MINUTE
from joulefleet_collector.store.store import Accounted, Question, StoreUnavailable
from joulefleet_collector.store.table import Table

Put = Callable[..., int]
AWindow = Callable[..., Window]
EVER = {"since_ns": 0, "until_ns": 2**62 - 2**62 % (86_400 * 10**9)}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore(tmp_path, lambda: "first")) as store:
        yield store


def joules(store: EmbeddedStore) -> float:
    return sum(one.fields["active_j"] for one in store.ask(Question(kind="usage", fields=("active_j",), **EVER)))


def waits(store: EmbeddedStore) -> bool:
    with store._reading() as db:
        return is_waiting(db)


def many(a_window: AWindow, minute: int = 0, servers: int = 4 * AT_ONCE) -> list[Window]:
    return [a_window(f"s{number}", minute, joules=1.0) for number in range(servers)]


def test_few_windows_are_in_the_sums_at_once_and_many_wait(opened: EmbeddedStore, put: Put, a_window: AWindow) -> None:
    put(opened, *many(a_window, servers=AT_ONCE))
    assert not waits(opened)
    put(opened, *many(a_window, 1))
    assert waits(opened)


def test_whoever_asks_misses_nothing(opened: EmbeddedStore, put: Put, a_window: AWindow) -> None:
    windows = many(a_window)
    put(opened, *windows)
    assert joules(opened) == len(windows)
    assert not waits(opened)
    put(opened, *many(a_window, 1))
    assert len(opened.latest("agent")) == len(windows)
    put(opened, *many(a_window, 2))
    assert "rack" in opened.tags("usage")
    assert joules(opened) == 3 * len(windows)


def test_windows_sent_again_count_once_whether_their_rows_wait_or_not(
    opened: EmbeddedStore, put: Put, a_window: AWindow
) -> None:
    windows = many(a_window)
    assert put(opened, *windows, *windows[:5]) == len(windows)
    assert put(opened, *windows, *many(a_window, 1)) == len(windows)
    assert put(opened, *windows) == 0
    assert joules(opened) == 2 * len(windows)


def test_quiet_writes_bring_in_what_a_busy_time_left(opened: EmbeddedStore, put: Put, a_window: AWindow) -> None:
    put(opened, *many(a_window))
    for minute in range(1, SHARDS + 1):
        put(opened, a_window("quiet", minute))
    assert not waits(opened)


def test_a_busy_time_brings_shards_in_by_turns(
    opened: EmbeddedStore, put: Put, a_window: AWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "TURN", 1)
    for minute in range(2 * SHARDS):
        put(opened, *many(a_window, minute, servers=AT_ONCE + 1))
        with opened._reading() as db:
            assert db.execute("SELECT count(*) FROM pending").fetchone()[0] <= SHARDS * (AT_ONCE + 1)
    with opened._reading() as db:
        blocks = Table(db, "usage", MINUTE).between(0, 2**62)
        assert len({start_ns for block in blocks for start_ns in block.start_ns.tolist()}) > SHARDS
    assert joules(opened) == 2 * SHARDS * (AT_ONCE + 1)


def test_rows_that_wait_are_there_when_the_store_is_opened_again(tmp_path: Path, put: Put, a_window: AWindow) -> None:
    with closing(EmbeddedStore(tmp_path, lambda: "x")) as store:
        put(store, *many(a_window))
    with closing(EmbeddedStore(tmp_path, lambda: "y")) as store:
        assert waits(store)
        assert joules(store) == 4 * AT_ONCE


def test_another_process_may_bring_them_in_meanwhile(tmp_path: Path, put: Put, a_window: AWindow) -> None:
    with closing(EmbeddedStore(tmp_path, lambda: "x")) as one, closing(EmbeddedStore(tmp_path, lambda: "x")) as other:
        for minute in range(3):
            put(one, *many(a_window, 2 * minute))
            put(other, *many(a_window, 2 * minute + 1))
            assert joules(other) == joules(one) == (2 * minute + 2) * 4 * AT_ONCE


def test_a_recount_makes_the_same_sums_and_leaves_nothing_waiting(
    opened: EmbeddedStore, put: Put, a_window: AWindow, account: Callable[[Window], list[Row]]
) -> None:
    put(opened, *many(a_window))
    opened.recount(account, lambda done, total: None)
    assert not waits(opened)
    assert joules(opened) == 4 * AT_ONCE


def test_a_write_that_fails_leaves_no_rows_and_the_next_one_is_whole(
    opened: EmbeddedStore, put: Put, a_window: AWindow
) -> None:
    pages = opened._writer.execute("PRAGMA page_count").fetchone()[0]
    opened._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreUnavailable):
        put(opened, *many(a_window))
    assert not waits(opened)
    opened._writer.execute("PRAGMA max_page_count = 1000000")
    put(opened, *many(a_window))
    assert joules(opened) == 4 * AT_ONCE


def test_rows_that_are_damaged_are_told_and_kept(opened: EmbeddedStore, put: Put, a_window: AWindow) -> None:
    put(opened, *many(a_window))
    opened._writer.execute("UPDATE pending SET body = x'00'")
    with pytest.raises(StoreUnavailable, match="rows that wait are damaged"):
        joules(opened)
    assert waits(opened)


def test_servers_are_spread_over_shards_and_stay_in_theirs() -> None:
    shards = [shard_of(f"server-{number}") for number in range(10 * SHARDS)]
    assert set(shards) == set(range(SHARDS))
    assert shard_of("gpu-17") == 14


def board_of(window: Window) -> Window:
    """The same server with a board, so that it is accounted together with others."""
    whole = window.meters[0]
    board = msgspec.structs.replace(whole, meter=msgspec.structs.replace(whole.meter, id="gpu0", kind="accelerator"))
    return msgspec.structs.replace(window, meters=(board, whole))


def test_sums_do_not_depend_on_how_windows_came(tmp_path: Path, a_window: AWindow) -> None:
    windows = [
        board_of(a_window(f"s{number}", minute, joules=number + minute / 7))
        for number in range(50)
        for minute in range(5)
    ]
    accounting = Accounting(Policy())
    marked = []
    for window in windows:
        found = skim(window.encode())
        assert found is not None
        accounting.learn(digest(found), window)
        marked.append((digest(found), told(found)))
    together = accounting.at_once(marked)
    assert all(rows is not None for rows in together)
    at_once = [Accounted(one, one.encode(), rows or []) for one, rows in zip(windows, together, strict=True)]
    alone = [Accounted(one, one.encode(), accounting(one)) for one in windows]
    mixed = [random.Random(3).choice(pair) for pair in zip(at_once, alone, strict=True)]
    random.Random(4).shuffle(mixed)
    answers = []
    for number, (accounted, size) in enumerate(((at_once, len(windows)), (alone, 7), (mixed, 90))):
        with closing(EmbeddedStore(tmp_path / str(number), lambda: "x")) as store:
            for first in range(0, len(accounted), size):
                store.write(accounted[first : first + size], 1)
            answers.append(everything(store))
    assert answers[0].keys() == answers[1].keys() == answers[2].keys()
    for key, fields in answers[0].items():
        assert answers[1][key] == pytest.approx(fields, rel=1e-9)
        assert answers[2][key] == pytest.approx(fields, rel=1e-9)


def everything(store: EmbeddedStore) -> dict[tuple[object, ...], dict[str, float]]:
    found: dict[tuple[object, ...], dict[str, float]] = {}
    for kind in ("usage", "ledger", "work", "meter", "agent"):
        for by in (("server", "model", "boundary", "meter"), ("boundary",)):
            for step in ("minute", "day"):
                for total in store.ask(Question(kind=kind, by=by, step=step, **EVER)):  # type: ignore[arg-type]  # literals
                    found[kind, by, step, total.start_ns, *total.tags.values()] = total.fields
        for row in store.latest(kind):
            found["latest", kind, row.start_ns, *sorted(row.tags.items())] = row.fields
    return found


CRASHING = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from conftest import make_window, tiny_account
from joulefleet_collector.store import pending
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import Accounted
pending.TURN = 50
store = EmbeddedStore(Path(sys.argv[1]), lambda: "x")
for minute in range(1_000_000):
    windows = [make_window(f"s{number}", minute, 1.0) for number in range(70)]
    store.write([Accounted(one, one.encode(), tiny_account(one)) for one in windows], 1)
    print(minute, flush=True)
    if minute % 9 == 8:
        store.settle()
"""


@pytest.mark.parametrize("commits", [1, 8, 17, 30])
def test_what_waited_survives_a_kill_and_counts_once(tmp_path: Path, commits: int) -> None:
    tests = str(Path(__file__).parent.parent)
    with subprocess.Popen([sys.executable, "-c", CRASHING, str(tmp_path), tests], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(commits):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    with closing(EmbeddedStore(tmp_path, lambda: "y")) as store:
        kept = len(list(store.windows(None, **EVER)))
        assert kept >= 70 * commits
        assert joules(store) == kept
