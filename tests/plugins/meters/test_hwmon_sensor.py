"""Sensors under hwmon are listed with what they are known by, on a tree of files made by the test."""

from pathlib import Path
from typing import Any

import pytest

from fixtures.hwmon import Hwmon
from joulefleet_plugins.meters.hwmon_sensor import Sensor, finder, sensors


@pytest.fixture
def tree(tmp_path: Path) -> Hwmon:
    return Hwmon(tmp_path)


def listed(tree: Hwmon) -> list[Sensor]:
    return list(sensors(tree.root))


def test_channels_are_listed_in_the_order_of_drivers_and_devices(tree: Hwmon) -> None:
    tree.add(1, "xe", "0000:04:00.0", energy2_input=2, energy1_input=1, temp1_input=3)
    tree.add(2, "amdgpu", "0000:c2:00.0", power1_average=1, power1_input=2)
    tree.add(3, "amdgpu", "0000:c1:00.0", power1_input=2)
    tree.add(4, "coretemp", "coretemp.0", temp1_input=3)
    assert [(one.id, one.file) for one in listed(tree)] == [
        ("amdgpu-0000:c1:00.0", "power1_input"),
        ("amdgpu-0000:c2:00.0", "power1_average"),
        ("xe-0000:04:00.0", "energy1_input"),
        ("xe-0000:04:00.0/energy2", "energy2_input"),
    ]


def test_a_second_channel_alone_is_the_device_s_own(tree: Hwmon) -> None:
    tree.add(1, "xe", "0000:04:00.1", energy2_input=2)
    (sensor,) = listed(tree)
    assert (sensor.is_first, sensor.id, sensor.identity) == (True, "xe-0000:04:00.1", "0000:04:00.0")


def test_what_is_no_card_has_no_identity(tree: Hwmon) -> None:
    tree.add(1, "ina226", "1-0040", power1_input=2)
    folder = tree.add(2, "virtual", "none", power1_input=2)
    (folder / "device").unlink()
    assert [(one.id, one.identity) for one in listed(tree)] == [("ina226-1-0040", ""), ("virtual", "")]


def test_a_card_is_named_by_its_product_or_by_its_numbers(tree: Hwmon) -> None:
    folder = tree.add(1, "amdgpu", "0000:c1:00.0", pci="0x1002:0x74a1", power1_input=2)
    (sensor,) = listed(tree)
    assert (sensor.pci, sensor.hw_model) == ("0x1002:0x74a1", "amdgpu 0x1002:0x74a1")
    (folder / "device" / "product_name").write_text("AMD Instinct MI300X OAM\n")
    assert sensor.hw_model == "AMD Instinct MI300X OAM"


def test_the_highest_limit_of_its_channel_is_told(tree: Hwmon) -> None:
    limits: dict[str, Any] = {"power1_max": 200_000_000, "power1_cap": 300_000_000, "power2_cap_max": 900_000_000}
    tree.add(1, "xe", "0000:04:00.0", energy1_input=1, **limits)
    tree.add(2, "xe", "0000:05:00.0", energy1_input=1, power1_max=0)
    assert [one.told_mw for one in listed(tree)] == [300_000, 0]


def test_an_error_of_the_driver_is_told_by_its_number(tree: Hwmon) -> None:
    folder = tree.add(1, "xe", "0000:04:00.0", energy1_input=1)
    (sensor,) = listed(tree)
    assert sensor.error == 0
    (folder / sensor.file).unlink()
    assert sensor.error != 0


def test_a_sensor_is_found_under_another_number_and_no_other_is(tree: Hwmon) -> None:
    folder = tree.add(1, "xe", "0000:04:00.0", energy1_input=1)
    tree.add(2, "xe", "0000:05:00.0", energy1_input=2)
    find = finder(tree.root, listed(tree)[0])
    moved = tree.renumber(folder, 7)
    assert find().resolve() == moved / "energy1_input"
    (tree.root / "hwmon7").unlink()
    with pytest.raises(FileNotFoundError, match=r"xe 0000:04:00\.0"):
        find()
