"""The truth: what windows add up to, by boundary and hour, and what was injected."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from joulefleet_agent.simulate.roster import SimServer
from joulefleet_agent.simulate.stream import windows_of
from joulefleet_agent.simulate.truth import injected, truth_of, write_truth

FleetOf = Callable[..., list[SimServer]]
BEGIN_S = 1_767_225_600
WORK = ("requests_ok", "prompt_tokens", "output_tokens")


@pytest.mark.parametrize("fast", [True, False])
def test_it_is_the_sum_over_windows(fleet: FleetOf, fast: bool) -> None:
    for server in fleet(servers=4, step_s=300):
        truth = truth_of(server)
        windows = list(windows_of(server, fast))
        for device in server.chassis.metered:
            meter = device.meter
            told = sum(one.energy_uj for window in windows for one in window.meters if one.meter.id == meter.id)
            # An integral of power through the cutter is as good as its readings; everything else is exact.
            exact = fast or meter.grade == "counter"
            assert told == pytest.approx(truth.meters_uj[meter.id], rel=0 if exact else 1e-3, abs=0)
        for tenant, counts in truth.tenants.items():
            works = [w for one in windows for engine in one.engines for w in engine.work if w.key.tenant == tenant]
            assert {name: sum(getattr(work.counts, name) for work in works) for name in WORK} == counts


def test_boundaries_are_sums_of_meters(fleet: FleetOf) -> None:
    server = next(one for one in fleet() if one.hardware.name == "SIM-A8")
    truth = truth_of(server)
    meters = truth.meters_uj
    boards = sum(meters[f"board-{k}"] for k in range(8))
    parts = sum(meters[name] for name in ("package-0", "package-1", "dram-0", "dram-1"))
    assert truth.energy_uj == {"accelerator": boards, "compute": boards + parts, "server": meters["psu"]}
    assert boards < boards + parts < meters["psu"]
    assert all(0 < truth.idle_uj[name] < truth.energy_uj[name] for name in truth.energy_uj)
    idle_w = 2 * 90 + 2 * 15
    assert truth.idle_uj["compute"] - truth.idle_uj["accelerator"] == idle_w * 7_200 * 10**6


def test_hours_add_up_to_the_whole_and_the_last_may_be_short(fleet: FleetOf) -> None:
    (server,) = fleet(servers=1, days=2.5 / 24)
    truth = truth_of(server)
    assert truth.hourly.start_s == [BEGIN_S, BEGIN_S + 3_600, BEGIN_S + 7_200]
    assert {name: sum(hours) for name, hours in truth.hourly.energy_uj.items()} == truth.energy_uj
    for name in WORK:
        assert sum(getattr(truth.hourly, name)) == getattr(truth, name)
    assert truth.hourly.energy_uj["server"][2] < truth.hourly.energy_uj["server"][1] * 0.6


def test_what_was_injected_is_told_with_what_it_is_about(fleet: FleetOf) -> None:
    trouble: dict[str, Any] = {
        "changes": [{"kind": "release", "at_h": 1, "energy_pct": 8, "version": "2", "pool": "chat"}],
        "faults": [
            {"kind": "hung", "server": "sim-0001", "subject": "board-0", "at_h": 0.5, "for_h": 0.5},
            {"kind": "gap", "server": "sim-0002", "subject": "vllm@127.0.0.1:8000", "at_h": 0, "for_h": 2},
        ],
        "outages": [{"server": "sim-0001", "at_h": 0, "for_h": 2}],
    }
    servers = fleet(servers=8, **trouble)
    release, outage, hung, gap = injected(servers, servers[0].scenario)
    chat = [server.name for server in servers if server.deployment.pool == "chat"]
    assert release == {
        "kind": "release",
        "from_s": BEGIN_S + 3_600,
        "until_s": BEGIN_S + 7_200,
        "energy_pct": 8.0,
        "version": "2",
        "servers": chat,
    }
    first, second = truth_of(servers[0]), truth_of(servers[1])
    assert (outage["server"], outage["until_s"], outage["energy_uj"]) == ("sim-0001", BEGIN_S + 7_200, first.energy_uj)
    assert (hung["from_s"], hung["until_s"]) == (BEGIN_S + 1_800, BEGIN_S + 3_600)
    assert hung["energy_uj"] == pytest.approx(first.meters_uj["board-0"] / 4, rel=0.2)
    assert {name: gap[name] for name in WORK} == {name: getattr(second, name) for name in WORK}


def test_the_file_is_one_json_object_with_totals(fleet: FleetOf) -> None:
    servers = fleet(servers=8)
    file = io.BytesIO()
    write_truth(file, servers, servers[0].scenario)
    told = json.loads(file.getvalue())
    assert (told["begin_s"], told["end_s"], told["scenario"]["seed"]) == (BEGIN_S, BEGIN_S + 7_200, 1)
    assert [one["server"] for one in told["servers"]] == [server.name for server in servers]
    truths = [truth_of(server) for server in servers]
    for group in told["totals"]:
        members = [t for t in truths if (t.model, t.hardware) == (group["model"], group["hardware"])]
        assert group["servers"] == len(members)
        assert group["energy_j"] == pytest.approx(sum(t.energy_uj[group["boundary"]] for t in members) / 1e6, rel=1e-12)
        assert group["output_tokens"] == sum(t.output_tokens for t in members)
    assert len(told["totals"]) == len({(b, t.model, t.hardware) for t in truths for b in t.energy_uj})
