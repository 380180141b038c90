"""The RAPL source on a powercap tree of real files, made by the test."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.powercap import AMD_UJ, INTEL_DRAM_UJ, INTEL_UJ, Tree
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import Source, SourceUnavailable
from joulefleet_plugins.meters import rapl

NOBODY = 65_534


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def two_sockets(tree: Tree) -> Tree:
    tree.add_two_sockets()
    return tree


def meters(source: Source) -> dict[str, Meter]:
    return {one.id: one for one in source.declares if isinstance(one, Meter)}


def counters(source: Source) -> dict[str, int | None]:
    readings = source.read()
    assert all(isinstance(one, MeterReading) for one in readings), readings
    return {one.meter: one.counter_uj for one in readings if isinstance(one, MeterReading)}


def failures(source: Source) -> dict[str, str]:
    return {one.subject: one.code for one in source.read() if isinstance(one, Failure)}


def test_every_zone_is_declared_once_and_read(two_sockets: Tree) -> None:
    source = two_sockets.open()
    assert counters(source) == {
        "package-0": 10,
        "package-0/dram": 20,
        "package-0/core": 30,
        "package-1": 11,
        "package-1/dram": 21,
        "package-1/core": 31,
        "psys": 40,
    }
    assert list(meters(source)) == list(counters(source))


def test_a_package_is_declared_with_all_that_accounting_needs(two_sockets: Tree) -> None:
    assert meters(two_sockets.open())["package-0"] == Meter(
        id="package-0",
        kind="cpu_package",
        grade="counter",
        sensor_class="onboard",
        device="package-0",
        resolution_uj=62,
        refresh_ns=1_000_000,
        period_ns=1_000_000_000,
        max_power_mw=350_000,
        modulus_uj=INTEL_UJ,
    )


def test_what_contains_what(two_sockets: Tree) -> None:
    found = meters(two_sockets.open())
    assert found["package-0/core"].inside == "package-0"
    assert found["package-0/core"].kind == "cpu_core"
    assert (found["package-0/dram"].kind, found["package-0/dram"].inside) == ("dram", "")
    assert found["psys"].contains == ("cpu_package", "dram", "cpu_core")
    assert not any(found[zone].contains for zone in found if zone != "psys")


def test_uncore_is_inside_its_package_and_other_names_are_no_meters(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0")
    tree.zone("intel-rapl:0:0", "uncore")
    tree.zone("intel-rapl:0:1", "something-new")
    (tree.root / "intel-rapl:9").mkdir()
    found = meters(tree.open())
    assert list(found) == ["package-0", "package-0/uncore"]
    assert found["package-0/uncore"].inside == "package-0"


def test_dies_of_a_package_are_meters_of_their_own(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0-die-0", 5)
    tree.zone("intel-rapl:1", "package-0-die-1", 7)
    assert counters(tree.open()) == {"package-0-die-0": 5, "package-0-die-1": 7}


@pytest.mark.parametrize("vendor", ["AuthenticAMD", "HygonGenuine"])
def test_dies_that_show_one_register_are_one_meter(tree: Tree, vendor: str) -> None:
    tree.made_by(vendor)
    for number in range(16):
        package, die = divmod(number, 8)
        tree.zone(f"intel-rapl:{number:x}", f"package-{package}-die-{die}", 100 + package)
        tree.zone(f"intel-rapl:{number:x}:0", "core", 10 + package)
    source = tree.open()
    assert counters(source) == {"package-0": 100, "package-0/core": 10, "package-1": 101, "package-1/core": 11}
    assert meters(source)["package-1/core"].inside == "package-1"


def test_eleven_packages_keep_their_order_and_names(tree: Tree) -> None:
    for number in range(11):
        tree.zone(f"intel-rapl:{number:x}", f"package-{number}", number)
    assert counters(tree.open()) == {f"package-{number}": number for number in range(11)}


def test_memory_mapped_zones_alone_are_used(tree: Tree) -> None:
    tree.zone("intel-rapl-mmio:0", "package-0", 5)
    assert counters(tree.open()) == {"package-0": 5}


def test_two_zones_of_one_name_are_both_there(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "psys", 5)
    tree.zone("intel-rapl:1", "psys", 7)
    assert counters(tree.open()) == {"psys": 5, "psys@intel-rapl:1": 7}


def test_the_epoch_is_the_boot(two_sockets: Tree) -> None:
    assert {one.epoch for one in two_sockets.open().read() if isinstance(one, MeterReading)} == {"5c9e2b3a-boot"}
    two_sockets.boot_id.write_text("another\n")
    assert {one.epoch for one in two_sockets.open().read() if isinstance(one, MeterReading)} == {"another"}


def test_without_a_boot_id_a_reboot_would_look_like_a_wrap(two_sockets: Tree) -> None:
    two_sockets.boot_id.unlink()
    with pytest.raises(SourceUnavailable) as raised:
        two_sockets.open()
    assert raised.value.code == "boot_id"
    assert str(two_sockets.boot_id) in raised.value.detail


@given(values_uj=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=8))
def test_whatever_the_counter_says_is_handed_on(values_uj: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        counter = tree.zone("intel-rapl:0", "package-0")
        source = tree.open()
        for value_uj in values_uj:
            counter.write_text(f"{value_uj}\n")
            assert counters(source) == {"package-0": value_uj}


@given(
    range_uj=st.sampled_from([0, INTEL_UJ, AMD_UJ, INTEL_DRAM_UJ, 1_000_000]),
    rated_uw=st.integers(0, 5_000_000_000),
    period_s=st.floats(0.01, 3600),
)
def test_the_period_is_below_half_a_wrap_at_the_highest_accepted_power(
    range_uj: int, rated_uw: int, period_s: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        tree.zone("intel-rapl:0", "package-0", range_uj=range_uj, constraint_0_max_power_uw=rated_uw)
        source = tree.open(period_s=period_s)
        meter = meters(source)["package-0"]
    assert meter.period_ns == source.period_ns <= round(period_s * 1e9)
    if range_uj:
        wrap_ns = range_uj * 10**6 / (1.2 * meter.max_power_mw)
        assert source.period_ns <= wrap_ns / 2
    else:
        assert source.period_ns == round(period_s * 1e9)


def test_the_period_of_an_amd_package_is_the_config_s_until_it_is_too_long(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0", range_uj=AMD_UJ)
    assert tree.open(period_s=30.0).period_ns == 30_000_000_000
    # 65.5 kJ at 1.2 times 800 W: 68.3 s.
    assert tree.open(period_s=60.0).period_ns == pytest.approx(34_131_568_222, abs=1)


def test_a_range_of_zero_is_no_modulus(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0", range_uj=0)
    tree.zone("intel-rapl:1", "package-1", range_uj=None)
    found = meters(tree.open())
    assert [(one.modulus_uj, one.resolution_uj) for one in found.values()] == [(0, 62), (0, 62)]


def test_the_step_follows_from_the_range(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0", range_uj=AMD_UJ)
    assert meters(tree.open())["package-0"].resolution_uj == 16


@pytest.mark.parametrize(
    ("name", "constraints", "max_power_mw"),
    [
        ("package-0", {}, 800_000),
        ("package-0", {"constraint_0_max_power_uw": 0}, 800_000),
        ("package-0", {"constraint_0_max_power_uw": 165_000_000}, 165_000),
        ("package-0", {"constraint_0_max_power_uw": 15_000_000, "constraint_1_power_limit_uw": 51_000_000}, 51_000),
        ("package-0", {"constraint_0_max_power_uw": 1_000_000, "constraint_0_power_limit_uw": 4_095_875_000}, 800_000),
        ("package-0", {"constraint_0_max_power_uw": 0, "constraint_0_power_limit_uw": 150_000_000}, 800_000),
        ("dram", {}, 160_000),
        ("dram", {"constraint_0_max_power_uw": 41_250_000}, 160_000),
        ("psys", {}, 10_000_000),
    ],
)
def test_maximum_power_is_what_the_zone_tells_within_a_bound(
    tree: Tree, name: str, constraints: dict[str, int], max_power_mw: int
) -> None:
    tree.zone("intel-rapl:0", name, **constraints)
    assert meters(tree.open())[name].max_power_mw == max_power_mw


def test_a_disabled_zone_that_stands_still_is_no_zero(tree: Tree) -> None:
    counter = tree.zone("intel-rapl:0", "package-0", 7, enabled=0)
    source = tree.open()
    assert failures(source) == {"package-0": "disabled"}
    counter.write_text("9\n")
    assert counters(source) == {"package-0": 9}
    assert counters(source) == {"package-0": 9}


def test_an_enabled_zone_that_stands_still_is_read(tree: Tree) -> None:
    tree.zone("intel-rapl:0", "package-0", 7)
    assert counters(tree.open()) == {"package-0": 7}


def test_a_descriptor_that_goes_bad_is_opened_again_where_the_zone_is_now(two_sockets: Tree) -> None:
    source = two_sockets.open()
    # What a reload of the module does: descriptors fail, and the zones come back under other numbers.
    close_under_its_reader(two_sockets.root / "intel-rapl:1" / "energy_uj")
    (two_sockets.root / "intel-rapl:1").rename(two_sockets.root / "intel-rapl:7")
    (two_sockets.root / "intel-rapl:7" / "energy_uj").write_text("77\n")
    assert counters(source)["package-1"] == 77
    assert counters(source)["package-0"] == 10


def test_a_zone_that_is_gone_fails_alone_and_is_found_when_it_comes_back(two_sockets: Tree) -> None:
    source = two_sockets.open()
    close_under_its_reader(two_sockets.root / "intel-rapl:1" / "energy_uj")
    (two_sockets.root / "intel-rapl:1").rename(two_sockets.root / "gone")
    assert failures(source) == {"package-1": "zone_gone"}
    assert failures(source) == {"package-1": "zone_gone"}
    (two_sockets.root / "gone").rename(two_sockets.root / "intel-rapl:1")
    assert counters(source)["package-1"] == 11


@pytest.mark.parametrize("text", ["", "N/A\n", "-5\n"])
def test_a_counter_without_a_number_fails_alone(two_sockets: Tree, text: str) -> None:
    source = two_sockets.open()
    (two_sockets.root / "intel-rapl:0" / "energy_uj").write_text(text)
    assert failures(source) == {"package-0": "read_failed"}
    (two_sockets.root / "intel-rapl:0" / "energy_uj").write_text("12\n")
    assert counters(source)["package-0"] == 12


def test_a_counter_without_a_number_at_the_start_makes_the_source_unavailable(two_sockets: Tree) -> None:
    (two_sockets.root / "intel-rapl:0" / "energy_uj").write_text("")
    with pytest.raises(SourceUnavailable) as raised:
        two_sockets.open()
    assert raised.value.code == "read_failed"


@pytest.mark.parametrize("root", ["powercap", "nowhere", "boot_id"])
def test_a_host_without_zones_is_unavailable(tree: Tree, root: str) -> None:
    with pytest.raises(SourceUnavailable) as raised:
        tree.open(root=str(tree.root.parent / root))
    assert raised.value.code == "absent"
    assert "modprobe intel_rapl_msr" in raised.value.mend


def test_a_missing_right_is_told_with_the_way_to_grant_it(as_nobody: Tree) -> None:
    counter = as_nobody.zone("intel-rapl:0", "package-0")
    counter.chmod(0o400)
    with unprivileged(), pytest.raises(SourceUnavailable) as raised:
        as_nobody.open()
    assert raised.value.code == "permission"
    assert str(counter) in raised.value.detail
    assert f"`z {as_nobody.root}/*/energy_uj 0440 root joulefleet`" in raised.value.mend
    assert "CAP_DAC_READ_SEARCH" in raised.value.mend


def test_a_right_that_is_lost_while_it_runs_is_a_failure(as_nobody: Tree) -> None:
    counter = as_nobody.zone("intel-rapl:0", "package-0")
    source = as_nobody.open()
    close_under_its_reader(counter)
    counter.chmod(0o400)
    with unprivileged():
        assert failures(source) == {"package-0": "permission"}


@pytest.mark.parametrize("table", [{"path": "/sys"}, {"period_s": "1"}, {"period_s": 0}])
def test_a_config_that_cannot_be_used_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="rapl"):
        rapl.open(table)


def close_under_its_reader(file: Path) -> None:
    """Make this process's descriptor of the file bad, as the kernel does when the module is unloaded."""
    for entry in Path("/proc/self/fd").iterdir():
        if entry.is_symlink() and entry.readlink() == file:
            os.close(int(entry.name))
            return
    raise AssertionError(f"{file} is not held open")


@pytest.fixture
def as_nobody() -> Iterator[Tree]:
    """A tree below folders that everybody may enter, so that only the counter's own bits decide."""
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody who may not read another's file")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Tree(Path(folder))


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root's right to read everything set aside."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
