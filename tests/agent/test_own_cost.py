"""What the agent itself costs."""

import os
from pathlib import Path

from joulefleet.window import AgentCost
from joulefleet_agent.offset import NOT_COMPARED, Offset
from joulefleet_agent.own_cost import OwnCost, resident_bytes

S = 1_000_000_000


def test_it_is_measured_from_one_asking_to_the_next() -> None:
    used = iter([10 * S, 12 * S, 12 * S])
    cost = OwnCost(lambda: next(used), lambda: 7)
    assert cost.since_last(3, 4) == AgentCost(
        cpu_ns=2 * S, rss_bytes=7, energy_uj=7_000_000, spool_windows=3, spool_bytes=4
    )
    assert cost.since_last(0, 0) == AgentCost(rss_bytes=7)


def test_how_the_clock_stands_is_told_where_it_is_known() -> None:
    found = iter([Offset(-5, 3), NOT_COMPARED])
    cost = OwnCost(lambda: 0, lambda: 7, lambda: next(found))
    assert cost.since_last(0, 0) == AgentCost(rss_bytes=7, clock_ahead_ns=-5, clock_error_ns=3)
    assert cost.since_last(0, 0) == AgentCost(rss_bytes=7)


def test_memory_is_told_in_pages(tmp_path: Path) -> None:
    statm = tmp_path / "statm"
    statm.write_text("5000 1200 300 1 0 900 0\n")
    assert resident_bytes(statm) == 1_200 * os.sysconf("SC_PAGE_SIZE")


def test_this_process_has_cost_something() -> None:
    cost = OwnCost()
    assert sum(k * k for k in range(200_000)) > 0
    told = cost.since_last(0, 0)
    assert told.cpu_ns > 0
    assert told.energy_uj == told.cpu_ns * 3_500 // 1_000_000
    assert 1_000_000 < told.rss_bytes < 100_000_000_000
