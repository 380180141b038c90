"""Trouble to order: as much as is asked for, in the same place for the same seed, and inside the time."""

from collections.abc import Callable

from joulefleet_agent.simulate.roster import SimServer, roster
from joulefleet_agent.simulate.scenario import Scenario, check
from joulefleet_agent.simulate.trouble import Ordered, with_trouble

FleetOf = Callable[..., list[SimServer]]


def ordered(fleet: FleetOf, seed: int = 1, **asked: float) -> Scenario:
    servers = fleet(servers=12, days=1, seed=seed)
    scenario = with_trouble(servers[0].scenario, servers, Ordered(**asked))  # type: ignore[arg-type] # floats are asked
    check(scenario, "test")
    roster(scenario)
    return scenario


def test_nothing_asked_for_is_nothing(fleet: FleetOf) -> None:
    assert ordered(fleet) == fleet(servers=12, days=1)[0].scenario


def test_a_release_and_a_regression_begin_in_the_middle_on_different_servers(fleet: FleetOf) -> None:
    scenario = ordered(fleet, release_pct=8, regression_pct=5)
    release, regression = scenario.changes
    assert (release.kind, release.at_h, release.energy_pct, release.version) == ("release", 12, 8, "0.10.0")
    assert (regression.kind, regression.energy_pct, regression.version) == ("regression", 5, "")
    meant = [[one.name for one in roster(scenario) if change in one.changes] for change in scenario.changes]
    assert all(meant)
    assert not set(meant[0]) & set(meant[1])


def test_as_many_as_are_asked_for_on_servers_of_their_own(fleet: FleetOf) -> None:
    scenario = ordered(fleet, stragglers=2, faults=5, outages=3)
    assert {change.kind for change in scenario.changes} == {"straggler"}
    assert [
        len({one.server for one in several}) for several in (scenario.changes, scenario.faults, scenario.outages)
    ] == [
        2,
        5,
        3,
    ]
    assert {fault.kind for fault in scenario.faults} == {"stuck", "reset", "gap", "hung"}
    for one in (*scenario.faults, *scenario.outages):
        assert one.at_h >= 0
        assert one.at_h + one.for_h < 24


def test_the_seed_decides_where(fleet: FleetOf) -> None:
    assert ordered(fleet, faults=5, outages=3) == ordered(fleet, faults=5, outages=3)
    one, other = ordered(fleet, outages=3), ordered(fleet, seed=2, outages=3)
    assert [outage.at_h for outage in one.outages] != [outage.at_h for outage in other.outages]
