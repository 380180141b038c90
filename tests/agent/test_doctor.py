"""What `joulefleet doctor` says of a machine."""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from joulefleet.describe import Engine, Grade, Meter
from joulefleet.gain import Gain
from joulefleet_agent.calibration import add_gain, version_of
from joulefleet_agent.doctor import doctor, told
from joulefleet_agent.probe import Finding
from joulefleet_agent.watch import Seen

ENGINE = Engine(id="vllm@127.0.0.1:8000", software="vllm")


def found(grade: Grade, **changes: object) -> Finding:
    meter = Meter(id="m", kind="accelerator", grade=grade, sensor_class="onboard", hw_model="H200", **changes)  # type: ignore[arg-type] # any field
    return Finding(source="nvml", state="readable", read_ms=1.25, meters=(meter,))


HOST = Finding(
    source="host_model",
    state="readable",
    meters=(Meter(id="host", kind="host", grade="modelled", sensor_class="modelled"),),
)


def share(grade: Grade) -> Finding:
    meter = Meter(id="pdu", kind="server", grade=grade, sensor_class="platform")
    return Finding(source="snmp", state="readable", meters=(meter,))


def test_what_is_readable_and_what_it_has() -> None:
    assert told([found("counter", max_power_mw=700_000)])[:2] == [
        "ok  nvml  (1.2 ms a read)",
        "                 accelerator m: H200, grade counter, up to 700 W",
    ]


def test_a_meter_of_which_there_is_one_is_named_once() -> None:
    host = Meter(id="host", kind="host", grade="modelled", sensor_class="modelled", hw_model="EPYC")
    lines = told([Finding(source="host_model", state="readable", meters=(host,))])
    assert lines[1].strip() == "host: EPYC, grade modelled"


def test_what_is_not_readable_and_how_to_mend_it() -> None:
    missing = Finding(source="rapl", state="permission", detail="energy_uj may not be read", mend="join the group")
    assert told([missing])[:2] == [
        "--  rapl         permission: energy_uj may not be read",
        "                 mend: join the group",
    ]


def test_what_most_machines_do_not_have_is_one_block() -> None:
    absent = Finding(source="rapl", state="absent", detail="no zone", mend="modprobe intel_rapl_msr")
    keyed = Finding(source="redfish", state="needs_configuration", detail="url: object missing required field `url`")
    assert told([absent, keyed])[:5] == [
        "",
        "Not here:",
        "    rapl               absent: modprobe intel_rapl_msr",
        "",
        "Need a [[sources]] entry of a config file: redfish (url)",
    ]
    assert told([absent], unasked=False)[0] == "--  rapl         absent: no zone"


def test_what_was_seen_of_a_meter_and_whether_two_of_them_agree() -> None:
    one = found("counter", device="GPU-1", max_power_mw=700_000)
    seen = Seen(meter="m", reads=9, refresh_s=0.1, counter_w=300.0, gauge_w=200.0)
    other = Finding(source="dcgm", state="readable", meters=one.meters, seen=(Seen(meter="m", gauge_w=303.0),))
    lines = told([msgspec.structs.replace(one, seen=(seen,), tried="faithful fake", cpu_ms=0.5), other])
    assert lines[0] == "ok  nvml  (1.2 ms a read, 0.5 ms of CPU)  tried: faithful fake"
    assert "up to 700 W, 300.0 W now, a new value each 0.1 s" in lines[1]
    assert "303.0 W now, read too few times to see it move" in lines[3]
    assert [line.strip() for line in lines[4:6]] == [
        "DIFFER       m: nvml counter 300.0 W, nvml gauge 200.0 W (-33.3%)",
        "agree        GPU-1: nvml 300.0 W, dcgm 303.0 W (+1.0%)",
    ]


@pytest.mark.parametrize(
    ("findings", "advice"),
    [
        ([], "Nothing on this machine tells its energy."),
        ([Finding(source="rapl", state="absent", meters=found("counter").meters)], "Nothing on this machine"),
        ([found("modelled")], "No sensor can be read: every figure will be `modelled`"),
        ([share("modelled")], "every figure will be `modelled`; above it says what it rests on"),
        ([HOST], "every figure will be `modelled` from CPU utilisation"),
        ([HOST, share("integrated")], "The whole server is measured; what is `modelled` beside it"),
        ([HOST, found("counter")], "Not everything is measured: the whole server"),
        ([found("modelled"), found("counter")], "the whole server is `modelled` where no meter covers it"),
        ([found("counter"), found("residual"), found("modelled")], "What is graded residual is not measured by itself"),
        ([found("counter"), found("integrated")], "Everything that is read here is measured."),
    ],
)
def test_what_the_figures_will_rest_on(findings: list[Finding], advice: str) -> None:
    assert any(advice in line for line in told(findings))


def test_without_an_inference_server_it_says_what_is_missing() -> None:
    engine = Finding(source="openmetrics", state="readable", engines=(ENGINE,))
    silent = Finding(source="openmetrics", state="scrape_failed", engines=(ENGINE,))
    assert any("No inference server answers" in line for line in told([found("counter"), silent]))
    assert not any("No inference server answers" in line for line in told([found("counter"), engine]))
    assert any("engine vllm@127.0.0.1:8000: vllm" in line for line in told([engine]))


def config(folder: Path, source: str) -> str:
    path = folder / "agent.toml"
    path.write_text(f"[[sources]]\n{source}\n")
    return str(path)


def test_the_sources_of_a_config_are_tried(tmp_path: Path) -> None:
    quick = ["--seconds", "0.3"]
    result = CliRunner().invoke(
        doctor, [*quick, "--config", config(tmp_path, 'use = "simulated"\nboards = 1'), "--json"]
    )
    assert result.exit_code == 0
    (finding,) = json.loads(result.stdout)["findings"]
    assert (finding["source"], finding["state"]) == ("simulated", "readable")
    assert [meter["id"] for meter in finding["meters"]] == ["sim-board0", "sim-server"]


@pytest.mark.parametrize("source", ['use = "nvlm"', 'use = "simulated"\nbords = 1', "used = 3"])
def test_a_typo_is_one_sentence_and_exit_code_2(tmp_path: Path, source: str) -> None:
    path = config(tmp_path, source)
    result = CliRunner().invoke(doctor, ["--config", path])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert result.stderr.startswith(f"Error: {path}: ")


def test_a_support_file_is_written_once_and_the_findings_are_told_beside_it(tmp_path: Path) -> None:
    path = config(tmp_path, 'use = "simulated"\nboards = 1\nhardware = "canary"')
    options = ["--seconds", "0.2", "--config", path, "--bundle", str(tmp_path / "b.json")]
    result = CliRunner().invoke(doctor, options)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("ok  simulated")
    assert f"{tmp_path / 'b.json'}: written without names, addresses and secrets" in result.output
    told = json.loads((tmp_path / "b.json").read_text())
    assert told["config"]["sources"] == [{"use": "simulated", "boards": 1, "hardware": "(text)"}]
    assert told["doctor"]["findings"][0]["tried"] == "simulated"
    again = CliRunner().invoke(doctor, options)
    assert again.exit_code == 2 and "exists already" in again.stderr


def test_what_is_calibrated_says_so(tmp_path: Path) -> None:
    gain = Gain(meter="sim-board0", gain_ppm=1_040_000, uncertainty_ppm=11_000, reference="pdu", when="2026-01-01")
    gain = msgspec.structs.replace(gain, version=version_of(gain))
    add_gain(tmp_path / "gains.toml", gain)
    path = Path(config(tmp_path, 'use = "simulated"\nboards = 1'))
    path.write_text('calibration = "gains.toml"\n' + path.read_text())
    result = CliRunner().invoke(doctor, ["--seconds", "0.2", "--config", str(path)])
    assert f"gain 1.0400 (calibration {gain.version})" in result.output


def test_a_slow_meter_that_did_not_move_is_told_with_what_it_declares() -> None:
    slow = found("integrated", refresh_ns=60_000_000_000)
    seen = Seen(meter="m", reads=20, gauge_w=100.0)
    line = told([msgspec.structs.replace(slow, seen=(seen,))])[1]
    assert line.endswith("100.0 W now, it stood still while it was watched (told to move each 60 s)")


def test_a_power_that_the_agent_will_not_believe_is_no_plain_figure() -> None:
    seen = Seen(meter="m", reads=9, gauge_w=841.0)
    lines = told([msgspec.structs.replace(found("integrated", max_power_mw=700_000), seen=(seen,))])
    assert "841.0 W now, IMPLAUSIBLE: no reading of more than 1.2 times what it can draw is believed" in lines[1]
    seen = Seen(meter="m", reads=9, gauge_w=839.0)
    lines = told([msgspec.structs.replace(found("integrated", max_power_mw=700_000), seen=(seen,))])
    assert "IMPLAUSIBLE" not in lines[1]


def test_a_bundle_of_a_disturbance_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    result = CliRunner().invoke(doctor, ["--disturbance", "--bundle", str(tmp_path / "b.json")])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "say one of the two" in result.stderr and not (tmp_path / "b.json").exists()


def test_a_calibration_of_a_meter_that_is_not_there_is_told(tmp_path: Path) -> None:
    gain = Gain(meter="nowhere", gain_ppm=1_040_000, uncertainty_ppm=11_000, reference="pdu", when="2026-01-01")
    add_gain(tmp_path / "gains.toml", msgspec.structs.replace(gain, version=version_of(gain)))
    path = Path(config(tmp_path, 'use = "simulated"\nboards = 1'))
    path.write_text('calibration = "gains.toml"\n' + path.read_text())
    result = CliRunner().invoke(doctor, ["--seconds", "0.1", "--config", str(path)])
    assert "--  calibration  no_such_meter: nowhere: no source here declares a meter of this name" in result.output


def test_nothing_is_said_of_a_disturbance_that_no_meter_measures(tmp_path: Path) -> None:
    result = CliRunner().invoke(doctor, ["--disturbance", "--config", config(tmp_path, 'use = "host_model"')])
    assert result.exit_code == 2
    assert "no meter here measures the power of this machine" in result.stderr
