"""A fleet's windows in the order of time, and the fast way around what goes wrong."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.simulated_fleet import make_fleet
from joulefleet.units import NS_PER_S
from joulefleet.window import Window
from joulefleet_agent.simulate.roster import SimServer
from joulefleet_agent.simulate.stream import Stretch, groups, stretches, windows_of

FleetOf = Callable[..., list[SimServer]]
BEGIN_S = 1_767_225_600
ENGINE = "vllm@127.0.0.1:8000"
TROUBLE: dict[str, Any] = {
    "servers": 2,
    "faults": [
        {"kind": "stuck", "server": "sim-0001", "subject": "board-3", "at_h": 0.4, "for_h": 0.2},
        {"kind": "reset", "server": "sim-0001", "subject": "psu", "at_h": 1.2},
        {"kind": "hung", "server": "sim-0001", "subject": ENGINE, "at_h": 1.5, "for_h": 0.1},
    ],
    "outages": [{"server": "sim-0002", "at_h": 0.3, "for_h": 1.2}],
}


def sums(windows: list[Window]) -> dict[str, int]:
    """Every meter's energy and the requests, late ones included."""
    total: dict[str, int] = {}
    for window in windows:
        for meter in window.meters:
            total[meter.meter.id] = total.get(meter.meter.id, 0) + meter.energy_uj + meter.late_uj
        for work in (work for engine in window.engines for work in engine.work):
            done = (work.counts.requests_ok or 0) + (work.late.requests_ok or 0)
            total[work.key.tenant] = total.get(work.key.tenant, 0) + done
    return total


@pytest.mark.parametrize("step_s", [60, 300])
def test_the_fast_way_tells_of_trouble_as_the_cutter_does(fleet: FleetOf, step_s: int) -> None:
    for server in fleet(**TROUBLE, step_s=step_s):
        quick, slow = list(windows_of(server, fast=True)), list(windows_of(server, fast=False))
        assert [window.start_ns for window in quick] == [window.start_ns for window in slow]
        assert sums(quick) == sums(slow)
        assert [one.covered_ns for window in quick for one in window.meters] == [
            one.covered_ns for window in slow for one in window.meters
        ]


@pytest.mark.parametrize("fast", [True, False])
def test_running_totals_go_on_from_window_to_window(fleet: FleetOf, fast: bool) -> None:
    for server in fleet(**TROUBLE):
        for before, after in pairwise(windows_of(server, fast)):
            assert [one.last_uj for one in before.meters] == [one.first_uj for one in after.meters]


def test_only_the_time_around_trouble_is_cut(fleet: FleetOf) -> None:
    first, second = fleet(**TROUBLE)
    seconds = [
        [
            ((s.from_ns // NS_PER_S - BEGIN_S) // 60, (s.until_ns // NS_PER_S - BEGIN_S) // 60, s.disturbed)
            for s in several
        ]
        for several in (stretches(first), stretches(second))
    ]
    assert seconds[0] == [
        (0, 23, False),
        (23, 38, True),
        (38, 71, False),
        (71, 75, True),
        (75, 89, False),
        (89, 98, True),
        (98, 120, False),
    ]
    assert seconds[1] == [(0, 17, False), (17, 92, True), (92, 120, False)]


def test_a_quiet_server_is_one_stretch(fleet: FleetOf) -> None:
    (server,) = fleet(servers=1)
    assert list(stretches(server)) == [Stretch(server.scenario.begin_ns, server.scenario.end_ns, disturbed=False)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 119), st.integers(1, 60)), max_size=4), st.sampled_from([60, 600, 3600]))
def test_stretches_are_the_whole_time_once(outages: list[tuple[int, int]], step_s: int) -> None:
    table = [{"server": "sim-0001", "at_h": at / 60, "for_h": length / 60} for at, length in outages]
    (server,) = make_fleet(servers=1, outages=table, step_s=step_s)
    found = list(stretches(server))
    assert found[0].from_ns == server.scenario.begin_ns
    assert found[-1].until_ns == server.scenario.end_ns
    assert all(one.until_ns == other.from_ns and one.disturbed != other.disturbed for one, other in pairwise(found))
    assert all((one.until_ns - one.from_ns) % (step_s * NS_PER_S) == 0 < one.until_ns - one.from_ns for one in found)


@pytest.mark.parametrize("size", [1, 7])
def test_groups_come_in_the_order_of_time_and_none_is_lost(fleet: FleetOf, size: int) -> None:
    servers = fleet(**TROUBLE)
    made = list(groups(servers, True, size))
    assert [group[0].start_ns for group in made] == sorted(group[0].start_ns for group in made)
    assert all(len({window.server for window in group}) == 1 and len(group) <= size for group in made)
    keys = sorted(window.key for group in made for window in group)
    assert keys == sorted(window.key for server in servers for window in windows_of(server, True))
    assert len(set(keys)) == len(keys)


def test_windows_are_made_when_they_are_asked_for(fleet: FleetOf) -> None:
    made = groups(fleet(servers=2, days=365), True, 1)
    assert [next(made)[0].server for _ in range(4)] == ["sim-0001", "sim-0002"] * 2
