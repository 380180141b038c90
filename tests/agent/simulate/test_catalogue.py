"""The fleet that is there to begin with."""

from collections.abc import Callable

from joulefleet_agent.simulate.catalogue import DEPLOYMENTS, HARDWARE, MODELS
from joulefleet_agent.simulate.roster import SimServer
from joulefleet_agent.simulate.scenario import Scenario, check


def test_the_fleet_to_begin_with_can_be_simulated() -> None:
    check(Scenario(), "catalogue")
    assert {one.hardware for one in DEPLOYMENTS} == {one.name for one in HARDWARE}
    assert {one.model for one in DEPLOYMENTS} == {one.name for one in MODELS}


def test_it_is_mixed(fleet: Callable[..., list[SimServer]]) -> None:
    servers = fleet(servers=12)
    assert len({server.hardware.name for server in servers}) == 4
    assert {server.hardware.server_meter for server in servers} == {"counter", "integrated", "none"}
    assert len({server.model.name for server in servers}) == 3
