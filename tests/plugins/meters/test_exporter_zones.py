"""Zones of processors on pages of node_exporter and Kepler, held against what `rapl` declares."""

from collections.abc import Sequence

import pytest

from fixtures.exporter import row
from joulefleet_plugins.interfaces.exposition import Page, Parser
from joulefleet_plugins.meters.exporter_pages import Told
from joulefleet_plugins.meters.exporter_zones import kepler, node_exporter

RANGE_UJ = 65_532_610_987


def page(*lines: str) -> Page:
    return Parser().parse("".join(lines))


def node(zone: str, index: int, folder: str, joules: float = 100.0) -> str:
    labels = {"index": str(index)} | ({"path": f"/host/sys/class/powercap/{folder}"} if folder else {})
    return row(f"node_rapl_{zone}_joules_total", labels, joules)


def by_name(told: Sequence[Told]) -> dict[str, Told]:
    found = {one.meter.device or one.meter.id: one for one in told}
    assert len(found) == len(told)
    return found


def zones(*lines: str) -> dict[str, Told]:
    return by_name(node_exporter(page(*lines), lambda folder: 0))


TWO_SOCKETS = (
    node("package", 1, "intel-rapl:0", 11.5),
    node("package", 0, "intel-rapl:1", 10.5),
    node("core", 0, "intel-rapl:0:0", 1),
    node("dram", 0, "intel-rapl:0:1", 2),
    node("dram", 1, "intel-rapl:1:0", 3),
    node("psys", 0, "intel-rapl:2", 40),
)


def test_zones_have_the_names_that_rapl_has_for_them() -> None:
    found = zones(*TWO_SOCKETS)
    assert {name: one.counter_uj for name, one in found.items()} == {
        "package-1": 11_500_000,
        "package-0": 10_500_000,
        "package-1/core": 1_000_000,
        "package-1/dram": 2_000_000,
        "package-0/dram": 3_000_000,
        "psys": 40_000_000,
    }
    kinds = {name: one.meter.kind for name, one in found.items()}
    assert kinds["package-1/core"] == "cpu_core" and kinds["package-0/dram"] == "dram" and kinds["psys"] == "psys"


def test_cores_are_inside_their_package_and_memory_is_not() -> None:
    found = zones(*TWO_SOCKETS)
    assert found["package-1/core"].meter.inside == found["package-1"].meter.id
    assert found["package-1/dram"].meter.inside == ""
    assert set(found["psys"].meter.contains) == {"cpu_package", "cpu_core", "dram"}


def test_a_zone_that_is_shown_twice_is_one() -> None:
    found = zones(node("package", 0, "intel-rapl:0", 10), node("package", 0, "intel-rapl-mmio:0", 11))
    assert found["package-0"].counter_uj == 10_000_000
    assert zones(node("package", 0, "intel-rapl-mmio:0", 11))["package-0"].counter_uj == 11_000_000


def test_dies_of_a_package_are_zones_of_their_own() -> None:
    found = zones(node("package_0_die_0", 0, "intel-rapl:0"), node("package_0_die_1", 0, "intel-rapl:1"))
    assert {name: one.meter.kind for name, one in found.items()} == dict.fromkeys(
        ("package-0-die-0", "package-0-die-1"), "cpu_package"
    )


def test_one_name_for_all_zones_with_the_zone_as_a_label() -> None:
    labels = {"index": "0", "path": "/sys/class/powercap/intel-rapl:0:1", "rapl_zone": "dram"}
    whole = {"index": "0", "path": "/sys/class/powercap/intel-rapl:0", "rapl_zone": "package"}
    found = zones(row("node_rapl_joules_total", labels, 2), row("node_rapl_joules_total", whole, 10))
    assert set(found) == {"package-0", "package-0/dram"}


def test_pages_without_a_path_tell_by_number() -> None:
    found = zones(node("package", 0, ""), node("package", 1, ""), node("dram", 0, ""), node("dram", 1, ""))
    assert set(found) == {"package-0", "package-1", "package-0/dram", "package-1/dram"}


def test_a_counter_wraps_where_the_tree_says() -> None:
    (one,) = node_exporter(page(node("package", 0, "intel-rapl:0")), {"intel-rapl:0": RANGE_UJ}.__getitem__)
    assert (one.meter.modulus_uj, one.meter.resolution_uj) == (RANGE_UJ, 16)
    (one,) = node_exporter(page(node("package", 0, "intel-rapl:0")), lambda folder: 0)
    assert one.meter.modulus_uj == 0


@pytest.mark.parametrize("joules", ["NaN", "-1", "0", "+Inf"])
def test_what_is_no_energy_is_no_value(joules: str) -> None:
    (one,) = node_exporter(page(node("package", 0, "intel-rapl:0").replace("100.0", joules)), lambda folder: 0)
    assert one.counter_uj is None


def test_what_has_no_kind_is_left_out() -> None:
    assert not zones(node("gpu_gt", 0, "intel-rapl:0:7"), 'node_rapl_joules_total{index="0"} 7\n')


def kepler_zones(*rows_: tuple[str, str, float]) -> dict[str, Told]:
    lines = [row("kepler_node_cpu_joules_total", {"zone": zone, "path": path}, joules) for zone, path, joules in rows_]
    others = row("kepler_process_cpu_joules_total", {"pid": "7", "zone": "package"}, 9)
    others += row("kepler_node_cpu_active_joules_total", {"zone": "package", "path": "/x"}, 5)
    return by_name(kepler(page(*lines, others), lambda folder: RANGE_UJ))


def test_kepler_is_read_for_the_server_and_not_again_for_its_processes() -> None:
    root = "/host/sys/class/powercap"
    found = kepler_zones(
        ("package", f"{root}/intel-rapl:0", 12), ("dram", f"{root}/intel-rapl:0:1", 2), ("core", f"{root}/x", 1)
    )
    assert {name: one.counter_uj for name, one in found.items()} == {
        "package-0": 12_000_000,
        "package-0/dram": 2_000_000,
        "package-0/core": 1_000_000,
    }
    assert found["package-0/core"].meter.inside == found["package-0"].meter.id
    assert found["package-0"].meter.modulus_uj == 0, "Kepler sums the wraps up"


def test_the_sum_of_all_packages_is_no_package() -> None:
    found = kepler_zones(("package", "aggregated-package", 24), ("dram", "aggregated-dram", 4))
    assert {one.meter.kind for one in found.values()} == {"psys"}
    assert found["via-kepler-aggregated-package"].meter.contains == ("cpu_package",)
    assert found["via-kepler-aggregated-dram"].meter.contains == ("dram",)


def old(name: str, mode: str, joules: float, source: str = "rapl-sysfs", package: str = "0") -> str:
    labels = {"instance": "n", "mode": mode, "package": package, "source": source}
    return row(f"kepler_node_{name}_joules_total", labels, joules)


def test_modes_of_old_kepler_add_up() -> None:
    lines = [
        old("package", "dynamic", 30),
        old("package", "idle", 12),
        old("dram", "idle", 1),
        old("dram", "dynamic", 2),
    ]
    lines += [old("package", "dynamic", 1, package="1"), old("package", "idle", 2, package="1")]
    found = by_name(kepler(page(*lines), lambda folder: 0))
    assert {name: one.counter_uj for name, one in found.items()} == {
        "package-0": 42_000_000,
        "package-1": 3_000_000,
        "package-0/dram": 3_000_000,
    }


def test_one_mode_alone_is_no_value_and_a_model_no_counter() -> None:
    (one,) = kepler(page(old("package", "dynamic", 30)), lambda folder: 0)
    assert one.counter_uj is None
    assert not kepler(page(old("package", "dynamic", 3, "trained_power_model")), lambda folder: 0)
