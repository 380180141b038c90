"""A Cray node's counters in joules with the controller's stamps, made of files by the test."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.cray import SAMPLE, Cray
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import Source, SourceUnavailable
from joulefleet.units import s_to_ns
from joulefleet.window import MeterWindow
from joulefleet_collector.account.cover import covers
from joulefleet_plugins.meters import cray_pm_counters
from joulefleet_plugins.meters.cray_pm_counters import Value, domains, value_of

NOBODY = 65_534


@pytest.fixture
def cray(tmp_path: Path) -> Cray:
    return Cray(tmp_path)


def meters(source: Source) -> dict[str, Meter]:
    return {one.id: one for one in source.declares if isinstance(one, Meter)}


def readings(source: Source) -> dict[str, MeterReading]:
    return {one.meter: one for one in source.read() if isinstance(one, MeterReading)}


def failures(source: Source) -> dict[str, str]:
    return {one.subject: one.code for one in source.read() if isinstance(one, Failure)}


def test_the_node_and_its_parts_are_read_in_joules_and_watts(cray: Cray) -> None:
    told = readings(cray.open(("GPU-a",)))
    assert {name: (one.counter_uj, one.power_mw) for name, one in told.items()} == {
        "cray-node": (2_178_501_771_000_000, 451_000),
        "cray-cpu": (208_285_642_000_000, 33_000),
        "cray-memory": (293_871_653_000_000, 64_000),
        "cray-accel0": (479_512_261_000_000, 103_000),
    }


def test_each_part_is_declared_as_what_it_is(cray: Cray) -> None:
    found = meters(cray.open(("GPU-a",)))
    assert {one.id: (one.kind, one.device) for one in found.values()} == {
        "cray-node": ("server", ""),
        "cray-cpu": ("cpu_package", "package-0"),
        "cray-memory": ("dram", "package-0/dram"),
        "cray-accel0": ("accelerator", "GPU-a"),
    }
    assert found["cray-node"] == Meter(
        id="cray-node",
        kind="server",
        grade="counter",
        sensor_class="platform",
        resolution_uj=1_000_000,
        refresh_ns=100_000_000,
        period_ns=1_000_000_000,
        max_power_mw=12_000_000,
    )


def test_boundaries_count_neither_boards_nor_packages_of_other_sources_twice(cray: Cray) -> None:
    onboard: dict[str, Any] = {"grade": "counter", "sensor_class": "onboard"}
    others = [
        Meter(id="GPU-a", kind="accelerator", device="GPU-a", **onboard),
        Meter(id="package-0", kind="cpu_package", device="package-0", **onboard),
    ]
    for named in ((), ("GPU-a",)):
        declared = [*meters(cray.open(named)).values(), *others]
        windows = [MeterWindow(meter=one, first_uj=0, last_uj=0) for one in declared]
        taken = {cover.boundary: cover.meters for cover in covers(windows, s_to_ns(60))}
        assert [one.meter.kind for one in taken["accelerator"]] == ["accelerator"]
        assert sorted(one.meter.kind for one in taken["compute"]) == ["accelerator", "cpu_package", "dram"]
        assert [one.meter.id for one in taken["server"]] == ["cray-node"]


def test_a_module_that_another_source_counts_holds_the_cpu_and_its_memory(cray: Cray) -> None:
    whole = Meter(
        id="GPU-a",
        kind="module",
        grade="counter",
        sensor_class="onboard",
        contains=("accelerator", "cpu_package", "dram"),
        device="GPU-a",
    )
    declared = [*meters(cray.open(("GPU-a",))).values(), whole]
    windows = [MeterWindow(meter=one, first_uj=0, last_uj=0) for one in declared]
    (compute,) = [cover for cover in covers(windows, s_to_ns(60)) if cover.boundary == "compute"]
    assert [one.meter.id for one in compute.meters] == ["GPU-a"]


def test_accelerators_whom_nobody_named_are_no_meters(cray: Cray) -> None:
    assert list(meters(cray.open())) == ["cray-node", "cray-cpu", "cray-memory"]


def test_more_accelerators_than_there_are_is_told(cray: Cray) -> None:
    with pytest.raises(SourceUnavailable, match="accel1_energy"):
        cray.open(("GPU-a", "GPU-b"))


def test_one_figure_for_several_sockets_is_a_cross_check(tmp_path: Path) -> None:
    found = meters(Cray(tmp_path, sockets=2).open())
    assert {one.id: (one.kind, one.contains) for one in found.values()} == {
        "cray-node": ("server", ()),
        "cray-cpu": ("psys", ("cpu_package", "cpu_core")),
        "cray-memory": ("psys", ("dram",)),
    }


def test_sockets_that_are_counted_each_are_packages() -> None:
    found = list(domains({"", "cpu_", "cpu0_", "cpu1_"}, sockets=2, accelerators=()))
    assert [(one.id, one.kind, one.device) for one in found] == [
        ("cray-node", "server", ""),
        ("cray-cpu0", "cpu_package", "package-0"),
        ("cray-cpu1", "cpu_package", "package-1"),
    ]


def test_a_value_is_as_old_as_its_stamp_and_after_a_while_none(cray: Cray) -> None:
    source = cray.open()
    cray.run(1, 500)
    assert readings(source)["cray-node"].age_ns == 0
    cray.wait(3)
    assert readings(source)["cray-node"].age_ns == 3_000_000_000
    cray.wait(8)
    assert set(failures(source).values()) == {"stale"}
    cray.run(1, 500)
    assert readings(source)["cray-node"].age_ns == 0


def test_values_without_a_stamp_are_of_now(cray: Cray) -> None:
    cray.write("energy", "77 J")
    source = cray.open()
    source.read()
    cray.wait(60)
    assert readings(source)["cray-node"] == MeterReading(
        meter="cray-node", counter_uj=77_000_000, power_mw=451_000, epoch=readings(source)["cray-node"].epoch
    )


def test_the_epoch_is_the_boot_and_the_start_of_the_controller(cray: Cray) -> None:
    def epoch() -> str:
        (one,) = {one.epoch for one in readings(source).values()}
        return one

    source = cray.open()
    first = epoch()
    cray.run(1, 500)
    cray.write("generation", "22")
    (cray.root / "startup").unlink()
    assert epoch() == first
    cray.write("startup", "1734094999000000")
    assert epoch() != first


def test_a_gauge_that_fails_or_says_0_leaves_the_counter(cray: Cray) -> None:
    source = cray.open()
    cray.power[""].fault("rubbish")
    cray.power["cpu_"].fault("zero")
    told = readings(source)
    assert (told["cray-node"].power_mw, told["cray-cpu"].power_mw) == (None, None)
    assert told["cray-node"].counter_uj == SAMPLE[""][0] * 1_000_000


def test_a_node_without_gauges_counts(tmp_path: Path) -> None:
    cray = Cray(tmp_path, files=("",))
    cray.power[""].path.unlink()
    assert readings(cray.open())["cray-node"].power_mw is None


@pytest.mark.parametrize(
    ("fault", "code"),
    [("fails", "read_failed"), ("gone", "sensor_gone"), ("rubbish", "read_failed"), ("negative", "read_failed")],
)
def test_a_counter_that_fails_fails_alone_and_mends(cray: Cray, fault: str, code: str) -> None:
    source = cray.open()
    cray.energy["cpu_"].fault(fault)
    assert failures(source) == {"cray-cpu": code}
    cray.energy["cpu_"].mend()
    assert not failures(source)


def test_the_power_cap_is_the_node_s_limit(cray: Cray) -> None:
    cray.write("power_cap", "2000 W 1734094386309238 us")
    found = meters(cray.open())
    assert (found["cray-node"].power_limit_mw, found["cray-cpu"].power_limit_mw) == (2_000_000, 0)


@given(st.integers(0, 2**63), st.integers(0, 2**63))
def test_a_text_is_its_number_and_stamp(number: int, stamp_us: int) -> None:
    assert value_of(f"{number} J {stamp_us} us", "J") == Value(number, stamp_us)
    assert value_of(f"{number} W", "W") == Value(number, None)


@pytest.mark.parametrize("text", ["", "5", "5 W 1 us", "-5 J 1 us", "5.5 J", "5 J 1 ms", "nan J"])
def test_a_text_of_another_form_or_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no number of J"):
        value_of(text, "J")


def test_a_host_that_is_no_cray_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable) as raised:
        cray_pm_counters.open({"root": str(tmp_path / "none")})
    assert raised.value.code == "absent"


def test_opened_by_its_config_it_reads(cray: Cray) -> None:
    assert "cray-node" in readings(cray_pm_counters.open(cray.table))


@pytest.fixture
def as_nobody() -> Iterator[Cray]:
    """A tree below folders that everybody may enter, so that only a file's own bits decide."""
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody who may not read another's file")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Cray(Path(folder))


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root's right to read everything set aside."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_missing_right_is_told(as_nobody: Cray) -> None:
    as_nobody.energy[""].path.chmod(0o400)
    with unprivileged(), pytest.raises(SourceUnavailable) as raised:
        as_nobody.open()
    assert raised.value.code == "permission"


@pytest.mark.parametrize("table", [{"path": "/sys"}, {"period_s": 0}, {"accelerators": "GPU-a"}])
def test_a_config_that_cannot_be_used_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cray_pm_counters"):
        cray_pm_counters.open(table)
