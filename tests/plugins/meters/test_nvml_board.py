"""What the NVML source takes the GPUs of a server for: boards, MIG slices, modules of GPUs and their CPU."""

from typing import Any

import pytest

from joulefleet.describe import Slice
from joulefleet_plugins.meters import nvml_board as plugin

NOT_SUPPORTED, GPU_IS_LOST = 3, 15
GPU, MODULE, MEMORY = 0, 1, 2


def grace_hopper(nvml: Any) -> None:
    """A GH200: the counter is the module's, and so is the gauge of that scope."""
    nvml.name, nvml.c2c, nvml.cpus = "NVIDIA GH200 480GB", 1, {0: 1}
    nvml.scope_mw = {(GPU, 0): 300_000, (MODULE, 0): 400_000, (MEMORY, 0): 60_000}
    nvml.write()


def grace_blackwell(nvml: Any) -> None:
    """A tray of two modules with two GPUs each, which repeat their module's figure."""
    nvml.name, nvml.boards, nvml.c2c = "NVIDIA GB300", 4, 1
    nvml.cpus = {0: 0xFF, 1: 0xFF, 2: 0xFF00, 3: 0xFF00}
    nvml.power_mw = {0: 900_000, 1: 1_000_000, 2: 800_000, 3: 700_000}
    nvml.scope_mw = {(MODULE, board): 2_200_000 if board < 2 else 1_800_000 for board in range(4)}
    nvml.scope_counts, nvml.scope_limit_mw = {MODULE: 1}, {MODULE: 2_900_000}
    nvml.limit_mw = 1_400_000
    nvml.write()


def test_the_counter_of_grace_hopper_is_the_module_s_and_the_gpu_is_a_part_of_it(nvml: Any, nvml_reader: Any) -> None:
    grace_hopper(nvml)
    nvml.at(1_000)
    module, gpu = nvml_reader.open()
    assert (module.id, module.kind, module.grade) == (gpu.device, "module", "counter")
    assert module.contains == ("accelerator", "cpu_package", "dram")
    assert module.max_power_mw == 1_000_000
    assert (gpu.kind, gpu.grade, gpu.inside, gpu.id) == ("accelerator", "integrated", module.id, f"{module.id}/gpu")
    of_module, of_gpu = nvml_reader.read()
    assert (of_module.counter_uj, of_module.power_mw) == (400_000_000, 400_000)
    assert (of_gpu.counter_uj, of_gpu.power_mw) == (None, 300_000)
    assert "utilisation_pct" in of_module.gauges


def test_a_superchip_that_tells_only_its_counter_has_no_gauge_to_mislead(nvml: Any, nvml_reader: Any) -> None:
    """The gauge of the board sees the GPU alone: it is no cross-check of a counter of the module."""
    nvml.name = "NVIDIA GH200 480GB"
    nvml.fail("GetFieldValues", NOT_SUPPORTED)
    (module,) = nvml_reader.open()
    assert module.kind == "module"
    (reading,) = nvml_reader.read()
    assert reading.power_mw is None


def test_the_gauge_of_a_superchip_without_a_counter_sees_the_gpu_alone(nvml: Any, nvml_reader: Any) -> None:
    nvml.name = "NVIDIA GH200 480GB"
    nvml.fail("GetTotalEnergyConsumption", NOT_SUPPORTED)
    (meter,) = nvml_reader.open()
    assert (meter.kind, meter.contains, meter.grade) == ("accelerator", (), "integrated")


def test_a_module_of_several_gpus_is_declared_once_beside_them(nvml: Any, nvml_reader: Any, fake_nvml: Any) -> None:
    grace_blackwell(nvml)
    nvml.at(1_000)
    *gpus, one, other = nvml_reader.open()
    assert [(gpu.id, gpu.kind) for gpu in gpus] == [(fake_nvml.uuid(board), "accelerator") for board in range(4)]
    assert [gpu.inside for gpu in gpus] == [one.id, one.id, other.id, other.id]
    assert {(module.kind, module.contains, module.max_power_mw, module.device) for module in (one, other)} == {
        ("module", ("accelerator", "cpu_package", "dram"), 2_900_000, "")
    }
    nvml.at(2_000)
    *_, first, second = nvml_reader.read()
    assert [reading.counter_uj for reading in (first, second)] == [4_400_000_000, 3_600_000_000]
    assert [reading.power_mw for reading in (first, second)] == [2_200_000, 1_800_000]


def test_a_module_without_a_counter_is_integrated_from_its_gauge(nvml: Any, nvml_reader: Any) -> None:
    grace_blackwell(nvml)
    nvml.scope_counts = {}
    nvml.write()
    *_, module = nvml_reader.open()
    assert (module.grade, module.resolution_uj, module.restarts_at_zero) == ("integrated", 0, False)
    *_, reading = nvml_reader.read()
    assert (reading.counter_uj, reading.power_mw) == (None, 1_800_000)


def test_a_module_that_cannot_be_told_from_its_neighbour_is_left_out(nvml: Any, nvml_reader: Any) -> None:
    grace_blackwell(nvml)
    nvml.cpus = {}
    nvml.write()
    assert [(gpu.kind, gpu.inside) for gpu in nvml_reader.open()] == [("accelerator", "")] * 4


@pytest.mark.parametrize("told_mw", [0, NOT_SUPPORTED * -1])
def test_a_module_that_tells_nothing_is_none(nvml: Any, nvml_reader: Any, told_mw: int) -> None:
    grace_blackwell(nvml)
    nvml.scope_mw = {(MODULE, board): told_mw for board in range(4)}
    nvml.at(1_000)
    assert [gpu.kind for gpu in nvml_reader.open()] == ["accelerator"] * 4


def test_a_driver_that_knows_no_scopes_makes_no_module(nvml: Any, nvml_reader: Any) -> None:
    """It tells the GPU's own figure for every scope; only GPUs with a link to their CPU are asked for a module."""
    nvml.boards, nvml.cpus, nvml.scope_mw = 2, {0: 1, 1: 1}, {(MODULE, 0): 400_000, (MODULE, 1): 400_000}
    nvml.write()
    assert [gpu.kind for gpu in nvml_reader.open()] == ["accelerator"] * 2


def test_a_module_outlives_the_loss_of_the_other_gpu_and_fails_with_its_own(nvml: Any, nvml_reader: Any) -> None:
    grace_blackwell(nvml)
    nvml.at(1_000)
    nvml_reader.open()
    nvml.lose(1, from_ms=2_000)
    nvml.lose(2, from_ms=2_000)
    nvml.at(2_000)
    told = nvml_reader.read()
    assert [getattr(one, "code", "") for one in told] == ["", "gpu_lost", "gpu_lost", "", "", "gpu_lost"]


def test_mig_slices_are_names_of_parts_of_the_board_which_is_read_once(
    nvml: Any, nvml_reader: Any, fake_nvml: Any
) -> None:
    nvml.boards, nvml.mig = 2, {1: [3, 0, 2, 1]}
    nvml.write()
    plain, sliced = nvml_reader.open()
    assert (plain.slices, plain.slots) == ((), 0)
    assert sliced.slices == tuple(
        Slice(fake_nvml.slice_uuid(1, index), slots) for index, slots in ((0, 3), (2, 2), (3, 1))
    )
    assert sliced.slots == 7
    nvml.at(1_000)
    _, reading = nvml_reader.read()
    assert reading.counter_uj == 400_000_000
    assert "utilisation_pct" not in reading.gauges


def test_slices_that_are_made_or_destroyed_are_declared_within_a_minute(
    nvml: Any, nvml_reader: Any, fake_nvml: Any
) -> None:
    nvml_reader.open(period_s=30)

    def after_a_minute(slices: list[int]) -> tuple[list[str], bool]:
        nvml.mig = {0: slices} if slices else {}
        nvml.write()
        for _ in range(2):
            (reading,) = nvml_reader.read()
        (board,) = nvml_reader.declares
        return [one.id for one in board.slices], "utilisation_pct" in reading.gauges

    assert after_a_minute([]) == ([], True)
    assert after_a_minute([3, 2]) == ([fake_nvml.slice_uuid(0, 0), fake_nvml.slice_uuid(0, 1)], False)
    assert after_a_minute([0, 2]) == ([fake_nvml.slice_uuid(0, 1)], False)
    assert after_a_minute([]) == ([], True)


def test_slices_that_cannot_be_told_now_stay_declared(nvml: Any, nvml_reader: Any, fake_nvml: Any) -> None:
    nvml.mig = {0: [3, 2]}
    nvml.write()
    (declared,) = nvml_reader.open(period_s=60)
    nvml.fail("GetMigMode", 999, from_ms=1_000, to_ms=2_000)
    nvml.fail("GetUUID", 10, from_ms=2_000)
    for at_ms in (1_000, 2_000):
        nvml.at(at_ms)
        nvml_reader.read()
        assert nvml_reader.declares == (declared,)


def test_slices_of_grace_hopper_are_parts_of_what_bears_its_gpu_s_name(nvml: Any, nvml_reader: Any) -> None:
    grace_hopper(nvml)
    nvml.mig = {0: [2]}
    nvml.write()
    assert [len(one.slices) for one in nvml_reader.open()] == [1, 0]


@pytest.mark.parametrize(
    ("name", "idle_mw"),
    [
        ("NVIDIA A100-SXM4-80GB", 46_000),
        ("Tesla V100-SXM2-16GB", 35_000),
        ("Tesla P40", 0),
        ("NVIDIA H200", 0),
    ],
)
def test_idle_power_is_the_catalogue_s_where_it_knows_the_board(name: str, idle_mw: int) -> None:
    assert plugin.idle_mw(name) == idle_mw
