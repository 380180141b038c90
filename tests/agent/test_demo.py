"""The simulated fleet of the demonstration: its servers, its past at once, and its present."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fixtures.processes import running
from joulefleet.grid import HOUR_NS
from joulefleet.units import NS_PER_S
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.demo import PAST_NS, STEP_NS, DemoServer, Feed, fleet
from joulefleet_agent.service import only_one
from joulefleet_agent.sources import opener_of
from joulefleet_agent.spool import Spool

NOW_S = 1_790_000_000


def test_two_servers_of_each_model_on_each_hardware_one_of_every_pair_first() -> None:
    servers = list(fleet(NOW_S))
    assert len({server.name for server in servers}) == 8
    pairs = [(server.table["hardware"], server.table["model"]) for server in servers]
    assert len(set(pairs[:4])) == 4
    assert pairs[4:] == pairs[:4]


def test_one_pair_had_a_release_a_few_hours_ago() -> None:
    released = [server for server in fleet(NOW_S) if "release_at_s" in server.table]
    assert {(one.table["hardware"], one.table["model"]) for one in released} == {("SIM-A", "sim-70b")}
    assert all(NOW_S - 6 * 3_600 < one.table["release_at_s"] < NOW_S - 3_600 for one in released)


def test_every_server_can_be_simulated() -> None:
    for server in fleet(NOW_S):
        assert all(one.simulated for one in opener_of("simulated", "test")(server.table).declares)


@pytest.fixture
def server() -> DemoServer:
    """A small one of the fleet."""
    return next(one for one in fleet(wall_ns() // NS_PER_S) if one.table["boards"] == 4)


def test_the_past_comes_at_once_and_the_present_goes_on_where_it_ends(
    tmp_path: Path, collector: Any, server: DemoServer
) -> None:
    with Spool(tmp_path / "spool.db") as spool:
        feed = Feed(server, collector.url, spool)
        feed.catch_up()
        windows = list(collector.taken)
        assert PAST_NS // STEP_NS - 1 <= len(windows) <= PAST_NS // STEP_NS + 1
        assert all(after.start_ns == before.end_ns for before, after in pairwise(windows))
        assert all(one.covered_ns == STEP_NS for window in windows for one in window.meters)
        assert all(window.simulated for window in windows)
        feed.catch_up()
        feed.go_on()
        assert collector.taken[: len(windows)] == windows
        assert all(after.start_ns == before.end_ns for before, after in pairwise(collector.taken))
    assert all(collector.backfills)


def test_started_again_it_goes_on_where_it_was(tmp_path: Path, collector: Any, server: DemoServer) -> None:
    for _ in range(2):
        with Spool(tmp_path / "spool.db") as spool:
            Feed(server, collector.url, spool).catch_up()
    assert len({window.key for window in collector.taken}) == len(collector.taken)
    assert collector.taken[-1].start_ns - collector.taken[0].start_ns < PAST_NS + HOUR_NS


def test_a_second_one_on_its_folder_is_told(tmp_path: Path) -> None:
    options = ("--collector", "http://127.0.0.1:9", "--data-dir", str(tmp_path))
    with only_one(tmp_path / "demo"), running(tmp_path / "second", "agent", "demo", *options) as second:
        assert second.wait() == 2
    assert second.err == f"Error: spool {tmp_path}/demo: another agent is running on it; end that one first\n"
