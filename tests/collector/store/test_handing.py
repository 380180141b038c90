"""A worker's store beyond the conformance suite: who writes, what it sees, and what it says when nobody writes."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fixtures.handing import Handing
from joulefleet.window import Window
from joulefleet_collector.account.accounting import Accounting
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.rows import Row
from joulefleet_collector.store.pending import AT_ONCE
from joulefleet_collector.store.retention import Keep
from joulefleet_collector.store.store import DAY_NS, Accounted, Question, StoreUnavailable

AWindow = Callable[..., Window]
Put = Callable[..., int]
EVER = {"since_ns": 0, "until_ns": 40_000 * DAY_NS}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Handing]:
    with closing(Handing(tmp_path)) as opened:
        yield opened


def joules(store: Handing) -> list[dict[str, float]]:
    asked = Question(kind="usage", fields=("active_j",), **EVER)  # type: ignore[arg-type]  # both are numbers
    return [total.fields for total in store.ask(asked)]


def test_what_the_writer_kept_is_read_at_once_by_every_worker(store: Handing, put: Put, a_window: AWindow) -> None:
    assert put(store, a_window("a"), a_window("b")) == 2
    assert put(store, a_window("b"), a_window("c")) == 1
    assert [one.server for one in store.windows(None, **EVER)] == ["a", "b", "c"]
    assert list(store.windows(None, **EVER)) == list(store.writer_store.windows(None, **EVER))
    assert store.epoch == store.writer_store.epoch == "epoch-1"


def test_rows_that_wait_are_brought_in_by_the_writer_before_a_worker_answers(
    store: Handing, put: Put, a_window: AWindow
) -> None:
    windows = [a_window(f"s{number}", joules=1.0) for number in range(2 * AT_ONCE)]
    put(store, *windows)
    assert store.writer_store._writer.execute("SELECT count(*) FROM pending").fetchone()[0]
    assert joules(store) == [{"active_j": float(len(windows))}]
    assert not store.writer_store._writer.execute("SELECT count(*) FROM pending").fetchone()[0]


def test_a_fault_of_the_writer_is_one_here_and_the_next_group_is_kept(
    store: Handing, put: Put, a_window: AWindow, caplog: pytest.LogCaptureFixture
) -> None:
    window = a_window()
    odd = Accounted(window, window.encode(), [Row("usage", window.start_ns, {}, {"no_such_field": 1.0})])
    with pytest.raises(ValueError, match="ValueError: no_such_field"):
        store.write([odd], 1)
    assert "no_such_field" in caplog.text
    assert put(store, window) == 1


def test_a_store_that_cannot_be_written_is_told_as_the_writer_told_it(
    store: Handing, put: Put, a_window: AWindow
) -> None:
    pages = store.writer_store._writer.execute("PRAGMA page_count").fetchone()[0]
    store.writer_store._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable, match="no space is left"):
        put(store, *(a_window(f"s{number}") for number in range(300)))
    assert list(store.windows(None, **EVER)) == []


def test_without_a_writer_nothing_is_said_to_be_kept(store: Handing, put: Put, a_window: AWindow) -> None:
    put(store, a_window("a"))
    store.lose_the_writer()
    for act in (lambda: put(store, a_window("b")), store.check, store.settle):
        with pytest.raises(StoreUnavailable, match="the process that writes it is gone"):
            act()
    assert [one.server for one in store.windows(None, **EVER)] == ["a"]


def test_a_worker_writes_nothing_itself(store: Handing, put: Put, a_window: AWindow, start_ns: int) -> None:
    put(store, a_window())
    with pytest.raises(StoreUnavailable):
        store.prune(Keep(), start_ns + 400 * DAY_NS)
    with pytest.raises(StoreUnavailable):
        store.recount(Accounting(Policy()), lambda done, total: None)
    assert joules(store) == [{"active_j": 600.0}]
