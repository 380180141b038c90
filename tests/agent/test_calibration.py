"""The file of gains, and what an agent's sources say under it."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.gain import Gain, Scaler
from joulefleet.reading import MeterReading
from joulefleet.window import decode
from joulefleet_agent.calibration import (
    CalibratedSource,
    add_gain,
    gains_of,
    read_gains,
    sources_in,
    toml_of,
    version_of,
)
from joulefleet_agent.config import AgentConfig
from joulefleet_agent.cutter import Identity
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.spool import Spool

S = 1_000_000_000


def gain(meter: str = "sim-board0", ppm: int = 1_100_000, **changes: object) -> Gain:
    one = Gain(meter=meter, gain_ppm=ppm, uncertainty_ppm=11_000, reference="pdu", when="2026-01-01T00:00:00Z")
    one = msgspec.structs.replace(one, **changes)
    return msgspec.structs.replace(one, version=version_of(one))


def test_the_last_calibration_of_a_meter_holds_and_those_before_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "calibration.toml"
    for one in (gain(ppm=1_000_001), gain("other"), gain(ppm=1_100_000)):
        add_gain(path, one)
    assert read_gains(path) == {"sim-board0": gain(), "other": gain("other")}
    assert path.read_text().count("[[gain]]") == 3
    assert [one.name for one in tmp_path.iterdir()] == ["calibration.toml"]


@given(st.text(st.characters(codec="utf-8")), st.integers(1, 10**7))
def test_any_name_of_a_meter_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, name: str, ppm: int
) -> None:
    path = tmp_path_factory.mktemp("gains") / "calibration.toml"
    add_gain(path, gain(name, ppm))
    assert read_gains(path) == {name: gain(name, ppm)}


@pytest.mark.parametrize(
    "changed",
    [
        toml_of(gain()).replace("1100000", "1200000"),
        toml_of(gain()).replace("pdu", "bmc"),
        toml_of(msgspec.structs.replace(gain(), version="")),
        toml_of(gain()).replace("11000\n", "0\n"),
        toml_of(gain()) + "factor = 2\n",
        "[[gain]]\nmeter = 'm'\n",
    ],
)
def test_what_was_changed_by_hand_is_refused(tmp_path: Path, changed: str) -> None:
    path = tmp_path / "calibration.toml"
    path.write_text(changed)
    with pytest.raises(ConfigError, match=r"calibration\.toml"):
        read_gains(path)
    with pytest.raises(ConfigError):
        add_gain(path, gain("other"))


def test_the_file_lies_beside_the_config_that_names_it(tmp_path: Path) -> None:
    add_gain(tmp_path / "calibration.toml", gain())
    config = AgentConfig(calibration="calibration.toml")
    assert gains_of(config, str(tmp_path / "agent.toml")) == {"sim-board0": gain()}
    assert gains_of(AgentConfig(), "anywhere") == {}
    with pytest.raises(ConfigError, match="cannot be read"):
        gains_of(config, "/nowhere/agent.toml")


class Changing:
    """A source that finds another meter at its second read."""

    period_ns = deadline_ns = 1

    def __init__(self) -> None:
        self.declares = (declared("a"),)

    def read(self) -> list[MeterReading]:
        said = [MeterReading(meter=one.id, counter_uj=100) for one in self.declares]
        self.declares = (declared("b"),)
        return said if said[0].meter == "b" else [MeterReading(meter="b", counter_uj=50)]


def declared(name: str) -> Meter:
    return Meter(id=name, kind="dram", grade="counter", sensor_class="onboard")


def test_what_a_source_declares_later_is_calibrated_too() -> None:
    source = CalibratedSource(Changing(), {"b": gain("b")})  # type: ignore[arg-type] # it declares meters only
    assert source.declares == (declared("a"),)
    assert [one.counter_uj for one in source.read() if isinstance(one, MeterReading)] == [55]
    (meter,) = source.declares
    assert isinstance(meter, Meter) and (meter.id, meter.gain_ppm) == ("b", 1_100_000)


def test_a_new_calibration_is_a_new_declaration_and_no_window_mixes_two_gains(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool.db") as spool:
        pipeline = Pipeline(spool, Identity(server="a"), 60 * S, 1)
        raw = declared("m")
        for second in range(0, 600, 10):
            scaler = Scaler({"m": gain("m")} if second >= 250 else {})
            declares = scaler.declared([raw])
            if second in (0, 250):
                pipeline.declare("s", declares, second * S)
            reading = MeterReading(meter="m", at_ns=second * S, counter_uj=second * 100 * 10**6)
            pipeline.feed(scaler.said([reading]), second * S)
        pipeline.finish(600 * S)
        windows = [decode(one.body) for one in spool.waiting(100, 2**62, 2**40)]
    told = [(one.meter.gain_ppm, one.energy_uj) for window in windows for one in window.meters]
    assert {gain_ppm: max(uj for each, uj in told if each == gain_ppm) for gain_ppm, _ in told} == {
        1_000_000: 6_000 * 10**6,
        1_100_000: 6_600 * 10**6,
    }
    assert all(uj % 10**6 == 0 and uj <= gain_ppm * 6_000 for gain_ppm, uj in told)
    facts = [window.facts[name] for window in windows for name in window.facts if name == "calibration:m"]
    assert set(facts) == {f"{gain('m').version} gain_ppm 1100000"}


def test_the_sources_of_a_config_are_opened_calibrated(tmp_path: Path) -> None:
    add_gain(tmp_path / "calibration.toml", gain())
    table = {"use": "simulated", "boards": 2, "from_s": 1_800_000_000, "until_s": 1_800_000_000}
    where = str(tmp_path / "agent.toml")
    (raw,), (one,) = (
        sources_in(AgentConfig(sources=[table], calibration=name), where) for name in ("", "calibration.toml")
    )
    plain, source = raw.opener(raw.table), one.opener(one.table)
    assert (source.period_ns, source.deadline_ns) == (plain.period_ns, plain.deadline_ns)
    declared = {meter.id: meter for meter in source.declares if isinstance(meter, Meter)}
    assert (declared["sim-board0"].gain_ppm, declared["sim-board0"].sensor_class) == (1_100_000, "platform")
    assert declared["sim-board1"] in plain.declares
    for before, after in zip(plain.read(), source.read(), strict=True):
        if isinstance(before, MeterReading) and before.meter == "sim-board0":
            assert isinstance(after, MeterReading) and before.counter_uj and before.power_mw
            assert after.counter_uj == before.counter_uj * 11 // 10
        else:
            assert after == before


def test_a_config_without_sources_has_all_of_this_machine() -> None:
    names = {one.name for one in sources_in(AgentConfig(), "agent.toml")}
    assert {"found", "host_model", "nvml"} <= names
    assert "simulated" not in names
