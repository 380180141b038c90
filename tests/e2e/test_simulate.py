"""A simulated fleet through a real collector: its report is the truth."""

import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.collectors import Collector, run

FLEET = ("--servers", "8", "--days", "0.1", "--step", "300", "--seed", "5")
WORK = ("requests_ok", "prompt_tokens", "output_tokens")
Truth = dict[str, Any]


def simulated(collector: Collector, tmp_path: Path, *options: str) -> Truth:
    """Send the fleet to the collector; what really happened."""
    truth = tmp_path / "truth.json"
    told = run("simulate", *FLEET, *options, "--collector", collector.url, "--truth", str(truth), "--json")
    assert json.loads(told.stdout)["windows"] > 0
    return dict(json.loads(truth.read_bytes()))


def metered_j(server: Truth) -> dict[tuple[str, str], float]:
    return {(server["server"], boundary): energy_uj / 1e6 for boundary, energy_uj in server["energy_uj"].items()}


@pytest.mark.parametrize("way", [(), ("--fast", "--batch", "8")])
def test_the_report_is_the_truth(collector: Collector, tmp_path: Path, way: tuple[str, ...]) -> None:
    truth = simulated(collector, tmp_path, *way, "--release", "8", "--regression", "5", "--stragglers", "1")
    answer = collector.report("--by", "server")
    expected = {key: energy for server in truth["servers"] for key, energy in metered_j(server).items()}
    assert {(row["server"], row["boundary"]): row["metered_j"] for row in answer["ledger"]} == pytest.approx(
        expected, rel=1e-3
    )
    assert {row["residual_uj"] for row in answer["ledger"]} == {0}
    work = {server["server"]: [server[name] for name in WORK] for server in truth["servers"]}
    for row in answer["rows"]:
        assert row["simulated"]
        assert row["status"] == "ok"
        assert [row[name] for name in WORK] == work[row["server"]]
        assert row["energy_j"] == pytest.approx(expected[row["server"], row["boundary"]], rel=1e-3)


def test_models_and_hardware_cost_what_they_are_made_to_cost(collector: Collector, tmp_path: Path) -> None:
    truth = simulated(collector, tmp_path, "--fast")
    rows = {(r["boundary"], r["model"], r["hardware"]): r for r in collector.report("--by", "model,hardware")["rows"]}
    assert len(rows) == len(truth["totals"])
    for group in truth["totals"]:
        row = rows[group["boundary"], group["model"], group["hardware"]]
        assert row["joules_per_output_token"] == pytest.approx(group["energy_j"] / group["output_tokens"], rel=1e-3)
        assert row["idle_j"] == pytest.approx(group["idle_j"], rel=1e-3)


def test_what_an_outage_hid_is_late_and_all_of_it_is_there(collector: Collector, tmp_path: Path) -> None:
    truth = simulated(collector, tmp_path, "--fast", "--outages", "3")
    assert [one["kind"] for one in truth["injected"]] == ["outage"] * 3
    told = {(one["server"], one["boundary"]): one for one in collector.report("--by", "server")["ledger"]}
    for server in truth["servers"]:
        for key, energy_j in metered_j(server).items():
            exact = server["hardware"] != "SIM-B4" or key[1] != "server"
            assert told[key]["metered_j"] + told[key]["late_j"] == pytest.approx(energy_j, rel=1e-9 if exact else 0.2)


def test_a_file_may_be_replayed_and_replayed_again(collector: Collector, tmp_path: Path) -> None:
    file, truth = tmp_path / "fleet.jsonl", tmp_path / "truth.json"
    run("simulate", *FLEET, "--fast", "--sensor-faults", "2", "--out", str(file), "--truth", str(truth))
    lines = len(file.read_bytes().splitlines())
    for spool in ("one.db", "two.db"):
        place = str(tmp_path / spool)
        told = run("replay", "windows", str(file), "--collector", collector.url, "--spool", place, "--json")
        assert json.loads(told.stdout)["windows"] == lines
    servers = {server["server"]: server for server in json.loads(truth.read_bytes())["servers"]}
    for row in collector.ask(by="server")["ledger"]:
        energy_j = metered_j(servers[row["server"]])[row["server"], row["boundary"]]
        # A board that is stuck for a tenth of the time hides less than that of its server.
        assert 0.9 * energy_j < row["metered_j"] + row["late_j"] <= energy_j * 1.001
