"""`joulefleet calibrate`, with an installed source of two meters of one server."""

import json
from importlib import invalidate_caches
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from joulefleet.describe import Meter
from joulefleet_agent import pairing
from joulefleet_agent.calibrate import calibrate
from joulefleet_agent.calibration import read_gains, sources_in
from joulefleet_agent.config import load_config

SOURCE = '''
"""A server's BMC, which tells 4 % too little, and a better meter beside it."""
import time
from joulefleet import Meter, MeterReading

BMC = Meter(id="bmc", kind="server", grade="counter", sensor_class="platform", period_ns=100_000_000)
WALL = Meter(id="wall", kind="server", grade="counter", sensor_class="reference", period_ns=100_000_000)

class Twins:
    declares = (BMC, WALL)
    period_ns, deadline_ns = 100_000_000, 1_000_000_000
    def read(self):
        at_ns = time.time_ns()
        uj = (at_ns - 1_700_000_000 * 10**9) * 3 // 10
        return [MeterReading(meter="bmc", at_ns=at_ns, counter_uj=uj * 100 // 104),
                MeterReading(meter="wall", at_ns=at_ns, counter_uj=uj)]

def open(table):
    return Twins()
'''


@pytest.fixture(autouse=True)
def twins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package, installed, a config that names it, and blocks short enough for a test."""
    info = tmp_path / "site" / "twins-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: twins\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[joulefleet.sources]\ntwins = source_of_twins:open\n")
    (tmp_path / "site" / "source_of_twins.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    invalidate_caches()
    monkeypatch.setattr(pairing, "BLOCKS_S", (1,))
    monkeypatch.setattr(pairing, "LEAST_BLOCKS", 2)
    config = tmp_path / "agent.toml"
    config.write_text('server = "a"\n[[sources]]\nuse = "twins"\n')
    return config


def run(*arguments: object) -> Result:
    return CliRunner().invoke(calibrate, [str(one) for one in arguments])


def test_the_gain_is_written_and_holds_once_the_config_names_it(twins: Path) -> None:
    result = run("bmc", "--against", "wall", "--config", twins, "--minutes", 0.07)
    assert result.exit_code == 0, result.output
    file = twins.parent / "calibration.toml"
    gain = read_gains(file)["bmc"]
    assert gain.gain_ppm == pytest.approx(1_040_000, abs=2_000)
    assert gain.reference == "wall (reference)" and gain.when.endswith("Z")
    assert f"bmc: gain {gain.gain_ppm / 1e6:.6f}, known to" in result.output
    assert f"written to {file} as version {gain.version}" in result.output
    assert 'calibration = "calibration.toml"' in result.output
    twins.write_text('calibration = "calibration.toml"\n' + twins.read_text())
    (source,) = sources_in(load_config(twins), str(twins))
    bmc, wall = source.opener(source.table).declares
    assert isinstance(bmc, Meter) and isinstance(wall, Meter)
    assert (bmc.gain_ppm, bmc.calibration, wall.calibration) == (gain.gain_ppm, gain.version, "")


def test_calibrating_again_does_not_multiply_gains(twins: Path) -> None:
    twins.write_text('calibration = "calibration.toml"\n' + twins.read_text())
    (twins.parent / "calibration.toml").write_text("")
    for _ in range(2):
        result = run("bmc", "--against", "wall", "--config", twins, "--minutes", 0.07, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["gain"]["gain_ppm"] == pytest.approx(1_040_000, abs=2_000)
    assert (twins.parent / "calibration.toml").read_text().count("[[gain]]") == 2


@pytest.mark.parametrize(
    ("meter", "reference", "told"),
    [
        ("bcm", "wall", "no meter is named 'bcm'; there are bmc, wall"),
        ("wall", "bmc", "is not known better"),
        ("bmc", "bmc", "no reference for itself"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_nothing_is_written(
    twins: Path, meter: str, reference: str, told: str
) -> None:
    result = run(meter, "--against", reference, "--config", twins, "--minutes", 0.07)
    assert result.exit_code == 2 and told in result.output
    assert not (twins.parent / "calibration.toml").exists()


def test_a_source_that_cannot_be_read_is_named_where_its_meter_is_missed(twins: Path) -> None:
    twins.write_text(twins.read_text() + f'[[sources]]\nuse = "rapl"\nroot = "{twins.parent}"\n')
    result = run("package-0", "--against", "wall", "--config", twins)
    assert "there are bmc, wall; rapl: absent: " in result.output


def test_too_short_is_refused(twins: Path) -> None:
    result = run("bmc", "--against", "wall", "--config", twins, "--minutes", 0.01)
    assert result.exit_code == 2 and "take longer (--minutes)" in result.output
