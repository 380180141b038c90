"""How long processes kept a board busy, as the NVML source tells it."""

from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.nvml.fake_nvml import NOT_SUPPORTED, slice_uuid
from joulefleet_plugins.meters.nvml_processes import ProcessActivity

FOREVER_MS = 10**12


class NvmlError(Exception):
    def __init__(self, value: int) -> None:
        self.value = value


def activity(reader: Any, board: int = 0) -> dict[str, int] | None:
    told: dict[str, int] | None = reader.read()[board].activity_ns
    return told


def minute(nvml: Any, reader: Any) -> list[dict[str, int]]:
    """What each telling read says, at one read a second for a minute."""
    told = []
    for second in range(61):
        nvml.at(second * 1_000)
        if (one := activity(reader)) is not None:
            told.append(one)
    return told


def test_it_is_told_every_five_seconds_and_adds_up_to_the_time_that_they_were_busy(nvml: Any, nvml_reader: Any) -> None:
    nvml.processes = [(0, 100, 60, 0, FOREVER_MS), (0, 200, 25, 20_000, 40_000), (0, 300, 0, 0, FOREVER_MS)]
    nvml.write()
    nvml_reader.open()
    told = minute(nvml, nvml_reader)
    assert len(told) == 13
    sums = {pid: sum(one.get(pid, 0) for one in told) for pid in ("100", "200", "300")}
    # Nothing is known of the time before the first answer, and what a process did last is gone with it.
    assert sums["100"] == pytest.approx(0.6 * 55e9, rel=0.01)
    assert 0.25 * 15e9 <= sums["200"] <= 0.25 * 20e9
    assert sums["300"] == 0
    assert [set(one) for one in (told[0], told[1], told[5], told[-1])] == [
        set(),
        {"100"},
        {"100", "200", "300"},
        {"100", "300"},
    ]


def test_after_a_pause_no_more_is_told_than_samples_can_tell(nvml: Any, nvml_reader: Any) -> None:
    nvml.processes = [(0, 100, 50, 0, 11_000), (0, 100, 50, 600_000, FOREVER_MS)]
    nvml.write()
    nvml_reader.open(period_s=5)
    told = []
    for at_ms in (1_000, 10_000, 300_000, 600_000, 605_000):
        nvml.at(at_ms)
        told.append(activity(nvml_reader))
    assert told[2:4] == [{"100": 0}, {"100": 0}]
    assert 0 < told[4]["100"] <= 0.5 * 5e9


def test_where_no_process_runs_that_is_told(nvml: Any, nvml_reader: Any) -> None:
    nvml_reader.open()
    assert activity(nvml_reader) == {}


def test_under_mig_it_is_not_told(nvml: Any, nvml_reader: Any) -> None:
    nvml.mig, nvml.processes = {0: [3]}, [(0, 100, 60, 0, FOREVER_MS)]
    nvml.write()
    nvml_reader.open()
    nvml.at(1_000)
    assert activity(nvml_reader) is None


def test_processes_that_cannot_be_listed_now_leave_the_energy(nvml: Any, nvml_reader: Any) -> None:
    nvml.fail("GetProcessUtilization", 999)
    nvml_reader.open()
    (reading,) = nvml_reader.read()
    assert (reading.activity_ns, reading.counter_uj) == (None, 0)


def sample(pid: int, at_us: int, use: int) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, timeStamp=at_us, smUtil=use)


def asked(*answers: list[SimpleNamespace] | int) -> list[dict[str, int]]:
    """What is told after each of these answers; a number is an error. Processes 1 and 2 run."""
    waiting = list(answers)

    def utilisation(handle: Any, seen_us: int) -> list[SimpleNamespace]:
        answer = waiting.pop(0)
        if isinstance(answer, int):
            raise NvmlError(answer)
        return answer

    nvml = SimpleNamespace(
        NVMLError=NvmlError,
        nvmlDeviceGetProcessUtilization=utilisation,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [SimpleNamespace(pid=1), SimpleNamespace(pid=2)],
    )
    question = ProcessActivity(lambda: 10_000_000)
    return [question(nvml, None)["activity_ns"] for _ in answers]


def test_several_samples_of_one_process_follow_each_other() -> None:
    told = asked(
        [sample(1, 1_000_000, 9)], [sample(1, 4_000_000, 10), sample(1, 2_000_000, 50), sample(2, 4_000_000, 20)]
    )
    assert told[1] == {"1": 700_000_000, "2": 600_000_000}


def test_a_board_of_one_process_needs_no_list_of_those_that_run() -> None:
    def utilisation(handle: Any, seen_us: int) -> list[SimpleNamespace]:
        return [sample(1, seen_us + 1_000_000, 50)]

    question = ProcessActivity()
    nvml = SimpleNamespace(nvmlDeviceGetProcessUtilization=utilisation)
    assert [question(nvml, None) for _ in range(3)][1:] == [{"activity_ns": {"1": 500_000_000}}] * 2


def test_wrong_entries_are_left_out() -> None:
    first = [sample(1, 1_000_000, 9)]
    wrong = [sample(1, 2_000_000, 101), sample(2, 1_000_000, 50), sample(2, 0, 50), sample(77, 2_000_000, 50)]
    assert asked(first, wrong)[1] == {"1": 0, "2": 0}


def test_a_sample_from_the_future_hides_none_that_follows() -> None:
    told = asked([sample(1, 1_000_000, 9)], [sample(1, 2**60, 50)], [sample(1, 3_000_000, 50)])
    assert told[1:] == [{"1": 0}, {"1": 1_000_000_000}]


@pytest.mark.parametrize("code", [0, 6])
def test_nothing_new_is_no_error(code: int) -> None:
    told = asked([sample(1, 1_000_000, 9)], code, [sample(1, 3_000_000, 50)])
    assert told == [{"1": 0}, {"1": 0}, {"1": 1_000_000_000}]


def test_any_other_error_is_one() -> None:
    with pytest.raises(NvmlError):
        asked(999)


def test_who_runs_on_a_board_is_told_every_half_minute_idle_ones_too(nvml: Any, nvml_reader: Any) -> None:
    nvml.boards, nvml.processes = 2, [(0, 100, 0, 0, 40_000), (1, 200, 50, 0, FOREVER_MS), (1, 300, 0, 0, FOREVER_MS)]
    nvml.write()
    nvml_reader.open()
    told = []
    for second in range(61):
        nvml.at(second * 1_000)
        told.append([board.processes for board in nvml_reader.read()])
    assert [second for second, one in enumerate(told) if one != [None, None]] == [0, 30, 60]
    assert told[0] == told[30] == [{"100": ""}, {"200": "", "300": ""}]
    assert told[60] == [{}, {"200": "", "300": ""}]


def test_under_mig_the_instance_of_each_process_is_told(nvml: Any, nvml_reader: Any) -> None:
    nvml.mig = {0: [3, 0, 4]}
    nvml.processes = [(0, 100, 60, 0, FOREVER_MS, 0), (0, 200, 60, 0, FOREVER_MS, 2), (0, 300, 60, 0, FOREVER_MS, 2)]
    nvml.write()
    nvml_reader.open()
    (reading,) = nvml_reader.read()
    assert reading.processes == {"100": slice_uuid(0, 0), "200": slice_uuid(0, 2), "300": slice_uuid(0, 2)}


def test_a_driver_that_tells_no_processes_tells_none(nvml: Any, nvml_reader: Any) -> None:
    nvml.fail("GetComputeRunningProcesses", NOT_SUPPORTED)
    nvml_reader.open()
    (reading,) = nvml_reader.read()
    assert reading.processes is None and reading.counter_uj is not None
