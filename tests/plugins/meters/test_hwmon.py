"""Known and named sensors of a tree of hwmon, made of files by the test."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.hwmon import Hwmon
from fixtures.sysfs import lose
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import Source, SourceUnavailable
from joulefleet.units import s_to_ns
from joulefleet.window import MeterWindow
from joulefleet_collector.account.cover import covers
from joulefleet_plugins.meters import hwmon
from joulefleet_plugins.meters.hwmon_sensor import Sensor

NOBODY = 65_534
W = 1_000_000


@pytest.fixture
def tree(tmp_path: Path) -> Hwmon:
    return Hwmon(tmp_path)


def meters(source: Source) -> dict[str, Meter]:
    return {one.id: one for one in source.declares if isinstance(one, Meter)}


def powers(source: Source) -> dict[str, int | None]:
    return {one.meter: one.power_mw for one in source.read() if isinstance(one, MeterReading)}


def counters(source: Source) -> dict[str, int | None]:
    return {one.meter: one.counter_uj for one in source.read() if isinstance(one, MeterReading)}


def epochs(source: Source) -> list[str]:
    return [one.epoch for one in source.read() if isinstance(one, MeterReading)]


def failures(source: Source) -> dict[str, str]:
    return {one.subject: one.code for one in source.read() if isinstance(one, Failure)}


@pytest.mark.parametrize("file", ["power1_average", "power1_input"])
def test_an_amd_board_tells_its_power_in_one_of_two_files(tree: Hwmon, file: str) -> None:
    limits: dict[str, Any] = {"power1_cap": 700 * W, "power1_cap_max": 750 * W}
    board = tree.sensor(2, "amdgpu", "0000:c1:00.0", file, 94 * W, pci="0x1002:0x74a1", power1_label="PPT", **limits)
    source = tree.open()
    assert meters(source) == {
        "amdgpu-0000:c1:00.0": Meter(
            id="amdgpu-0000:c1:00.0",
            kind="accelerator",
            grade="integrated",
            sensor_class="onboard",
            device="0000:c1:00.0",
            hw_model="amdgpu 0x1002:0x74a1",
            refresh_ns=1_000_000_000,
            period_ns=1_000_000_000,
            max_power_mw=750_000,
            power_limit_mw=700_000,
        )
    }
    assert powers(source) == {"amdgpu-0000:c1:00.0": 94_000}
    board.show(0)
    assert failures(source) == {"amdgpu-0000:c1:00.0": "no_value"}


def test_a_card_is_one_thing_whatever_function_tells_of_it(tree: Hwmon) -> None:
    tree.sensor(0, "amdgpu", "0000:c1:00.0", "power1_input", 94 * W)
    tree.sensor(1, "amdgpu", "0000:c1:00.1", "power1_input", 94 * W)
    found = meters(tree.open())
    assert list(found) == ["amdgpu-0000:c1:00.0", "amdgpu-0000:c1:00.1"]
    assert {one.device for one in found.values()} == {"0000:c1:00.0"}


def test_the_second_die_of_a_board_and_graphics_in_a_processor_are_no_meters(tree: Hwmon) -> None:
    mi250: dict[str, Any] = {"pci": "0x1002:0x740c"}
    tree.sensor(0, "amdgpu", "0000:c1:00.0", "power1_average", 94 * W, power1_cap=560 * W, **mi250)
    tree.sensor(1, "amdgpu", "0000:c6:00.0", "power1_average", 0, power1_cap=0, **mi250)
    tree.sensor(2, "amdgpu", "0000:04:00.0", "power1_average", 40 * W, in1_label="vddnb", pci="0x1002:0x164e")
    assert list(meters(tree.open())) == ["amdgpu-0000:c1:00.0"]


def test_a_processor_with_graphics_and_memory_in_one_figure_is_a_module(tree: Hwmon) -> None:
    tree.sensor(0, "amdgpu", "0000:01:00.0", "power1_input", 94 * W, pci="0x1002:0x74a0")
    (module,) = meters(tree.open()).values()
    assert (module.kind, module.device) == ("module", "0000:01:00.0")
    assert set(module.contains) == {"accelerator", "cpu_package", "cpu_core", "dram"}


def test_the_counter_of_an_intel_card_contains_that_of_its_package(tree: Hwmon) -> None:
    files: dict[str, Any] = {
        "energy2_input": 300,
        "energy1_label": "card",
        "energy2_label": "pkg",
        "power1_rated_max": 300 * W,
    }
    card = tree.sensor(3, "xe", "0000:03:00.0", "energy1_input", 500, pci="0x8086:0x56c0", **files)
    source = tree.open()
    assert counters(source) == {"xe-0000:03:00.0": 500, "xe-0000:03:00.0/energy2": 300}
    whole, part = meters(source).values()
    assert (whole.kind, whole.grade, whole.device, whole.max_power_mw) == (
        "accelerator",
        "counter",
        "0000:03:00.0",
        300_000,
    )
    assert (part.kind, part.inside, part.device) == ("accelerator", whole.id, "0000:03:00.0/energy2")
    (cover,) = covers([MeterWindow(meter=one, first_uj=0, last_uj=0) for one in (part, whole)], s_to_ns(60))
    assert [one.meter.id for one in cover.meters] == [whole.id]
    card.show(900)
    assert counters(source)[whole.id] == 900


def test_a_card_that_counts_its_package_alone_is_known_by_that(tree: Hwmon) -> None:
    tree.sensor(3, "xe", "0000:03:00.0", "energy2_input", 500, energy2_label="pkg")
    (card,) = meters(tree.open()).values()
    assert (card.id, card.inside, card.device) == ("xe-0000:03:00.0", "", "0000:03:00.0")


def test_tiles_of_an_intel_card_are_no_meters_of_their_own(tree: Hwmon) -> None:
    tree.sensor(3, "i915", "0000:03:00.0", "energy1_input", 500)
    tree.sensor(4, "i915_gt0", "0000:03:00.0", "energy1_input", 200)
    assert list(meters(tree.open())) == ["i915-0000:03:00.0"]


def test_a_tenstorrent_chip_tells_that_it_is_not_the_whole_card(tree: Hwmon) -> None:
    tree.sensor(5, "wormhole", "0000:05:00.0", "power1_input", 24 * W, power1_label="power", power1_max=160 * W)
    (chip,) = meters(tree.open()).values()
    assert "not in it" in chip.basis
    assert (chip.kind, chip.max_power_mw) == ("accelerator", 160_000)


def test_two_chips_behind_one_address_are_two_things(tree: Hwmon) -> None:
    tree.sensor(5, "wormhole", "0000:05:00.0", "power1_input", 24 * W, power2_input=25 * W)
    source = tree.open()
    assert powers(source) == {"wormhole-0000:05:00.0": 24_000, "wormhole-0000:05:00.0/power2": 25_000}
    assert len({one.device for one in meters(source).values()}) == 2


def test_a_qualcomm_card_is_its_board_not_its_chip(tree: Hwmon) -> None:
    tree.sensor(6, "qaic", "0000:07:00.0", "power1_input", 41 * W, power2_input=30 * W, power1_max=75 * W)
    assert powers(tree.open()) == {"qaic-0000:07:00.0": 41_000}


def test_amd_energy_tells_sockets_that_are_packages_of_rapl(tree: Hwmon) -> None:
    files: dict[str, Any] = {"energy1_label": "Ecore000", "energy2_label": "Esocket0", "energy3_label": "Esocket1"}
    tree.sensor(7, "amd_energy", "amd_energy.0", "energy1_input", 5, energy2_input=700, energy3_input=800, **files)
    source = tree.open()
    assert counters(source) == {"amd_energy-amd_energy.0/energy2": 700, "amd_energy-amd_energy.0/energy3": 800}
    assert [(one.kind, one.device) for one in meters(source).values()] == [
        ("cpu_package", "package-0"),
        ("cpu_package", "package-1"),
    ]


def test_all_power_supplies_are_one_meter_and_absent_if_one_is(tree: Hwmon) -> None:
    labels: dict[str, Any] = {
        "power1_label": "pin",
        "power2_label": "pout1",
        "power2_input": 470 * W,
        "power1_rated_max": 3000 * W,
    }
    first = tree.sensor(1, "pfe3000", "3-0058", "power1_input", 500 * W, **labels)
    second = tree.sensor(2, "pfe3000", "3-0059", "power1_input", 430 * W, **labels)
    tree.sensor(3, "adm1272", "5-0010", "power1_input", 300 * W, power1_label="pin")
    source = tree.open()
    assert powers(source) == {"hwmon-input": 930_000}
    (meter,) = meters(source).values()
    assert (meter.kind, meter.sensor_class, meter.current) == ("server", "platform", "ac")
    assert meter.max_power_mw == 6_000_000
    second.fault("gone")
    (failed,) = source.read()
    assert isinstance(failed, Failure)
    assert (failed.subject, failed.code) == ("hwmon-input", "sensor_gone")
    assert "3-0059" in failed.detail
    second.mend()
    first.show(0)
    assert failures(source) == {"hwmon-input": "no_value"}


def test_a_sensor_that_is_not_known_is_a_meter_once_it_is_named(tree: Hwmon) -> None:
    tree.sensor(1, "ina226", "1-0040", "power1_input", 12 * W, power1_label="vdd_mem")
    with pytest.raises(SourceUnavailable, match="ina226 1-0040 vdd_mem") as raised:
        tree.open()
    assert (raised.value.code, "`sensors`" in raised.value.mend) == ("absent", True)
    named = {"name": "ina226", "label": "vdd_mem", "kind": "dram", "device": "package-0/dram", "max_w": 60}
    source = tree.open(sensors=[named])
    (meter,) = meters(source).values()
    assert (meter.kind, meter.device, meter.max_power_mw) == ("dram", "package-0/dram", 60_000)
    assert powers(source) == {"ina226-1-0040": 12_000}


def test_a_named_module_holds_what_is_in_a_module(tree: Hwmon) -> None:
    tree.sensor(1, "ina226", "1-0040", "power1_input", 12 * W)
    (meter,) = meters(tree.open(sensors=[{"name": "ina226", "kind": "module"}])).values()
    assert set(meter.contains) == {"accelerator", "cpu_package", "cpu_core", "dram"}


def test_a_named_sensor_counts_before_the_table_and_only_where_it_is(tree: Hwmon) -> None:
    tree.sensor(1, "amdgpu", "0000:01:00.0", "power1_input", 12 * W)
    tree.sensor(2, "amdgpu", "0000:02:00.0", "power1_input", 13 * W)
    found = meters(tree.open(sensors=[{"name": "amdgpu", "place": "0000:02:00.0", "kind": "cpu_package"}]))
    assert [one.kind for one in found.values()] == ["accelerator", "cpu_package"]


def test_named_inputs_of_the_server_are_summed_apart_by_what_they_are(tree: Hwmon) -> None:
    for place, watts in (("1-0040", 300), ("1-0041", 200)):
        tree.sensor(int(place[-1]), "ltc4282", place, "power1_input", watts * W)
    tree.sensor(7, "aem", "aem.0", "energy1_input", 1_234)
    source = tree.open(sensors=[{"name": name, "kind": "server"} for name in ("ltc4282", "aem")])
    assert powers(source) == {"hwmon-input": 500_000, "hwmon-input-energy": None}
    assert counters(source)["hwmon-input-energy"] == 1_234


def test_a_sensor_is_found_again_where_its_driver_is_now(tree: Hwmon) -> None:
    folder = tree.add(2, "xe", "0000:03:00.0", energy1_input=500)
    other = tree.add(3, "xe", "0000:04:00.0", energy1_input=600)
    source = tree.open()
    before = epochs(source)
    for one in (folder, other):
        lose(one / "energy1_input")
    tree.renumber(folder, 9)
    tree.renumber(other, 2)
    assert counters(source) == {"xe-0000:03:00.0": 500, "xe-0000:04:00.0": 600}
    assert epochs(source) == before


def test_a_counter_that_was_made_anew_has_another_epoch_and_so_has_another_boot(tree: Hwmon) -> None:
    card = tree.sensor(2, "xe", "0000:03:00.0", "energy1_input", 500)
    source = tree.open()
    (before,) = epochs(source)
    assert epochs(tree.open()) == [before]
    lose(card.path)
    card.path.rename(card.path.with_name("old"))
    card.show(3)
    (after,) = epochs(source)
    assert after != before
    tree.boot_id.write_text("boot-2\n")
    assert epochs(tree.open()) != [after]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("fails", "read_failed"),
        ("gone", "sensor_gone"),
        ("rubbish", "read_failed"),
        ("empty", "read_failed"),
        ("nan", "read_failed"),
        ("negative", "read_failed"),
    ],
)
def test_a_sensor_that_fails_fails_alone_and_mends(tree: Hwmon, fault: str, code: str) -> None:
    board = tree.sensor(0, "amdgpu", "0000:c1:00.0", "power1_input", 94 * W)
    tree.sensor(1, "xe", "0000:03:00.0", "energy1_input", 500)
    source = tree.open()
    board.fault(fault)
    assert failures(source) == {"amdgpu-0000:c1:00.0": code}
    assert counters(source) == {"xe-0000:03:00.0": 500}
    board.mend()
    assert powers(source)["amdgpu-0000:c1:00.0"] == 94_000


def test_a_sensor_that_the_device_does_not_have_is_no_meter(tree: Hwmon, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.sensor(0, "amdgpu", "0000:c1:00.0", "power1_input", 94 * W)
    tree.sensor(1, "amdgpu", "0000:c2:00.0", "power1_input", 95 * W)
    errors = {"0000:c1:00.0": errno.EOPNOTSUPP, "0000:c2:00.0": errno.EBUSY}
    monkeypatch.setattr(Sensor, "error", property(lambda sensor: errors[sensor.place]))
    assert list(meters(tree.open())) == ["amdgpu-0000:c2:00.0"]


def test_a_limit_that_cannot_be_is_not_believed(tree: Hwmon) -> None:
    tree.sensor(0, "amdgpu", "0000:c1:00.0", "power1_input", 94 * W, power1_cap_max=10**12)
    (board,) = meters(tree.open()).values()
    assert board.max_power_mw == 2_500_000


@pytest.fixture
def as_nobody() -> Iterator[Hwmon]:
    """A tree below folders that everybody may enter, so that only a file's own bits decide."""
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody who may not read another's file")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Hwmon(Path(folder))


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root's right to read everything set aside."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_missing_right_is_told_with_the_way_to_grant_it(as_nobody: Hwmon) -> None:
    hidden = as_nobody.sensor(0, "xe", "0000:03:00.0", "energy1_input", 500)
    hidden.path.chmod(0o400)
    with unprivileged(), pytest.raises(SourceUnavailable) as raised:
        as_nobody.open()
    assert raised.value.code == "permission"
    assert "chgrp joulefleet" in raised.value.mend


def test_a_missing_right_to_one_sensor_of_several_is_a_failure_of_that_one(as_nobody: Hwmon) -> None:
    hidden = as_nobody.sensor(0, "xe", "0000:03:00.0", "energy1_input", 500)
    as_nobody.sensor(1, "amdgpu", "0000:c1:00.0", "power1_input", 94 * W)
    hidden.path.chmod(0o400)
    with unprivileged():
        source = as_nobody.open()
        assert failures(source) == {"xe-0000:03:00.0": "permission"}
        assert powers(source) == {"amdgpu-0000:c1:00.0": 94_000}


def test_a_host_without_hwmon_is_unavailable(tree: Hwmon) -> None:
    tree.add(0, "coretemp", "coretemp.0", temp1_input=45_000)
    with pytest.raises(SourceUnavailable) as raised:
        tree.open()
    assert raised.value.code == "absent"


@pytest.mark.parametrize(
    "table",
    [{"path": "/sys"}, {"period_s": 0}, {"sensors": [{"name": "ina226"}]}, {"sensors": [{"name": "x", "kind": "y"}]}],
)
def test_a_config_that_cannot_be_used_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="hwmon"):
        hwmon.open(table)
