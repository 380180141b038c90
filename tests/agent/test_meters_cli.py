"""`joulefleet meters`: the tree that a person sees is the one by which joules are added up."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fixtures.powercap import Tree as Powercap
from joulefleet.describe import Kind, Meter
from joulefleet.topology import topology
from joulefleet_agent.meters_cli import declared, lines, meters, placed, plain
from joulefleet_agent.probe import Finding

STEP_NS = 60_000_000_000


def meter(name: str, kind: Kind, **more: Any) -> Meter:
    return Meter(**{"id": name, "kind": kind, "grade": "counter", "sensor_class": "onboard", **more})


BMC = meter("bmc", "server", sensor_class="platform", grade="integrated", max_power_mw=2_000_000)
PSYS = meter("psys", "psys", contains=("cpu_package", "dram", "cpu_core"))
PACKAGE, CORE = meter("package-0", "cpu_package"), meter("package-0/core", "cpu_core", inside="package-0")
BOARD = meter("GPU-1", "accelerator", device="GPU-1", hw_model="H200")
DCGM = meter("dcgm-0", "accelerator", device="GPU-1", grade="integrated")
RACK = meter("rack", "enclosure")
FINDINGS = [
    Finding(source="nvml", state="readable", meters=(BOARD,)),
    Finding(source="rapl", state="readable", meters=(PACKAGE, CORE, PSYS)),
    Finding(source="redfish", state="http_503", meters=(BMC,)),
    Finding(source="dcgm", state="readable", meters=(DCGM, BOARD)),
    Finding(source="pdu", state="readable", meters=(RACK,)),
]


def told(findings: list[Finding]) -> list[str]:
    found = declared(findings)
    return lines(placed(found, STEP_NS), topology([one for _, _, one in found], STEP_NS), STEP_NS)


def test_the_tree_and_the_cover_of_each_boundary() -> None:
    assert told(FINDINGS) == [
        "server bmc: grade integrated, class platform, up to 2000 W, gives no value now: http_503, from redfish",
        "  accelerator GPU-1 (H200): grade counter, class onboard, from nvml",
        "  accelerator dcgm-0: grade integrated, class onboard, the same thing as GPU-1, from dcgm",
        "  psys psys: grade counter, class onboard, from rapl",
        "    cpu_package package-0: grade counter, class onboard, from rapl",
        "      cpu_core package-0/core: grade counter, class onboard, from rapl",
        "enclosure rack: grade counter, class onboard, from pdu",
        "",
        "What each boundary is the sum of, in windows of 60 s:",
        "  accelerator: GPU-1",
        "    without dcgm-0: second_source_of GPU-1",
        "  compute: GPU-1 + package-0",
        "    without package-0/core: part_of package-0",
        "    without psys: holds package-0",
        "    without dcgm-0: second_source_of GPU-1",
        "  server: bmc",
        "    without GPU-1: part_of bmc",
        "    without package-0: part_of bmc",
        "    without package-0/core: part_of bmc",
        "    without psys: part_of bmc",
        "    without dcgm-0: part_of bmc",
        "  at none: rack: at_no_boundary",
    ]


def test_every_meter_is_shown_once_however_odd_what_is_declared() -> None:
    odd = [meter("a", "accelerator", inside="b"), meter("b", "accelerator", inside="a"), meter("c", "dram", inside="c")]
    for chosen in (odd, [*odd, BMC], [meter("x", "dram", inside="nowhere")]):
        tree = placed([("s", "readable", one) for one in chosen], STEP_NS)
        assert sorted(one.meter.id for one in tree) == sorted(one.id for one in chosen)


def test_a_boundary_that_no_meter_tells_says_so() -> None:
    assert "  compute: not told by these meters" in told([FINDINGS[0]])
    assert told([]) == ["No source here declares a meter: `joulefleet doctor` says what is missing."]


def test_as_json_it_says_the_same() -> None:
    found = declared(FINDINGS)
    made = plain(placed(found, STEP_NS), topology([one for _, _, one in found], STEP_NS))
    assert [one["meters"] for one in made["boundaries"]] == [["GPU-1"], ["GPU-1", "package-0"], ["bmc"]]
    assert {one.meter.id: one.inside for one in made["meters"]}["package-0"] == "psys"
    assert ("server", "psys", "part_of") in {(one.boundary, one.meter, one.code) for one in made["left_out"]}


def test_the_command_shows_the_sources_of_a_config(tmp_path: Path) -> None:
    tree = Powercap(tmp_path)
    tree.add_two_sockets()
    config = tmp_path / "agent.toml"
    config.write_text(f'[[sources]]\nuse = "rapl"\nroot = "{tree.root}"\nboot_id = "{tree.boot_id}"\n')
    result = CliRunner().invoke(meters, ["--config", str(config)])
    assert result.exit_code == 0, result.output
    assert "  compute: package-0 + package-0/dram + package-1 + package-1/dram" in result.output
    told_ = json.loads(CliRunner().invoke(meters, ["--config", str(config), "--json"]).stdout)
    assert {one["meter"]["id"]: one.get("inside", "") for one in told_["meters"]}["package-1"] == "psys"


@pytest.mark.parametrize("source", ['use = "nvlm"', 'use = "rapl"\nrot = "x"'])
def test_a_typo_is_one_sentence(tmp_path: Path, source: str) -> None:
    (tmp_path / "agent.toml").write_text(f"[[sources]]\n{source}\n")
    result = CliRunner().invoke(meters, ["--config", str(tmp_path / "agent.toml")])
    assert result.exit_code == 2 and result.stderr.startswith("Error: ")


def test_a_source_that_could_not_be_opened_is_named(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'[[sources]]\nuse = "rapl"\nroot = "{tmp_path}"\n[[sources]]\nuse = "host_model"\n')
    result = CliRunner().invoke(meters, ["--config", str(config)])
    assert "  server: host" in result.output
    told = result.output.split("Not opened, so not in this tree:\n")[1]
    assert told.startswith("  rapl: absent: ") and "; load the module" in told
    told_ = json.loads(CliRunner().invoke(meters, ["--config", str(config), "--json"]).stdout)
    assert [one["source"] for one in told_["not_opened"]] == ["rapl"]
