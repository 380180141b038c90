"""The Neuron source on a tree of real files made by the test, and on a fake `neuron-monitor` in its own process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.neuron import neuron_monitor
from fixtures.neuron.neuron_tree import NS_PER_S, START_S, NeuronTree, line
from joulefleet.config import ConfigError, typed
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet.source import Source, SourceUnavailable
from joulefleet_agent.meter_cut import MeterCut
from joulefleet_agent.sampler import stamped
from joulefleet_plugins.meters import neuron

MINUTE_NS = 60 * NS_PER_S


@pytest.fixture
def tree(tmp_path: Path) -> NeuronTree:
    return NeuronTree(tmp_path, devices=1, name="Inferentia2", max_w=100)


def opened(tree: NeuronTree, **more: Any) -> Source:
    config = typed({"root": str(tree.root), **more}, neuron.NeuronConfig, "neuron")
    return neuron.NeuronSource(config, lambda: tree.now_ns)


def meter(source: Source) -> Meter:
    (found,) = source.declares
    assert isinstance(found, Meter)
    return found


def failure(source: Source) -> tuple[str, str]:
    (found,) = source.read()
    assert isinstance(found, Failure)
    return found.subject, found.code


def test_a_device_is_declared_with_what_its_figure_rests_on(tree: NeuronTree) -> None:
    assert meter(opened(tree, idle_w=20)) == Meter(
        id="neuron0",
        kind="accelerator",
        grade="percent",
        sensor_class="modelled",
        device="ab00000000000000",
        hw_model="AWS Inferentia2",
        refresh_ns=MINUTE_NS,
        period_ns=5 * NS_PER_S,
        max_power_mw=100_000,
        basis="share of 100 W (CodeCarbon's approximation; AWS publishes none) of the die that draws most,"
        " and a background of 20 W",
        idle_mw=20_000,
    )


def test_a_device_without_a_public_rating_needs_one_from_the_configuration(tmp_path: Path) -> None:
    tree = NeuronTree(tmp_path, devices=1, name="Trainium2")
    with pytest.raises(SourceUnavailable) as raised:
        opened(tree)
    assert (raised.value.code, "max_w" in raised.value.mend) == ("no_rating", True)
    rated = meter(opened(tree, max_w=500, basis="our rack's meter"))
    assert rated.max_power_mw == 500_000
    assert rated.basis == (
        "share of 500 W (our rack's meter) of the die that draws most, and no background, which the driver takes off"
    )


@pytest.mark.parametrize(("mean_pct", "idle_w", "power_mw"), [(50, 0, 50_000), (50, 20, 60_000), (0, 20, 20_000)])
def test_the_share_lies_between_background_and_maximum(
    tree: NeuronTree, mean_pct: float, idle_w: float, power_mw: int
) -> None:
    tree.run(60, mean_pct)
    readings = opened(tree, idle_w=idle_w).read()
    assert [one.power_mw for one in readings if isinstance(one, MeterReading)] == [power_mw, power_mw]


def test_a_minute_is_told_at_both_its_ends_and_then_at_its_last(tree: NeuronTree) -> None:
    source = opened(tree)
    tree.run(63, 40)
    begin, end = source.read()
    assert isinstance(begin, MeterReading)
    assert isinstance(end, MeterReading)
    assert (end.age_ns, begin.age_ns) == (3 * NS_PER_S - neuron.EDGE_NS, 63 * NS_PER_S - 2 * neuron.EDGE_NS)
    tree.run(5, 90)
    (again,) = source.read()
    assert isinstance(again, MeterReading)
    assert (again.age_ns, again.power_mw) == (8 * NS_PER_S - neuron.EDGE_NS, 40_000)


def windows_of(tree: NeuronTree, source: Source, loads_w: list[float]) -> list[float]:
    """Joules of each minute, as the agent cuts them from readings every 5 s."""
    cut = MeterCut(meter=meter(source), since_ns=START_S * NS_PER_S)
    for load_w in loads_w:
        for _ in range(12):
            tree.run(5, load_w)
            for one in stamped(source.read(), tree.now_ns, source.declares):
                if isinstance(one, MeterReading):
                    cut.feed(one, MINUTE_NS, START_S * NS_PER_S)
    return [cut.close((START_S + 60 * k) * NS_PER_S, MINUTE_NS).energy_uj / 1e6 for k in range(len(loads_w))]


def test_joules_fall_into_the_minute_in_which_they_were_used(tree: NeuronTree) -> None:
    """No more than two tenths of a second at the edge of two minutes are uncertain."""
    joules = windows_of(tree, opened(tree), [10, 90, 10, 50])
    assert joules == pytest.approx([600, 5_400, 600, 3_000], abs=90 * 0.2 + 1)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (line("POWER_STATUS_NO_DATA", START_S, 0.0), "no_data"),
        (line("POWER_STATUS_INVALID", START_S, 0.0), "invalid"),
        ("POWER_STATUS_MAX,1722900060,0.00,0.00,0.00", "rubbish"),
        ("POWER_STATUS_VALID,1722900060", "rubbish"),
        ("POWER_STATUS_VALID,1722900060,1.00,2.00,three", "rubbish"),
        ("POWER_STATUS_VALID,1722900060,1.00,2.00,1.50,9", "rubbish"),
        ("", "rubbish"),
        ("POWER_STATUS_VALID,1722900060,-1.00,2.00,1.50", "implausible"),
        ("POWER_STATUS_VALID,1722900060,1.00,2.00,nan", "implausible"),
        ("POWER_STATUS_VALID,1722900060,1.00,200.00,150.00", "implausible"),
        ("POWER_STATUS_VALID,0,1.00,2.00,1.50", "stale"),
        ("POWER_STATUS_VALID,99999999999,1.00,2.00,1.50", "stale"),
    ],
)
def test_what_is_no_share_is_a_failure_and_never_zero(tree: NeuronTree, text: str, code: str) -> None:
    source = opened(tree)
    tree.write_all(text)
    assert failure(source) == ("neuron0", code)


@given(st.text(max_size=60))
def test_no_text_becomes_more_than_the_whole(text: str) -> None:
    for words in (text, f"POWER_STATUS_VALID,1722900060,{text}"):
        try:
            share = neuron.parsed(words)
        except neuron.Absent:
            continue
        assert 0 <= share.mean_pct <= 100


def test_a_line_that_is_not_renewed_goes_stale(tree: NeuronTree) -> None:
    source = opened(tree)
    tree.run(60, 40)
    source.read()
    tree.mute = True
    tree.run(150, 40)
    assert isinstance(source.read()[0], MeterReading)
    tree.run(1, 40)
    assert failure(source) == ("neuron0", "stale")
    tree.mute = False
    tree.run(60, 40)
    assert isinstance(source.read()[0], MeterReading)


def test_a_device_that_goes_fails_alone_and_comes_back(tmp_path: Path) -> None:
    tree = NeuronTree(tmp_path, devices=12)
    source = opened(tree, max_w=500)
    assert [one.id for one in source.declares] == [f"neuron{number}" for number in range(12)]
    tree.run(60, 400)
    tree.file(1).rename(tree.root / "away")
    readings: list[Reading] = source.read()
    assert [one.code for one in readings if isinstance(one, Failure)] == ["device_gone"]
    assert len([one for one in readings if isinstance(one, MeterReading)]) == 22
    (tree.root / "away").rename(tree.file(1))
    assert not [one for one in source.read() if isinstance(one, Failure)]


def test_a_server_without_devices_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable) as raised:
        neuron.open({"root": str(tmp_path)})
    assert (raised.value.code, bool(raised.value.mend)) == ("absent", True)


def test_a_driver_that_tells_no_power_is_named(tree: NeuronTree) -> None:
    tree.file().unlink()
    with pytest.raises(SourceUnavailable) as raised:
        opened(tree)
    assert (raised.value.code, "2.21.37" in raised.value.mend) == ("driver", True)


@pytest.mark.parametrize("table", [{"max": 1}, {"max_w": -1}, {"period_s": 60}, {"max_w": 50, "idle_w": 50}])
def test_a_config_that_cannot_be_used_is_refused(tree: NeuronTree, table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="neuron"):
        opened(tree, **table)


@contextmanager
def fake_monitor(pipe: Path) -> Iterator[None]:
    """The fake program, writing into the pipe until the end."""
    with pipe.open("wb") as out:
        program = subprocess.Popen([sys.executable, neuron_monitor.__file__], stdin=subprocess.PIPE, stdout=out)
    try:
        yield
    finally:
        program.communicate(timeout=30)


def test_neuron_monitor_tells_how_busy_the_cores_are(tmp_path: Path) -> None:
    tree = NeuronTree(tmp_path, devices=2)
    pipe = tmp_path / "monitor"
    os.mkfifo(pipe)
    source = opened(tree, max_w=500, monitor=str(pipe))
    assert gauges_of(source, tree) == [{}, {}]
    with fake_monitor(pipe):
        until_s = time.monotonic() + 30
        while not any(found := gauges_of(source, tree)):
            assert time.monotonic() < until_s, "the fake neuron-monitor writes nothing"
    # Two of four cores of one process, one of another: (80 + 40 + 30) / 4.
    assert found == [{"utilisation_pct": 37.5, "memory_used_bytes": 4_501.0}, {"utilisation_pct": 0.0}]
    tree.run(60, 40)
    assert gauges_of(source, tree) == [{}, {}]


def gauges_of(source: Source, tree: NeuronTree) -> list[dict[str, float]]:
    """What is told beside the power of the next minute."""
    tree.run(60, 40)
    return [one.gauges for one in source.read()[1::2] if isinstance(one, MeterReading)]


def test_a_pipe_that_is_none_is_told_with_its_mend(tree: NeuronTree, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "nothing"):
        with pytest.raises(SourceUnavailable) as raised:
            opened(tree, monitor=str(tmp_path / name))
        assert (raised.value.code, "mkfifo" in raised.value.mend) == ("monitor_missing", True)
