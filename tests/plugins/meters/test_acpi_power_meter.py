"""Rails of Grace and the input of a server, read from ACPI power meters that are files made by the test."""

from pathlib import Path
from typing import Any

import pytest

from fixtures.acpi_power import GRACE, AcpiPower
from fixtures.sysfs import lose
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import Source, SourceUnavailable
from joulefleet.units import s_to_ns
from joulefleet.window import MeterWindow
from joulefleet_collector.account.cover import covers
from joulefleet_plugins.meters import acpi_power_meter

W = 1_000_000


@pytest.fixture
def tree(tmp_path: Path) -> AcpiPower:
    return AcpiPower(tmp_path)


@pytest.fixture
def two_sockets(tree: AcpiPower) -> AcpiPower:
    """Watts as a GB200 told them, in an order that its rails do not follow."""
    watts = {"Module": 1_400, "Grace": 104, "CPU": 53, "SysIO": 6}
    for socket in (0, 1):
        for place, rail in enumerate(reversed(GRACE)):
            tree.add(1 + 4 * socket + place, f"{rail} Power Socket {socket}", (watts[rail] + socket) * W)
    return tree


def meters(source: Source) -> dict[str, Meter]:
    return {one.id: one for one in source.declares if isinstance(one, Meter)}


def powers(source: Source) -> dict[str, int | None]:
    return {one.meter: one.power_mw for one in source.read() if isinstance(one, MeterReading)}


def failures(source: Source) -> dict[str, str]:
    return {one.subject: one.code for one in source.read() if isinstance(one, Failure)}


def covered(*declared: Meter) -> dict[str, list[str]]:
    windows = [MeterWindow(meter=one, first_uj=0, last_uj=0) for one in declared]
    return {cover.boundary: sorted(one.meter.id for one in cover.meters) for cover in covers(windows, s_to_ns(60))}


def test_every_rail_of_every_socket_is_read(two_sockets: AcpiPower) -> None:
    assert powers(two_sockets.open()) == {
        "acpi-module-0": 1_400_000,
        "acpi-grace-0": 104_000,
        "acpi-cpu-0": 53_000,
        "acpi-sysio-0": 6_000,
        "acpi-module-1": 1_401_000,
        "acpi-grace-1": 105_000,
        "acpi-cpu-1": 54_000,
        "acpi-sysio-1": 7_000,
    }


def test_the_rails_of_a_socket_lie_in_one_another(two_sockets: AcpiPower) -> None:
    found = meters(two_sockets.open())
    assert {name: (one.kind, one.inside, one.device) for name, one in found.items() if name.endswith("1")} == {
        "acpi-module-1": ("psys", "", "module-1"),
        "acpi-grace-1": ("cpu_package", "", "package-1"),
        "acpi-cpu-1": ("cpu_package", "acpi-grace-1", "package-1/cpu"),
        "acpi-sysio-1": ("cpu_core", "acpi-grace-1", "package-1/sysio"),
    }
    assert found["acpi-grace-0"] == Meter(
        id="acpi-grace-0",
        kind="cpu_package",
        grade="integrated",
        sensor_class="onboard",
        contains=("cpu_core", "dram"),
        device="package-0",
        refresh_ns=50_000_000,
        period_ns=1_000_000_000,
        max_power_mw=700_000,
    )


def test_a_module_holds_all_accelerators_only_where_it_is_the_only_one(tree: AcpiPower) -> None:
    tree.add(0, "Module Power Socket 0", 900 * W)
    assert "accelerator" in meters(tree.open())["acpi-module-0"].contains
    tree.add(1, "Module Power Socket 1", 900 * W)
    assert {one.contains for one in meters(tree.open()).values()} == {()}


def test_boundaries_take_the_sockets_once_beside_boards_and_modules_of_other_sources(two_sockets: AcpiPower) -> None:
    rails = meters(two_sockets.open()).values()
    board: dict[str, Any] = {"grade": "counter", "sensor_class": "onboard"}
    gpus = [Meter(id=f"GPU-{n}", kind="accelerator", device=f"GPU-{n}", **board) for n in range(4)]
    ids = ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]
    assert covered(*rails) == {"compute": ["acpi-grace-0", "acpi-grace-1"]}
    assert covered(*rails, *gpus) == {"accelerator": ids, "compute": [*ids, "acpi-grace-0", "acpi-grace-1"]}
    module = Meter(id="GPU-0", kind="module", contains=("accelerator", "cpu_package", "dram"), **board)
    assert covered(*rails, module) == {"compute": ["GPU-0"]}


@pytest.mark.parametrize(
    ("label", "meter"),
    [
        ("Grace Power Socket 0", "acpi-grace-0"),
        ("Total Power in uW socket 0", "acpi-grace-0"),
        ("Total Input Power in uW socket 1", "acpi-grace-1"),
        ("CPU Rail Input Power in uW socket 1", "acpi-cpu-1"),
        ("SoC Rail Power in uW Socket 2", "acpi-sysio-2"),
        ("SysIO Power Socket 3", "acpi-sysio-3"),
        ("DRAM Input Power in uW Socket 0", "acpi-dram-0"),
        ("Module Power Socket 10", "acpi-module-10"),
    ],
)
def test_labels_of_several_firmwares_name_the_same_rails(tree: AcpiPower, label: str, meter: str) -> None:
    tree.add(0, label, 50 * W)
    assert list(meters(tree.open())) == [meter]


def test_without_a_rail_of_the_socket_its_processor_is_the_package(tree: AcpiPower) -> None:
    tree.add(0, "CPU Power Socket 0", 50 * W)
    (cpu,) = meters(tree.open()).values()
    assert (cpu.kind, cpu.inside, cpu.device) == ("cpu_package", "", "package-0")


def test_files_beside_the_name_are_read_too(tree: AcpiPower) -> None:
    tree.add(0, "Grace Power Socket 0", 50 * W, beside_name=True)
    assert powers(tree.open()) == {"acpi-grace-0": 50_000}


def test_interval_cap_and_limit_are_declared(tree: AcpiPower) -> None:
    tree.add(0, "Grace Power Socket 0", 50 * W, average_interval=1_000, cap=400 * W, cap_max=500 * W)
    tree.add(1, "Grace Power Socket 1", 50 * W, average_interval=0, cap=0, cap_max=10**15)
    first, second = meters(tree.open()).values()
    assert (first.refresh_ns, first.power_limit_mw, first.max_power_mw) == (1_000_000_000, 400_000, 500_000)
    assert (second.refresh_ns, second.power_limit_mw, second.max_power_mw) == (1_000_000_000, 0, 700_000)


@pytest.mark.parametrize("power_uw", [0, 4_294_967_295_000])
def test_what_firmware_says_that_has_no_value_is_no_power(tree: AcpiPower, power_uw: int) -> None:
    tree.add(0, "Grace Power Socket 0", power_uw)
    assert failures(tree.open()) == {"acpi-grace-0": "no_value"}


def test_a_meter_that_names_no_rail_is_the_server_s_input(tree: AcpiPower) -> None:
    tree.add(0, "", 412 * W)
    source = tree.open()
    assert powers(source) == {"acpi-server": 412_000}
    (meter,) = meters(source).values()
    assert (meter.kind, meter.sensor_class, meter.current) == ("server", "platform", "ac")


def test_a_meter_of_something_else_is_left_out_beside_rails(two_sockets: AcpiPower) -> None:
    two_sockets.add(20, "NVSwitch Power", 90 * W)
    assert len(meters(two_sockets.open())) == 8
    assert "acpi-server" in meters(two_sockets.open(server="ACPI000D:20"))


def test_of_several_meters_without_a_rail_one_has_to_be_named(tree: AcpiPower) -> None:
    tree.add(0, "", 412 * W)
    tree.add(1, "chassis", 1_412 * W)
    with pytest.raises(SourceUnavailable) as raised:
        tree.open()
    assert raised.value.code == "ambiguous"
    assert "ACPI000D:01 chassis" in raised.value.detail
    assert 'server = "ACPI000D:00"' in raised.value.mend
    assert powers(tree.open(server="ACPI000D:01")) == {"acpi-server": 1_412_000}
    with pytest.raises(SourceUnavailable, match="no ACPI power meter ACPI000D:07"):
        tree.open(server="ACPI000D:07")


def test_a_battery_is_no_meter(tree: AcpiPower) -> None:
    tree.add(0, "", 412 * W, is_battery=1)
    with pytest.raises(SourceUnavailable):
        tree.open()


def test_a_rail_is_found_again_where_its_driver_is_now(tree: AcpiPower) -> None:
    rails = [tree.add(n, f"Grace Power Socket {n}", (50 + n) * W, beside_name=True) for n in (0, 1)]
    source = tree.open()
    source.read()
    for rail in rails:
        lose(rail.path)
    for old, new in ((0, 7), (1, 0)):
        tree.renumber(old, new)
    assert powers(source) == {"acpi-grace-0": 50_000, "acpi-grace-1": 51_000}


@pytest.mark.parametrize(
    ("fault", "code"),
    [("fails", "read_failed"), ("gone", "sensor_gone"), ("rubbish", "read_failed"), ("negative", "read_failed")],
)
def test_a_rail_that_fails_fails_alone_and_mends(tree: AcpiPower, fault: str, code: str) -> None:
    rail = tree.add(0, "Grace Power Socket 0", 50 * W)
    tree.add(1, "Grace Power Socket 1", 51 * W)
    source = tree.open()
    rail.fault(fault)
    assert failures(source) == {"acpi-grace-0": code}
    assert powers(source) == {"acpi-grace-1": 51_000}
    rail.mend()
    assert powers(source) == {"acpi-grace-0": 50_000, "acpi-grace-1": 51_000}


def test_a_host_without_power_meters_is_unavailable(tree: AcpiPower) -> None:
    with pytest.raises(SourceUnavailable) as raised:
        tree.open()
    assert raised.value.code == "absent"
    assert "acpi_power_meter.force_cap_on=y" in raised.value.mend


@pytest.mark.parametrize("table", [{"path": "/sys"}, {"period_s": 0}, {"server": 1}])
def test_a_config_that_cannot_be_used_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="acpi_power_meter"):
        acpi_power_meter.open(table)


def test_other_numbers_of_a_socket_that_firmware_shows_as_power_meters_are_none(tree: AcpiPower) -> None:
    labels = {
        "Total Power in uW socket 0": 150,
        "CPU Rail Input Power in uW socket 0": 70,
        "CPU Rail Output Power in uW socket 0": 55,
        "Total CPU Energy In uJ socket 0": 98_570_000,
        "Chipthrot DDR Throttle (samples x1000) socket 0": 2,
        "Module Socket A": 1,
    }
    for number, (label, power_w) in enumerate(labels.items()):
        tree.add(number, label, power_w * 10**6)
    told = {one.meter: one.power_mw for one in tree.open().read() if isinstance(one, MeterReading)}
    assert told == {"acpi-grace-0": 150_000, "acpi-cpu-0": 70_000}
