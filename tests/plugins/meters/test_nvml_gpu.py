"""NVML on a real NVIDIA GPU, where there is one."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from joulefleet import Meter, MeterReading, SourceUnavailable
from joulefleet_plugins.meters import nvml
from joulefleet_plugins.meters.nvml_ask import THROTTLES

pytestmark = pytest.mark.gpu


@pytest.fixture
def source() -> Iterator[Any]:
    try:
        yield nvml.open({})
    except SourceUnavailable as absent:
        pytest.skip(f"no NVIDIA GPU can be read here: {absent}")


def test_every_board_tells_energy_and_power_that_agree_roughly(source: Any) -> None:
    """Two readings some seconds apart: the counter's mean power and the gauge lie within a factor of two."""
    boards = [one for one in source.declares if isinstance(one, Meter)]
    first = {one.meter: (time.monotonic(), one) for one in source.read() if isinstance(one, MeterReading)}
    assert set(first) == {board.id for board in boards}
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        last = {one.meter: (time.monotonic(), one) for one in source.read() if isinstance(one, MeterReading)}
    for board in boards:
        (began_s, before), (ended_s, after) = first[board.id], last[board.id]
        assert after.power_mw
        assert after.power_mw > 0
        if board.grade == "counter":
            assert before.counter_uj is not None
            assert after.counter_uj is not None
            mean_mw = (after.counter_uj - before.counter_uj) / 1_000 / (ended_s - began_s)
            assert 0.5 < mean_mw / after.power_mw < 2


def test_every_board_tells_clocks_limit_and_processes_beside_its_energy(source: Any) -> None:
    for one in source.read():
        if isinstance(one, MeterReading) and "utilisation_pct" in one.gauges:
            assert one.gauges["sm_clock_mhz"] > 0
            assert one.gauges["power_limit_w"] > 0
            assert {one.gauges[name] for name in THROTTLES} <= {0.0, 100.0}
            assert one.activity_ns is not None
