"""The fleet as its store tells it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from joulefleet.units import NS_PER_S
from joulefleet.window import AgentCost, Window
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.fleet import Fleet
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import Accounted

AWindow = Callable[..., Window]
MINUTE_NS = 60 * NS_PER_S


class Here:
    """A fleet, its store, and a clock that a test sets."""

    def __init__(self, store: EmbeddedStore, now_ns: int) -> None:
        self.store = store
        self.now_ns = now_ns
        self.fleet = Fleet(store, lambda: self.now_ns)

    def take(self, *windows: Window) -> None:
        self.store.write([Accounted(one, one.encode(), account(one, Policy())) for one in windows], 1)

    def status(self, *expected: str) -> dict[str, str]:
        return {one.server: one.status for one in self.fleet.listing(expected).agents}


@pytest.fixture
def here(tmp_path: Path, start_ns: int) -> Iterator[Here]:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as store:
        yield Here(store, start_ns + 2 * MINUTE_NS)


def test_a_server_is_retired_until_its_next_window(here: Here, a_window: AWindow) -> None:
    here.take(a_window("a", -30), a_window("b"))
    assert here.status("z") == {"a": "silent", "b": "ok", "z": "never"}
    assert here.fleet.retire(["a", "z"]) == ["'z' has never reported: is that its name?"]
    assert here.status("z") == {"a": "retired", "b": "ok", "z": "retired"}
    here.take(a_window("a", -40))
    assert here.status()["a"] == "retired"
    here.take(a_window("a", 0))
    assert here.status()["a"] == "ok"


def test_one_that_still_reports_is_retired_with_a_word_of_warning(here: Here, a_window: AWindow) -> None:
    here.take(a_window("a"))
    assert here.fleet.retire(["a"]) == ["'a' reported 60 s ago: stop its agent, or its next window brings it back"]
    assert here.status() == {"a": "retired"}


def test_a_server_whose_clock_is_far_ahead_can_be_retired_and_comes_back(here: Here, a_window: AWindow) -> None:
    here.take(a_window("a", 90))
    here.fleet.retire(["a"])
    assert here.status() == {"a": "retired"}
    here.take(a_window("a", 91))
    assert here.status() == {"a": "ok"}


def test_a_retirement_is_undone(here: Here, a_window: AWindow) -> None:
    here.take(a_window("a", -30))
    here.fleet.retire(["a"])
    assert here.fleet.take_back(["a", "b"]) == ["'b' was not retired"]
    assert here.status() == {"a": "silent"}


def test_clocks_are_warned_of_unless_their_server_is_retired(here: Here, a_window: AWindow) -> None:
    off = AgentCost(clock_ahead_ns=-30 * NS_PER_S, clock_error_ns=5)
    here.take(a_window("a", agent=off), a_window("b", agent=off), a_window("c"))
    assert [one["server"] for one in here.fleet.listing().warnings] == ["a", "b"]
    here.fleet.retire(["a"])
    assert [one["server"] for one in here.fleet.listing().warnings] == ["b"]


def test_a_summary_of_nobody_tells_nothing(here: Here) -> None:
    summary = here.fleet.summary()
    assert set(summary.by_status.values()) == {0}
    assert (summary.spool_windows, summary.newest_end_ns) == (None, None)


def test_a_summary_leaves_out_what_waits_with_retired_servers(here: Here, a_window: AWindow, start_ns: int) -> None:
    def waiting(number: int) -> AgentCost:
        return AgentCost(rss_bytes=1, spool_windows=number)

    here.take(a_window("a", agent=waiting(3)), a_window("b", -30, agent=waiting(5)), a_window("c"))
    here.take(a_window("d", -30, agent=waiting(100)))
    here.fleet.retire(["d", "e"])
    summary = here.fleet.summary()
    assert summary.by_status == {"ok": 2, "silent": 1, "loses": 0, "retired": 2}
    assert (summary.spool_windows, summary.newest_end_ns) == (8, start_ns + MINUTE_NS)
