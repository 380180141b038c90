"""One source that hangs for ever and one that fails at each read: the others do not lose a reading."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from fixtures.faulty import install
from fixtures.processes import SIMULATED, agent_config, collecting, running, until
from joulefleet.units import uj_to_j
from joulefleet.window import MeterWindow, Window
from joulefleet_plugins.meters.simulated import SERVER, SimulatedConfig, truth


def test_the_others_lose_no_reading(tmp_path: Path) -> None:
    installed, tree = install(tmp_path / "installed"), tree_that_hangs(tmp_path)
    faulty = [f'use = "hangs"\nfifo = "{tmp_path}/installed/fifo"', 'use = "raises"', f'use = "rapl"\nroot = "{tree}"']
    sources = SIMULATED + "".join(f"[[sources]]\n{one}\n" for one in faulty)
    with collecting(tmp_path / "collector", tmp_path / "data") as (_, collector):
        config = str(agent_config(tmp_path, collector.url, sources))
        with running(tmp_path / "agent", "agent", "run", "--config", config, PYTHONPATH=installed) as agent:
            until(lambda: "rapl/all: hung no answer for" in agent.err, "the agent to say that RAPL hangs")
            until(lambda: len(collector.windows()) >= 5, "five windows")
            assert agent.end() == 0
        windows = collector.windows()
    assert_simulated_is_whole(windows)
    assert all(gave_nothing(window, "hanging", "hung") for window in windows[1:])
    assert all(gave_nothing(window, "failing", "fault") for window in windows[1:])
    assert "hangs/all: hung no answer for" in agent.err
    assert agent.err.count("the sensor speaks in tongues") <= 2
    assert "Traceback" not in agent.err


def tree_that_hangs(folder: Path) -> Path:
    """A powercap tree whose one counter hangs when it is opened."""
    zone = folder / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    os.mkfifo(zone / "energy_uj")
    return zone.parent


def assert_simulated_is_whole(windows: list[Window]) -> None:
    """Its meters are covered all the time, save before the first reading, and tell the true energy."""
    simulated = [one.meter.id for one in windows[0].meters if one.meter.simulated]
    assert len(simulated) == 9
    for window in windows[1:]:
        assert [of(window, meter).covered_ns for meter in simulated] == [window.step_ns] * 9
        assert all(of(window, meter).gaps_ns == {} for meter in simulated)
    assert all(after.start_ns == before.end_ns for before, after in pairwise(windows))
    told_j = uj_to_j(of(windows[-1], SERVER).last_uj - of(windows[1], SERVER).first_uj)
    true_j = truth(SimulatedConfig(), windows[1].start_ns, windows[-1].end_ns).server_j
    assert told_j == pytest.approx(true_j, rel=1e-6)


def gave_nothing(window: Window, meter: str, code: str) -> bool:
    """Whether a meter is declared, has no joules, and says why in all of its time."""
    one = of(window, meter)
    return (one.energy_uj, one.covered_ns, one.gaps_ns) == (0, 0, {code: window.step_ns})


def of(window: Window, meter: str) -> MeterWindow:
    """What a window tells of one meter."""
    return next(one for one in window.meters if one.meter.id == meter)
