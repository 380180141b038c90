"""The servers of a scenario: how many run what, and whom each change means."""

from collections.abc import Callable

import pytest

from joulefleet.config import ConfigError
from joulefleet.reading import WorkKey
from joulefleet.units import NS_PER_S
from joulefleet_agent.simulate.roster import SimServer

FleetOf = Callable[..., list[SimServer]]
BEGIN_NS = 1_767_225_600 * NS_PER_S
HOUR_NS = 3_600 * NS_PER_S


def test_servers_are_shared_out_by_weight_and_none_is_lost(fleet: FleetOf) -> None:
    for number in (1, 5, 12, 100):
        servers = fleet(servers=number, name="x")
        assert [server.name for server in servers] == [f"x-{k:04d}" for k in range(1, number + 1)]
    assert sum(server.model.name == "sim-70b" for server in servers) == pytest.approx(100 * 5 / 12, abs=1)


def test_tenants_share_the_work(fleet: FleetOf) -> None:
    assert fleet(servers=1)[0].keys == {
        WorkKey("sim-70b", "fp8", "red"): 500_000,
        WorkKey("sim-70b", "fp8", "blue"): 300_000,
        WorkKey("sim-70b", "fp8", "green"): 200_000,
    }
    assert list(fleet(servers=12)[-1].keys.values()) == [1_000_000]


def test_a_change_means_whom_it_names(fleet: FleetOf) -> None:
    for key, value in (("server", "sim-0002"), ("pool", "chat"), ("site", "west"), ("model", "sim-8b")):
        servers = fleet(servers=12, changes=[{"at_h": 1, "energy_pct": 5, key: value}])
        meant = [server for server in servers if server.changes]
        assert 0 < len(meant) < 12
        assert {
            getattr(one.identity if key in ("server", "pool", "site") else one.engine, key, value) for one in meant
        } == {value}
    assert len([one for one in fleet(servers=12, changes=[{"at_h": 1}]) if one.changes]) == 12


def test_a_change_may_mean_a_part_drawn_by_chance(fleet: FleetOf) -> None:
    servers = fleet(servers=400, changes=[{"at_h": 1, "share": 0.25}])
    assert 60 < sum(bool(server.changes) for server in servers) < 140


def test_a_release_counts_from_just_after_its_instant(fleet: FleetOf) -> None:
    changes = [{"kind": "release", "at_h": 1, "until_h": 1.5, "version": "2"}, {"at_h": 0, "energy_pct": 1}]
    (server,) = fleet(servers=1, changes=changes)
    told = [server.version_before(BEGIN_NS + at_ns) for at_ns in (0, HOUR_NS, HOUR_NS + 1, HOUR_NS * 3 // 2)]
    assert told == ["0.9.0", "0.9.0", "2", "2"]
    assert server.version_before(BEGIN_NS + HOUR_NS * 3 // 2 + 1) == "0.9.0"


def test_timelines_follow_from_everything(fleet: FleetOf) -> None:
    servers = fleet(servers=2)
    again = fleet(servers=2)
    assert [one.timeline("cut") for one in servers] == [one.timeline("cut") for one in again]
    others = [servers[1].timeline("cut"), servers[0].timeline("fast"), fleet(servers=2, seed=2)[0].timeline("cut")]
    assert len({servers[0].timeline("cut"), *others}) == 4
    assert 0 <= servers[0].timeline("cut") < 2**32


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"faults": [{"kind": "gap", "server": "no", "subject": "psu", "at_h": 0}]}, r"faults\[0\].server: 'no'"),
        (
            {"outages": [{"server": "sim-0003", "at_h": 0}]},
            r"outages\[0\].server: 'sim-0003' is none; the last is sim-0002",
        ),
        (
            {"faults": [{"kind": "gap", "server": "sim-0001", "subject": "board-8", "at_h": 0}]},
            "'board-8' is not among board-0, ",
        ),
        ({"changes": [{"at_h": 0, "pool": "no"}]}, r"changes\[0\]: no server is meant"),
    ],
)
def test_names_of_what_is_not_there_are_refused(fleet: FleetOf, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fleet(servers=2, **changes)


def test_what_tells_power_only_has_no_counter_to_be_stuck(fleet: FleetOf) -> None:
    fault = {"server": "sim-0006", "subject": "psu", "at_h": 0}
    assert fleet(servers=8)[5].hardware.server_meter == "integrated"
    with pytest.raises(ConfigError, match="'psu' tells power only"):
        fleet(servers=8, faults=[{**fault, "kind": "stuck"}])
    assert fleet(servers=8, faults=[{**fault, "kind": "hung"}])
