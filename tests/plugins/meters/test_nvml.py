"""The NVML source through the real pynvml, on a fake library in a process of its own (see conftest.py)."""

import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import SourceUnavailable
from joulefleet_plugins.meters import nvml as plugin

NOT_SUPPORTED, DRIVER_NOT_LOADED, TIMEOUT, MISMATCH, UNKNOWN = 3, 9, 10, 18, 999


def only(readings: list[MeterReading | Failure]) -> Any:
    assert len(readings) == 1
    return readings[0]


def test_a_board_is_declared_with_all_that_accounting_needs(nvml: Any, nvml_reader: Any, fake_nvml: Any) -> None:
    (meter,) = nvml_reader.open()
    assert meter == Meter(
        id=fake_nvml.uuid(0),
        kind="accelerator",
        grade="counter",
        sensor_class="onboard",
        device=fake_nvml.uuid(0),
        hw_model="NVIDIA H100 80GB HBM3",
        resolution_uj=1_000,
        refresh_ns=100_000_000,
        period_ns=1_000_000_000,
        max_power_mw=750_000,
        restarts_at_zero=True,
        driver="570.86.15",
        power_limit_mw=700_000,
    )


def test_counter_gauge_and_the_values_beside_them_are_read_together(nvml: Any, nvml_reader: Any) -> None:
    nvml_reader.open()
    nvml.at(10_000)
    reading = only(nvml_reader.read())
    assert (reading.counter_uj, reading.power_mw) == (4_000_000_000, 400_000)
    assert reading.gauges["utilisation_pct"] == 57.0
    assert reading.at_ns == 0


def test_what_changes_slowly_is_asked_every_five_seconds(nvml: Any, nvml_reader: Any) -> None:
    seldom = {"temperature_c", "sm_clock_mhz", "memory_clock_mhz", "power_limit_w"}
    nvml_reader.open(period_s=0.5)
    told = [seldom & set(only(nvml_reader.read()).gauges) for _ in range(21)]
    assert [bool(each) for each in told] == [k % 10 == 0 for k in range(21)]
    assert all(each in (set(), seldom) for each in told)


def test_the_counter_keeps_its_64_bits(nvml: Any, nvml_reader: Any) -> None:
    nvml.energy_mj = {0: 2**53 + 1}
    nvml.write()
    nvml_reader.open()
    assert only(nvml_reader.read()).counter_uj == (2**53 + 1) * 1_000


def test_an_epoch_lasts_over_processes_until_the_next_boot_or_driver(
    nvml: Any, nvml_reader: Any, open_reader: Any
) -> None:
    nvml_reader.open()
    first = only(nvml_reader.read())
    nvml.at(1_000)
    assert only(nvml_reader.read()).epoch == first.epoch
    assert first.epoch.startswith(plugin.BOOT_ID.read_text().strip())
    for driver, same in ((nvml.driver, True), ("575.0", False)):
        nvml.driver = driver
        nvml.write()
        other = open_reader()
        other.open()
        assert (only(other.read()).epoch == first.epoch) == same


@pytest.mark.parametrize("code", [15, 16, 28])
def test_a_lost_board_fails_alone_and_comes_back_in_a_new_epoch(nvml: Any, nvml_reader: Any, code: int) -> None:
    nvml.boards = 3
    nvml.fail("*", code, board=1, from_ms=2_000, to_ms=4_000)
    nvml_reader.open()
    nvml.at(1_000)
    before = nvml_reader.read()
    nvml.at(2_000)
    during = nvml_reader.read()
    nvml.at(5_000)
    after = nvml_reader.read()
    assert (during[1].subject, during[1].code) == (before[1].meter, "gpu_lost")
    assert [one.counter_uj for one in (during[0], during[2])] == [800_000_000, 800_000_000]
    assert after[1].counter_uj == 2_000_000_000
    assert after[1].epoch != before[1].epoch
    assert [after[k].epoch for k in (0, 2)] == [before[k].epoch for k in (0, 2)]


def test_a_board_lost_between_counter_and_gauge_is_lost(nvml: Any, nvml_reader: Any) -> None:
    nvml.fail("GetPowerUsage", 15, from_ms=1_000, to_ms=2_000)
    nvml_reader.open()
    before = only(nvml_reader.read())
    nvml.at(1_000)
    assert only(nvml_reader.read()).code == "gpu_lost"
    nvml.at(2_000)
    assert only(nvml_reader.read()).epoch != before.epoch


def test_a_board_that_left_the_list_is_lost_and_stays_declared(nvml: Any, nvml_reader: Any, fake_nvml: Any) -> None:
    nvml.boards = 2
    nvml.write()
    assert len(nvml_reader.open()) == 2
    nvml.boards = 1
    nvml.write()
    for good, bad in (nvml_reader.read(), nvml_reader.read()):
        assert good.meter == fake_nvml.uuid(0)
        assert (bad.subject, bad.code) == (fake_nvml.uuid(1), "gpu_lost")


def test_a_board_that_does_not_tell_who_it_is_stays_declared_and_fails(nvml: Any, nvml_reader: Any) -> None:
    nvml.boards = 2
    nvml.lose(1, from_ms=0)
    known, unknown = nvml_reader.open()
    assert (unknown.id, unknown.kind, unknown.device) == ("gpu-1", "accelerator", "")
    good, bad = nvml_reader.read()
    assert good.meter == known.id
    assert (bad.subject, bad.code) == ("gpu-1", "gpu_lost")
    assert "restart the agent" in bad.detail


def test_a_driver_reload_is_survived_in_a_new_epoch(nvml: Any, nvml_reader: Any) -> None:
    nvml.boards = 2
    nvml.reloads_ms = [5_000]
    nvml.write()
    nvml_reader.open()
    nvml.at(4_000)
    before = nvml_reader.read()
    nvml.at(6_000)
    after = nvml_reader.read()
    assert [one.counter_uj for one in before] == [1_600_000_000] * 2
    assert [one.counter_uj for one in after] == [400_000_000] * 2
    assert all(new.epoch != old.epoch for new, old in zip(after, before, strict=True))
    nvml.at(7_000)
    assert [one.epoch for one in nvml_reader.read()] == [one.epoch for one in after]


def test_while_the_driver_is_away_the_source_is_unavailable_and_then_goes_on(nvml: Any, nvml_reader: Any) -> None:
    nvml.reloads_ms = [2_000]
    nvml.fail("*", DRIVER_NOT_LOADED, from_ms=2_000, to_ms=4_000)
    nvml_reader.open()
    first = only(nvml_reader.read())
    nvml.at(3_000)
    answers = [nvml_reader.ask({"read": 1}) for _ in range(2)]
    assert [(one["raised"], one["code"]) for one in answers] == [("SourceUnavailable", "driver")] * 2
    nvml.at(5_000)
    again = only(nvml_reader.read())
    assert again.counter_uj == 1_200_000_000
    assert again.epoch != first.epoch


@pytest.mark.parametrize("reloads_ms", [[], [1_000]])
def test_a_driver_replaced_under_the_process_ends_it(nvml: Any, nvml_reader: Any, reloads_ms: list[int]) -> None:
    nvml.reloads_ms = reloads_ms
    nvml.fail("Init" if reloads_ms else "*", MISMATCH, from_ms=1_000)
    nvml_reader.open()
    nvml.at(1_000)
    assert nvml_reader.ask({"read": 1})["raised"] == "ProcessMustEnd"


def test_a_board_without_a_counter_is_integrated_from_its_gauge(nvml: Any, nvml_reader: Any) -> None:
    nvml.boards, nvml.name = 2, "NVIDIA A100-SXM4-80GB"
    nvml.fail("GetTotalEnergyConsumption", NOT_SUPPORTED, board=1)
    counted, integrated = nvml_reader.open()
    assert (counted.grade, integrated.grade) == ("counter", "integrated")
    assert (counted.idle_mw, integrated.idle_mw) == (46_000, 46_000)
    assert (integrated.resolution_uj, integrated.restarts_at_zero) == (0, False)
    first, second = nvml_reader.read()
    assert first.counter_uj is not None
    assert (second.counter_uj, second.power_mw) == (None, 400_000)


def test_a_library_without_the_call_is_integrated_too(
    nvml: Any, fake_nvml: Any, open_reader: Any, tmp_path: Path
) -> None:
    nvml.library = fake_nvml.build(tmp_path / "old", with_energy=False)
    reader = open_reader()
    (meter,) = reader.open()
    assert meter.grade == "integrated"
    assert only(reader.read()).power_mw == 400_000


def test_what_a_board_does_not_support_is_absent_and_the_rest_is_there(nvml: Any, nvml_reader: Any) -> None:
    nvml.fail("GetPowerUsage", NOT_SUPPORTED)
    nvml.fail("GetUtilizationRates", NOT_SUPPORTED)
    nvml_reader.open()
    nvml.at(1_000)
    for reading in (only(nvml_reader.read()), only(nvml_reader.read())):
        assert (reading.counter_uj, reading.power_mw) == (400_000_000, None)
        assert "utilisation_pct" not in reading.gauges
        assert reading.gauges["throttle_power_pct"] == 0.0


def test_an_unsupported_value_is_asked_again_only_after_a_reload(nvml: Any, nvml_reader: Any) -> None:
    nvml.reloads_ms = [3_000]
    nvml.fail("GetUtilizationRates", NOT_SUPPORTED, from_ms=0, to_ms=1_000)
    nvml_reader.open()
    nvml_reader.read()
    nvml.at(2_000)
    assert "utilisation_pct" not in only(nvml_reader.read()).gauges
    nvml.at(3_000)
    assert only(nvml_reader.read()).gauges["utilisation_pct"] == 57.0


@pytest.mark.parametrize(
    ("code", "reason"),
    [(TIMEOUT, "timeout"), (4, "permission"), (27, "not_ready"), (UNKNOWN, "nvml_unknown"), (20, "nvml_20")],
)
def test_a_counter_that_does_not_answer_now_is_a_failure_and_no_new_life(
    nvml: Any, nvml_reader: Any, code: int, reason: str
) -> None:
    nvml.fail("GetTotalEnergyConsumption", code, from_ms=1_000, to_ms=2_000)
    nvml_reader.open()
    before = only(nvml_reader.read())
    nvml.at(1_000)
    assert only(nvml_reader.read()).code == reason
    nvml.at(2_000)
    after = only(nvml_reader.read())
    assert (after.counter_uj, after.epoch) == (800_000_000, before.epoch)


def test_a_gauge_that_fails_for_now_leaves_the_counter(nvml: Any, nvml_reader: Any) -> None:
    nvml.fail("GetPowerUsage", TIMEOUT, from_ms=1_000, to_ms=2_000)
    nvml_reader.open()
    nvml.at(1_000)
    reading = only(nvml_reader.read())
    assert (reading.counter_uj, reading.power_mw) == (400_000_000, None)
    nvml.at(2_000)
    assert only(nvml_reader.read()).power_mw == 400_000


def test_a_counter_that_stops_being_supported_is_not_replaced_by_the_gauge(nvml: Any, nvml_reader: Any) -> None:
    nvml.fail("GetTotalEnergyConsumption", NOT_SUPPORTED, from_ms=1_000)
    assert nvml_reader.open()[0].grade == "counter"
    nvml.at(1_000)
    assert only(nvml_reader.read()).code == "not_supported"


def test_no_watts_are_no_value(nvml: Any, nvml_reader: Any) -> None:
    nvml.boards, nvml.power_mw = 2, {0: 0, 1: 0}
    nvml.energy_mj = {0: 5}
    nvml.fail("GetTotalEnergyConsumption", NOT_SUPPORTED, board=1)
    nvml_reader.open()
    counted, integrated = nvml_reader.read()
    assert (counted.counter_uj, counted.power_mw) == (5_000, None)
    assert (integrated.subject[-1], integrated.code) == ("1", "no_value")


def test_a_board_that_tells_no_limits_has_none(nvml: Any, nvml_reader: Any) -> None:
    for call in ("GetEnforcedPowerLimit", "GetPowerManagementLimit", "GetPowerManagementLimitConstraints"):
        nvml.fail(call, NOT_SUPPORTED)
    (meter,) = nvml_reader.open()
    assert (meter.max_power_mw, meter.power_limit_mw) == (0, 0)


@pytest.mark.parametrize(
    ("call", "code", "reason"),
    [
        ("Init", DRIVER_NOT_LOADED, "driver"),
        ("Init", MISMATCH, "driver_mismatch"),
        ("Init", 4, "permission"),
        ("GetCount", UNKNOWN, "nvml_unknown"),
    ],
)
def test_a_library_that_does_not_answer_makes_the_source_unavailable(
    nvml: Any, nvml_reader: Any, call: str, code: int, reason: str
) -> None:
    nvml.fail(call, code)
    answer = nvml_reader.ask({"open": {}})
    assert (answer["raised"], answer["code"]) == ("SourceUnavailable", reason)
    assert bool(answer["mend"]) == (reason != "nvml_unknown")


def test_a_driver_that_comes_later_is_found_by_opening_again(nvml: Any, nvml_reader: Any) -> None:
    nvml.fail("Init", DRIVER_NOT_LOADED, to_ms=1_000)
    assert nvml_reader.ask({"open": {}})["code"] == "driver"
    nvml.at(1_000)
    assert len(nvml_reader.open()) == 1


def test_a_server_without_boards_is_unavailable(nvml: Any, nvml_reader: Any) -> None:
    nvml.boards = 0
    nvml.write()
    assert nvml_reader.ask({"open": {}})["code"] == "absent"


def test_a_missing_library_is_told_with_its_mend(nvml: Any, open_reader: Any, tmp_path: Path) -> None:
    # An empty file in front of the search path hides a real driver of the host that runs the test.
    nvml.library = tmp_path / "empty"
    nvml.library.mkdir()
    (nvml.library / "libnvidia-ml.so.1").touch()
    reader = open_reader()
    answer = reader.ask({"open": {}})
    assert (answer["raised"], answer["code"]) == ("SourceUnavailable", "library_missing")
    assert "driver" in answer["mend"]


def test_a_missing_package_is_told_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(SourceUnavailable) as raised:
        plugin.open({})
    assert (raised.value.code, raised.value.mend) == ("package_missing", "pip install 'joulefleet[nvidia]'")


@pytest.mark.parametrize("table", [{"period": 1}, {"period_s": "1"}, {"period_s": 0.05}])
def test_a_config_that_cannot_be_used_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="nvml"):
        plugin.open(table)


def test_the_period_is_the_config_s(nvml: Any, nvml_reader: Any) -> None:
    assert nvml_reader.ask({"open": {"period_s": 0.5}})["period_ns"] == 500_000_000


def test_eight_boards_through_a_loss_and_a_reload_give_the_joules_of_the_fake(
    nvml: Any, nvml_reader: Any, fake_nvml: Any
) -> None:
    """One read a second for two minutes; what pairs of one epoch hold is the truth less the two gaps."""
    nvml.boards, nvml.refresh_ms = 8, 100
    nvml.power_mw = {board: 300_000 + 37_123 * board for board in range(8)}
    nvml.reloads_ms = [80_500]
    nvml.restarts = [(5, 49_300)]
    nvml.lose(5, from_ms=40_500, to_ms=49_700)
    nvml_reader.open()
    told: dict[str, list[tuple[int, MeterReading]]] = {fake_nvml.uuid(board): [] for board in range(8)}
    failures = []
    for second in range(121):
        nvml.at(second * 1_000)
        for one in nvml_reader.read():
            if isinstance(one, Failure):
                failures.append((second, one.subject, one.code))
            else:
                told[one.meter].append((second * 1_000, one))
    assert failures == [(second, fake_nvml.uuid(5), "gpu_lost") for second in range(41, 50)]
    for board in range(8):
        energy_mj, gaps = joined(told[fake_nvml.uuid(board)])
        assert gaps == ([(40_000, 50_000)] if board == 5 else []) + [(80_000, 81_000)]
        missing_mj = sum(nvml.truth_mj(board, *gap) for gap in gaps)
        assert energy_mj == pytest.approx(nvml.truth_mj(board, 0, 120_000) - missing_mj, rel=1e-3)


def test_the_fake_can_follow_the_wall_clock(nvml: Any, nvml_reader: Any) -> None:
    """What an end-to-end test builds on: the truth just before and just after a read brackets it."""
    zero_ms = time.time_ns() // 1_000_000 - 10_000
    nvml.realtime_from_ms = zero_ms
    nvml.write()
    nvml_reader.open()
    before_ms = time.time_ns() // 1_000_000 - zero_ms
    counter_mj = only(nvml_reader.read()).counter_uj / 1_000
    after_ms = time.time_ns() // 1_000_000 - zero_ms
    assert int(nvml.truth_mj(0, 0, before_ms)) <= counter_mj <= nvml.truth_mj(0, 0, after_ms)


def joined(readings: list[tuple[int, MeterReading]]) -> tuple[float, list[tuple[int, int]]]:
    """Millijoules of the pairs of one epoch, and the times between two epochs."""
    energy_uj, gaps = 0, []
    for (start_ms, first), (end_ms, last) in pairwise(readings):
        assert first.counter_uj is not None and last.counter_uj is not None
        if first.epoch == last.epoch:
            energy_uj += last.counter_uj - first.counter_uj
        else:
            gaps.append((start_ms, end_ms))
    return energy_uj / 1_000, gaps
