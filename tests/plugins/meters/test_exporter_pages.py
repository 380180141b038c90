"""What pages of boards mean: units, blanks, slices and partitions, renamed names and labels."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.exporter import A_UUID, B_UUID, ENERGY, POWER, Dcgm, row, rows
from fixtures.recorded import DATA, needs_data
from joulefleet_plugins.interfaces.exposition import Parser
from joulefleet_plugins.meters.exporter_pages import BOARDS, Told

GB200 = DATA / "exporters" / "dcgm-gb200.txt"


def told(text: str) -> dict[str, Told]:
    page = Parser().parse(text)
    several = [one for boards in BOARDS for one in boards.tell(page)]
    assert len({one.meter.id for one in several}) == len(several)
    return {one.meter.id: one for one in several}


def only(text: str) -> Told:
    (one,) = told(text).values()
    return one


def dcgm(**keys: Any) -> Told:
    return only(Dcgm(boards={A_UUID: ()}, **keys).text())


def test_energy_of_dcgm_is_in_millijoules_and_power_in_watts() -> None:
    one = dcgm(values={ENERGY: 126272101025, POWER: "412.345000", "DCGM_FI_DEV_GPU_TEMP": 61})
    assert (one.counter_uj, one.power_mw, one.gauges) == (126_272_101_025_000, 412_345, {"temperature_c": 61.0})
    assert (one.meter.id, one.meter.device, one.host) == (f"via-dcgm-{A_UUID}", A_UUID, "gpu-1")
    assert (one.meter.kind, one.meter.grade, one.meter.driver) == ("accelerator", "counter", "570.86.15")
    assert one.meter.hw_model == "NVIDIA H100 80GB HBM3"


def test_a_counter_from_beyond_2_to_the_53_stays_exact() -> None:
    assert dcgm(values={ENERGY: 2**53 + 1, POWER: 1}).counter_uj is None, "9 PJ are more than a board can use"
    assert dcgm(values={ENERGY: 2**51 + 1, POWER: 1}).counter_uj == (2**51 + 1) * 1000


def test_power_alone_is_integrated() -> None:
    one = dcgm(values={POWER: "78.660000"})
    assert (one.meter.grade, one.meter.resolution_uj, one.meter.restarts_at_zero) == ("integrated", 0, False)


@pytest.mark.parametrize("blank", ["2147483632", "2147483634", "9223372036854775794", "140737488355328.000000"])
@pytest.mark.parametrize("other", ["NaN", "+Inf", "-1", "0", "1e300"])
def test_what_dcgm_does_not_know_is_no_value(blank: str, other: str) -> None:
    for energy, power in ((blank, other), (other, blank)):
        one = dcgm(values={ENERGY: energy, POWER: power})
        assert (one.counter_uj, one.power_mw) == (None, None)


def test_a_board_is_told_once_however_many_slices_and_pods_it_has() -> None:
    page = Dcgm(boards={A_UUID: (), B_UUID: ("3", "4", "5")}, values={POWER: 100})
    labels = {"UUID": B_UUID, "GPU_I_ID": "3", "pod": "b", "Hostname": "gpu-1"}
    energies = rows(ENERGY, [(labels | {"GPU_I_ID": str(k)}, 1000 + k) for k in range(3)] + [(labels, 2147483634)])
    boards = told(page.text() + energies)
    assert set(boards) == {f"via-dcgm-{A_UUID}", f"via-dcgm-{B_UUID}"}
    assert boards[f"via-dcgm-{B_UUID}"].counter_uj == 1_002_000


@pytest.mark.parametrize("uuid", [f"MIG-{A_UUID}/3/0", f"MIG-{A_UUID}", A_UUID])
def test_a_slice_is_known_by_its_board(uuid: str) -> None:
    assert only(row(POWER, {"UUID": uuid}, 100)).meter.device == A_UUID


def test_a_slice_that_does_not_name_its_board_is_no_board() -> None:
    assert not told(row(POWER, {"UUID": "MIG-11112222-0000-4000-8000-00000000000c"}, 100))


def test_new_names_and_labels_tell_the_same() -> None:
    old = dcgm(values={POWER: "150.5"})
    new = dcgm(values={"DCGM_FI_DEV_BOARD_POWER_WATTS": "150.5"}, host={"hostname": "gpu-1"})
    assert old == new


def test_a_module_of_grace_hopper_holds_its_cpu() -> None:
    one = dcgm(model="NVIDIA GH200 480GB", values={ENERGY: 5000, POWER: 90})
    assert (one.meter.kind, one.meter.device, one.counter_uj) == ("module", A_UUID, 5_000_000)
    assert {"accelerator", "cpu_package", "dram"} <= set(one.meter.contains)
    assert one.power_mw is None, "what the gauge beside it covers is not known"


def test_a_cpu_rail_and_a_module_have_the_identities_that_linux_gives_them() -> None:
    page = row("DCGM_FI_DEV_CPU_POWER_UTIL_CURRENT", {"cpu": "0"}, "31.427000")
    page += row("DCGM_FI_DEV_MODULE_POWER_UTIL_CURRENT", {"cpu": "0"}, "731.4")
    boards = told(page)
    cpu, module = boards["via-dcgm-cpu-0"], boards["via-dcgm-module-0"]
    assert (cpu.meter.kind, cpu.meter.device, cpu.power_mw) == ("cpu_package", "package-0/cpu", 31_427)
    assert (module.meter.kind, module.meter.device, module.power_mw) == ("psys", "module-0", 731_400)


AMD = {"gpu_id": "0", "serial_number": "SN-0", "card_model": "AMD_Instinct_MI300X", "hostname": "amd-1"}


@pytest.mark.parametrize("prefix", ["", "amd_", "AMD_"])
def test_energy_of_amd_is_in_microjoules_whatever_stands_before_the_name(prefix: str) -> None:
    one = only(row(f"{prefix}gpu_energy_consumed", AMD, "1.4e+12") + row(f"{prefix}gpu_package_power", AMD, 748))
    assert (one.counter_uj, one.power_mw, one.meter.id) == (1_400_000_000_000, 748_000, "via-amd-SN-0")
    assert (one.meter.grade, one.meter.device) == ("counter", "")


def test_partitions_of_an_amd_board_are_the_board() -> None:
    parts = [({**AMD, "gpu_id": str(k), "gpu_partition_id": str(k)}, 136 if k == 0 else 0) for k in range(8)]
    assert only(rows("gpu_package_power", parts)).power_mw == 136_000
    repeated = [(labels, 136) for labels, _ in parts]
    assert only(rows("gpu_package_power", repeated)).power_mw == 136_000
    unnamed = [({**labels, "serial_number": "N/A"}, 136) for labels, _ in parts]
    assert only(rows("gpu_package_power", unnamed)).meter.id == "via-amd-0"


def test_power_of_amd_is_that_which_the_board_tells() -> None:
    page = row("gpu_package_power", AMD, 65535) + row("gpu_average_package_power", AMD, 94)
    assert only(page).power_mw == 94_000
    board = {**AMD, "card_model": "AMD_Instinct_MI300A"}
    assert only(row("gpu_package_power", board, 400)).meter.kind == "module"


def test_boards_of_all_smi_by_old_and_new_labels() -> None:
    old = {"gpu": "NVIDIA H200", "instance": "node-7", "uuid": A_UUID, "index": "0"}
    new = {"gpu": "NVIDIA H200", "instance": "node-7", "gpu_uuid": A_UUID, "gpu_index": "0"}
    power = "all_smi_gpu_power_consumption_watts"
    assert only(row(power, old, "400.5")) == only(row(power, new, "400.5"))
    one = only(row(power, new, "400.5") + row("all_smi_gpu_energy_hw_millijoules_total", new, 7000))
    assert (one.power_mw, one.counter_uj, one.meter.device) == (400_500, 7_000_000, A_UUID)
    other = only(row(power, {**new, "gpu_uuid": "0000:c1:00.0", "gpu": "Tenstorrent Wormhole"}, 80))
    assert (other.meter.id, other.meter.device) == ("via-all-smi-0000:c1:00.0", "")


def test_what_all_smi_made_up_is_not_taken() -> None:
    page = row("all_smi_energy_consumed_joules_total", {"scope": "gpu", "gpu_uuid": A_UUID}, 900)
    page += row("all_smi_chassis_power_watts", {"hostname": "n"}, 900)
    assert not told(page)


def test_power_of_gaudi_is_in_milliwatts_under_whatever_name() -> None:
    labels = {"UUID": "01P4-HL3090A0-18-U4V193-22-07-00", "Serial": "AN01", "device": "AN01", "driver": "1.22.1"}
    one = only(row("habanalabs_power_mW", labels, 226000) + row("accelerator_power_usage_watts", labels, 226000))
    assert (one.power_mw, one.counter_uj, one.meter.driver) == (226_000, None, "1.22.1")
    assert only(row("habanalabs_energy", labels, 5)).counter_uj == 5000


def test_boards_of_kepler_and_triton() -> None:
    gpu = {"gpu": "0", "gpu_uuid": A_UUID, "vendor": "nvidia"}
    page = row("kepler_node_gpu_joules_total", gpu, "12.5") + row("kepler_node_gpu_watts", gpu, 50)
    page += row("kepler_node_gpu_active_watts", gpu, 30) + row("kepler_process_gpu_watts", {"pid": "1"}, 30)
    one = only(page)
    assert (one.counter_uj, one.power_mw, one.meter.device) == (12_500_000, 50_000, A_UUID)
    page = row("nv_energy_consumption", {"gpu_uuid": A_UUID}, "205620.582") + row(
        "nv_gpu_power_usage", {"gpu_uuid": A_UUID}, "51.2"
    )
    one = only(page)
    assert (one.meter.id, one.counter_uj, one.power_mw) == (f"via-triton-{A_UUID}", 205_620_582_000, 51_200)


def test_what_a_page_says_around_the_values_is_harmless() -> None:
    plain = dcgm(values={POWER: "150.5"})
    text = Dcgm(boards={A_UUID: ()}, values={POWER: "150.5"}).text()
    busy = text.replace("# HELP", "# HELP Any text \\n at all,", 1).replace("150.5\n", '150.5 # {trace_id="a"} 0.7\n')
    page = Parser().parse(busy + "# EOF\n", openmetrics=True)
    assert [one for boards in BOARDS for one in boards.tell(page)] == [plain]


@given(st.floats() | st.integers(-(2**70), 2**70))
def test_no_number_becomes_an_energy_or_power_that_cannot_be(value: float) -> None:
    one = dcgm(values={ENERGY: value, POWER: value})
    assert all(known is None or 0 <= known <= 2**62 for known in (one.counter_uj, one.power_mw))


@needs_data
def test_a_recorded_page_of_four_gb200() -> None:
    boards = told(GB200.read_text())
    assert len(boards) == 4
    assert sum(one.power_mw or 0 for one in boards.values()) == 170_582 + 171_187 + 165_866 + 180_378
    for one in boards.values():
        assert (one.meter.kind, one.meter.grade, one.meter.hw_model) == ("accelerator", "integrated", "NVIDIA GB200")
        assert one.meter.id == f"via-dcgm-{one.meter.device}"
