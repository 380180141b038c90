"""What the NVML source asks of a board beside its energy, and how it reads the answers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from joulefleet_plugins.meters import nvml_ask as plugin


def gauges(reader: Any) -> dict[str, float]:
    (reading,) = reader.read()
    told: dict[str, float] = reading.gauges
    return told


def test_clocks_temperature_and_the_limit_in_force_stand_beside_the_energy(nvml: Any, nvml_reader: Any) -> None:
    nvml_reader.open()
    told = gauges(nvml_reader)
    assert told["sm_clock_mhz"] == 1_980.0
    assert told["memory_clock_mhz"] == 2_619.0
    assert told["temperature_c"] == 61.0
    assert told["power_limit_w"] == 700.0


def test_a_power_limit_that_is_changed_while_the_source_is_open_shows(nvml: Any, nvml_reader: Any) -> None:
    nvml_reader.open()
    gauges(nvml_reader)
    nvml.limit_mw = 500_000
    nvml.write()
    told = [gauges(nvml_reader) for _ in range(5)]
    assert [each["power_limit_w"] for each in told if "power_limit_w" in each] == [500.0]


@pytest.mark.parametrize(
    ("reasons", "standing"),
    [
        (0x0, set()),
        (0x1, set()),
        (0x4, {"throttle_power_pct"}),
        (0x80 | 0x8, {"throttle_power_pct", "throttle_slowdown_pct"}),
        (0x20, {"throttle_thermal_pct"}),
        (0x40 | 0x4, {"throttle_thermal_pct", "throttle_power_pct"}),
    ],
)
def test_reasons_for_slow_clocks_stand_or_do_not(nvml: Any, nvml_reader: Any, reasons: int, standing: set[str]) -> None:
    nvml.reasons = reasons
    nvml.write()
    nvml_reader.open()
    told = gauges(nvml_reader)
    assert {name: told[name] for name in plugin.THROTTLES} == {
        name: 100.0 * (name in standing) for name in plugin.THROTTLES
    }


def test_an_older_library_tells_them_by_their_older_name(
    nvml: Any, fake_nvml: Any, open_reader: Any, tmp_path: Path
) -> None:
    nvml.library, nvml.reasons = fake_nvml.build(tmp_path / "old", old_names=True), 0x4
    nvml.write()
    reader = open_reader()
    reader.open()
    assert gauges(reader)["throttle_power_pct"] == 100.0


@pytest.mark.parametrize("value_type", range(len(plugin.MEMBERS)))
def test_a_field_is_read_as_the_type_that_it_names(value_type: int) -> None:
    values = {name: float(place) for place, name in enumerate(plugin.MEMBERS)}
    answer = SimpleNamespace(nvmlReturn=0, valueType=value_type, value=SimpleNamespace(**values))
    nvml = SimpleNamespace(nvmlDeviceGetFieldValues=lambda handle, asked: [answer])
    assert plugin.field(nvml, None, plugin.ENERGY, plugin.SCOPE_GPU) == float(value_type)
