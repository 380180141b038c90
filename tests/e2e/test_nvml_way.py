"""Eight GPUs from NVML to the report, through the loss of a board and a reload of the driver: the fake's joules."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.collectors import Collector
from fixtures.nvml.fake_nvml import DRIVER_NOT_LOADED, FakeNvml, build, compiler, uuid
from fixtures.nvml.nvml_process import NvmlReader
from fixtures.virtual_agent import AgentOf, Clock, SteadyEngine, each_s
from joulefleet.units import NS_PER_S, mj_to_uj, mw_to_w, s_to_ns, uj_to_j
from joulefleet.window import MeterWindow, Window
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler to build the fake NVML library with")

BOARDS = 8
SECONDS, STEP_S = 600, 10
LOST = 5
LOST_MS = (130_500, 170_000)
AWAY_MS = (400_500, 404_000)
"""While the driver is loaded anew."""
LOST_GAP_MS, AWAY_GAP_MS = (130_000, 170_000), (400_000, 404_000)
"""From the last reading before to the first one after, at one reading a second."""
TOKENS_PER_S = 5_000


@pytest.fixture
def nvml(tmp_path: Path) -> FakeNvml:
    """Eight boards of different power, one that is lost for a time, and a driver that is loaded anew."""
    fake = FakeNvml(library=build(tmp_path / "library"), control=tmp_path / "control", boards=BOARDS, refresh_ms=100)
    fake.power_mw = {board: 300_000 + 37_123 * board for board in range(BOARDS)}
    fake.reloads_ms = [AWAY_MS[0]]
    fake.lose(LOST, *LOST_MS)
    fake.fail("*", DRIVER_NOT_LOADED, from_ms=AWAY_MS[0], to_ms=AWAY_MS[1])
    return fake


@pytest.fixture
def boards(nvml: FakeNvml) -> Iterator[NvmlReader]:
    reader = NvmlReader(nvml.environment())
    reader.open()
    yield reader
    reader.close()


@pytest.fixture
def stored(nvml: FakeNvml, boards: NvmlReader, agent_of: AgentOf, hosted: Collector, clock: Clock) -> list[Window]:
    """Ten minutes of the server, read each second and delivered as they come."""
    agent = agent_of("gpu-1", STEP_S)
    agent.open(nvml=boards, engine=SteadyEngine("m", TOKENS_PER_S, clock))
    for second in each_s(clock, SECONDS):
        nvml.at(second * 1_000)
        agent.read("nvml")
        agent.read("engine")
        agent.tick()
    agent.finish()
    return hosted.windows()


def of(windows: list[Window], board: int) -> list[MeterWindow]:
    return [meter for window in windows for meter in window.meters if meter.meter.id == uuid(board)]


def known_uj(nvml: FakeNvml, board: int) -> float:
    """What the board drew while anybody could know it."""
    gaps = [AWAY_GAP_MS, *([LOST_GAP_MS] if board == LOST else [])]
    whole_mj = nvml.truth_mj(board, 0, SECONDS * 1_000)
    return mj_to_uj(round(whole_mj - sum(nvml.truth_mj(board, *gap) for gap in gaps)))


def test_eight_boards_give_the_joules_of_the_fake_where_they_are_covered(
    nvml: FakeNvml, stored: list[Window], hosted: Collector
) -> None:
    assert len(stored) == SECONDS // STEP_S
    for board in range(BOARDS):
        meters = of(stored, board)
        energy_uj = sum(one.energy_uj for one in meters)
        assert energy_uj == pytest.approx(known_uj(nvml, board), rel=1e-3)
        assert not any(one.late_uj or one.rejected_uj for one in meters)
        uncovered_s = 44 if board == LOST else 4
        assert sum(one.covered_ns for one in meters) == s_to_ns(SECONDS - uncovered_s)
        # The gauge beside the counter agrees, and was seen for as long.
        assert sum(one.gauge_uj for one in meters) == pytest.approx(energy_uj, rel=1e-2)
    (ledger,) = hosted.ask()["ledger"]
    whole_uj = sum(known_uj(nvml, board) for board in range(BOARDS))
    assert ledger["boundary"] == "accelerator"
    assert ledger["metered_j"] == pytest.approx(uj_to_j(round(whole_uj)), rel=1e-3)
    assert ledger["residual_uj"] == 0
    assert ledger["joules_by_grade"] == {"counter": ledger["metered_j"]}


def test_a_lost_board_and_an_absent_driver_lower_the_coverage(stored: list[Window], hosted: Collector) -> None:
    (ledger,) = hosted.ask()["ledger"]
    assert ledger["covered_s"] == SECONDS - 44
    step_ns = STEP_S * NS_PER_S
    # The last of them closes after the board came back, in a new life of its counter.
    assert [one.gaps_ns for one in of(stored, LOST)[13:17]] == [*[{"gpu_lost": step_ns}] * 3, {"epoch": step_ns}]
    assert [of(stored, board)[40].gaps_ns for board in range(BOARDS)] == [{"epoch": 4 * NS_PER_S}] * BOARDS
    gone = [row.fields for row in account(stored[14], Policy()) if row.tags.get("meter") == uuid(LOST)]
    assert [("energy_j" in fields, fields["covered_s"]) for fields in gone] == [(False, 0.0)]
    assert of(stored, LOST)[14].trace_mw == (None,)
    assert of(stored, LOST)[17].covered_ns == step_ns


def test_the_report_stands_on_whole_windows_and_says_how_many(
    nvml: FakeNvml, stored: list[Window], hosted: Collector
) -> None:
    answer = hosted.report("--by", "model,hardware")
    (row,) = answer["rows"]
    assert (row["model"], row["hardware"], row["boundary"]) == ("m", nvml.name, "accelerator")
    # Four windows without the board, one in which the driver was away for four seconds.
    assert row["paired_s"] == SECONDS - 5 * STEP_S
    assert row["status"] == "partial"
    all_w = sum(mw_to_w(power_mw) for power_mw in nvml.power_mw.values())
    assert row["joules_per_output_token"] == pytest.approx(all_w / TOKENS_PER_S, rel=1e-3)
    assert row["output_tokens"] + row["unmetered_output_tokens"] == SECONDS * TOKENS_PER_S
    # In the first of its minutes the board's counter had not yet been seen to agree with its gauge.
    assert [one["code"] for one in answer["warnings"]] == ["unmatched", "unvalidated", "not_the_whole_server"]
    assert answer["warnings"][0]["unpaired_s"] == 5 * STEP_S
    (ledger,) = answer["ledger"]
    assert ledger["mean_power_w"] is None
    unmatched_j = sum(uj_to_j(meter.energy_uj) for window in (*stored[13:17], stored[40]) for meter in window.meters)
    assert ledger["unmatched_j"] == pytest.approx(unmatched_j)
