"""What the agent itself costs: how blocks are paired, what is stated, and when nothing is."""

import os
import random
import tomllib
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.config import ConfigError
from joulefleet.describe import Grade, Kind, Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet_agent import disturbance as module
from joulefleet_agent.children import CannotGoOn
from joulefleet_agent.config import SourceConfig
from joulefleet_agent.disturbance import Disturbance, alternate, mean_w, order, subjects, told_plainly, toml_of
from joulefleet_agent.doctor import doctor
from joulefleet_agent.listen import Heard
from joulefleet_agent.probe import Finding
from joulefleet_agent.sampler import Opened, Said

S = 1_000_000_000


def meter(name: str, kind: Kind, grade: Grade = "counter", **more: Any) -> Meter:
    return Meter(id=name, kind=kind, grade=grade, sensor_class="onboard", period_ns=S, **more)


def finding(source: str, *meters: Meter, state: str = "readable") -> Finding:
    return Finding(source=source, state=state, meters=meters)


PACKAGES = finding("rapl", meter("package-0", "cpu_package"), meter("package-1", "cpu_package"), meter("d", "dram"))


def test_the_whole_server_is_measured_before_its_parts() -> None:
    board, core = meter("gpu", "accelerator"), meter("core", "cpu_core")
    assert subjects([PACKAGES, finding("nvml", board, core)]) == {"package-0": "rapl", "package-1": "rapl", "d": "rapl"}
    assert subjects([PACKAGES, finding("rapl", meter("psys", "psys"))]) == {"psys": "rapl"}
    assert subjects([finding("bmc", meter("b", "server")), finding("pdu", meter("p", "server"))]) == {"b": "bmc"}
    other = finding("perf", meter("p0", "cpu_package", device="cpu0"))
    same = finding("rapl", meter("package-0", "cpu_package", device="cpu0"))
    assert subjects([same, other]) == {"package-0": "rapl"}


@pytest.mark.parametrize(
    "found",
    [
        [],
        [finding("host_model", meter("host", "host", "modelled"))],
        [finding("bmc", meter("b", "server", "modelled"))],
        [finding("bmc", meter("b", "server"), state="permission")],
        [finding("nvml", meter("gpu", "accelerator"))],
    ],
)
def test_without_a_meter_that_measures_the_machine_nothing_is_stated(found: list[Finding]) -> None:
    with pytest.raises(CannotGoOn, match="no meter here measures"):
        subjects(found)


def test_blocks_alternate_so_that_a_drift_cancels_out() -> None:
    assert list(order(3)) == [(False, True), (True, False), (False, True)]
    now = [0.0]

    def measure(on: bool) -> float:
        now[0] += 1.0  # the machine gets warmer by a watt each block
        return 100.0 + now[0] + (2.0 if on else 0.0)

    told: list[tuple[int, float, float]] = []
    off_w, on_w = alternate(measure, 10, lambda *one: told.append(one))
    found = Disturbance(meters=("m",), block_s=1.0, off_w=off_w, on_w=on_w)
    assert found.interval.mean == pytest.approx(2.0)
    assert [one[0] for one in told] == list(range(1, 11))


def test_an_interval_that_includes_0_is_said_to() -> None:
    chance = random.Random(5)
    off_w = tuple(100 + chance.gauss(0, 1) for _ in range(10))
    cheap = Disturbance(meters=("m",), block_s=20.0, off_w=off_w, on_w=tuple(w + chance.gauss(0, 1) for w in off_w))
    dear = Disturbance(meters=("m",), block_s=20.0, off_w=off_w, on_w=tuple(w + 5 for w in off_w))
    assert "The interval includes 0" in told_plainly(cheap)[-1]
    assert told_plainly(dear)[0].startswith("agent on less off: +5.000 W, 95 % interval +5.000 to +5.000 W (10 alt")
    assert len(told_plainly(dear)) == 2
    wild = Disturbance(meters=("m",), block_s=20.0, off_w=(0.0, 300.0), on_w=(300.0, 0.0))
    assert "most likely less than 3800 W" in told_plainly(wild)[-1]


def heard(one: Meter, *readings: Any) -> list[Heard]:
    said = [Heard(k * S, k * S, Said("s", k * S, (reading,))) for k, reading in enumerate(readings)]
    return [Heard(0, 0, Opened("s", (one,))), *said]


def test_power_is_that_of_the_counter_or_of_the_gauge() -> None:
    counter = meter("m", "server")
    counted = [MeterReading(meter="m", counter_uj=k * 50_000_000, power_mw=7) for k in range(5)]
    assert mean_w(heard(counter, *counted), ["m"], 4.0) == 50.0
    gauge = meter("m", "server", "integrated")
    assert mean_w(heard(gauge, *(MeterReading(meter="m", power_mw=60_000) for _ in range(5))), ["m"], 4.0) == 60.0


def test_a_meter_that_told_too_little_states_nothing() -> None:
    silent = [Failure(subject="m", code="hung")] * 5
    few = [MeterReading(meter="m", counter_uj=1), MeterReading(meter="m", counter_uj=2)]
    for readings in (silent, few):
        with pytest.raises(CannotGoOn, match="told too little"):
            mean_w(heard(meter("m", "server"), *readings), ["m"], 4.0)
    with pytest.raises(CannotGoOn):
        mean_w([], ["m"], 4.0)


WORDS = st.text(st.characters(codec="utf-8"))
LEAVES = WORDS | st.integers(-(2**60), 2**60) | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
TABLES = st.recursive(LEAVES, lambda each: st.lists(each) | st.dictionaries(WORDS, each))


@given(st.dictionaries(WORDS, TABLES).filter(lambda table: "use" not in table))
def test_the_agent_under_test_has_the_sources_that_were_given(table: dict[str, Any]) -> None:
    told = tomllib.loads(toml_of(Path("/x"), [SourceConfig("a", table), SourceConfig("b", {})]))
    assert told["sources"] == [{**table, "use": "a"}, {"use": "b"}]
    assert told["collector"] == {"url": "http://127.0.0.1:9"}


def test_what_toml_alone_can_say_is_refused() -> None:
    with pytest.raises(ConfigError, match="date"):
        toml_of(Path("/x"), [SourceConfig("a", tomllib.loads("d = 2026-01-01"))])


SOURCE = '''
"""A server that draws 100 W, and 5 W more while an agent has its spool open."""
import time
from pathlib import Path
from joulefleet import Meter, MeterReading

class Disturbed:
    declares = (Meter(id="wall", kind="server", grade="integrated", sensor_class="platform", period_ns=50_000_000),)
    period_ns, deadline_ns = 50_000_000, 1_000_000_000
    def __init__(self, folder):
        self.folder = Path(folder)
    def read(self):
        running = any(self.folder.glob("joulefleet-*/spool.db"))
        return [MeterReading(meter="wall", power_mw=105_000 if running else 100_000)]

def open(table):
    return Disturbed(table["folder"])
'''


def test_the_agent_is_started_and_ended_and_what_it_adds_is_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "disturbed-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: disturbed\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[joulefleet.sources]\ndisturbed = source_disturbed:open\n")
    (tmp_path / "site" / "source_disturbed.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    invalidate_caches()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    config = tmp_path / "agent.toml"
    config.write_text(f'[[sources]]\nuse = "disturbed"\nfolder = "{tmp_path / "tmp"}"\n')

    monkeypatch.setattr(module, "SETTLE_S", 0.0)
    options = ["--disturbance", "--alternations", "2", "--seconds", "0.5", "--config", str(config)]
    result = CliRunner().invoke(doctor, options)
    assert result.exit_code == 0, result.output
    assert "alternation 2 of 2: off 100.00 W, on 105.00 W" in result.output
    assert "agent on less off: +5.000 W, 95 % interval +5.000 to +5.000 W" in result.output
    assert list((tmp_path / "tmp").iterdir()) == []
