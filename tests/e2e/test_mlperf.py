"""Recorded runs through the real commands: replayed to a collector process, and asked for what their work cost."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fixtures.collectors import Collector, as_process, run
from fixtures.recorded import DATA, Course, board_course, interval, joules, needs_data, wall_course
from joulefleet.units import NS_PER_S, s_to_ns, uj_to_j, w_to_mw
from joulefleet.window import Window
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy

pytestmark = needs_data

MLPERF = DATA / "mlperf"
RUNS = {
    "llama2-70b": "h200x8-maxq/llama2-70b",
    "gptj": "h200x8-maxq/gptj",
    "resnet50": "h200x8-maxq/resnet50",
    "resnet50-h13": "untether-h13-u3-slim/resnet50",
    "resnet50-r760": "untether-r760-u6-slim/resnet50",
}
"""Folder of each run by the name of the server on which it is replayed."""
STEP_S = 10


def folder(server: str) -> Path:
    return MLPERF / RUNS[server] / "offline"


def replay(collector: Collector, spool: Path, *arguments: str) -> dict[str, Any]:
    said = run("replay", *arguments, "--collector", collector.url, "--spool", str(spool), "--json")
    outcome: dict[str, Any] = msgspec.json.decode(said.stdout)
    assert outcome["refused"] == {}
    return outcome


def replay_run(collector: Collector, spool: Path, server: str, *more: str, name: str = "") -> dict[str, Any]:
    model = server.partition("-h13")[0].partition("-r760")[0]
    of = ("--server", name or server, "--model", model, "--step", str(STEP_S))
    return replay(collector, spool, "mlperf", str(folder(server)), *of, *more)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A collector to which all five runs were replayed, each as a server of its own."""
    place = tmp_path_factory.mktemp("mlperf")
    with as_process(place / "data") as collector:
        for server in RUNS:
            replay_run(collector, place / f"{server}.db", server)
        yield collector


@pytest.fixture(scope="module")
def llama(fleet: Collector) -> list[Window]:
    """Windows of the longest run."""
    return fleet.windows(server="llama2-70b")


def metered_j(windows: Sequence[Window]) -> float:
    return uj_to_j(sum(meter.energy_uj for window in windows for meter in window.meters))


def figures(answer: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What an answer says, without the time at which it was asked."""
    return answer["rows"], answer["ledger"], answer["warnings"]


def sorted_out(answer: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """Everything in an answer by its place: words and unknowns, and numbers."""
    found = dict(leaves(answer))
    numbers = {place: value for place, value in found.items() if isinstance(value, float)}
    return {place: value for place, value in found.items() if place not in numbers}, numbers


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a value that is no table and no list, with its place."""
    if isinstance(value, dict | list | tuple):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, f"{path}/{name}")
    else:
        yield path, value


@pytest.mark.parametrize(
    ("model", "hardware", "figure", "expected", "tolerance"),
    [
        ("llama2-70b", "h200x8-maxq", "joules_per_output_token", 0.24355, 1e-3),
        ("gptj", "h200x8-maxq", "joules_per_output_token", 0.36457, 1e-3),
        ("resnet50", "h200x8-maxq", "joules_per_request", 8.90836e-3, 2e-3),
        ("resnet50", "untether-h13-u3-slim", "joules_per_request", 2.36018e-3, 2e-3),
        ("resnet50", "untether-r760-u6-slim", "joules_per_request", 3.05342e-3, 2e-3),
    ],
)
def test_the_report_says_what_the_submitters_work_cost(  # one argument a column
    fleet: Collector, model: str, hardware: str, figure: str, expected: float, tolerance: float
) -> None:
    rows = fleet.report("--by", "model,hardware")["rows"]
    (row,) = [row for row in rows if (row["model"], row["hardware"]) == (model, hardware)]
    assert row["boundary"] == "server"
    assert row["status"] == "ok"
    assert not row["simulated"]
    assert row["measured_share"] == 1.0
    assert row[figure] == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("server", RUNS)
def test_only_the_two_windows_that_the_run_covers_in_part_are_unmatched(fleet: Collector, server: str) -> None:
    ledgers = [
        row.fields
        for window in fleet.windows(server=server)
        for row in account(window, Policy())
        if row.kind == "ledger"
    ]
    assert [one["residual_uj"] for one in ledgers] == [0.0] * len(ledgers)
    assert [one["unattributed_j"] for one in ledgers] == [0.0] * len(ledgers)
    unmatched_j = [one["unmatched_j"] for one in ledgers]
    assert unmatched_j[1:-1] == [0.0] * (len(ledgers) - 2)
    assert (unmatched_j[0], unmatched_j[-1]) == (ledgers[0]["metered_j"], ledgers[-1]["metered_j"])
    assert min(unmatched_j[0], unmatched_j[-1]) > 0
    answer = fleet.ask(server=server)
    (warning,) = [one for one in answer["warnings"] if one["code"] == "unmatched"]
    assert warning["unpaired_s"] == 2 * STEP_S
    assert warning["unmatched_j"] == pytest.approx(unmatched_j[0] + unmatched_j[-1])


@pytest.mark.parametrize("server", RUNS)
def test_metered_joules_and_all_work_are_those_of_the_interval(fleet: Collector, server: str) -> None:
    answer = fleet.ask(server=server)
    (ledger,) = answer["ledger"]
    expected_j = joules(wall_course(folder(server)), *interval(folder(server)))
    assert ledger["metered_j"] == pytest.approx(expected_j, rel=1e-6)
    assert ledger["residual_uj"] == 0
    (row,) = answer["rows"]
    rate = {"llama2-70b": 86.7369, "gptj": 189.806}.get(server)
    if rate:
        begin_s, end_s = interval(folder(server))
        assert row["requests_ok"] + row["unmetered_requests_ok"] == round(rate * (end_s - begin_s))


def test_the_longest_run_is_stored_in_at_least_three_hundred_windows(llama: list[Window]) -> None:
    assert len(llama) >= 300
    starts_s = [window.start_ns // NS_PER_S for window in llama]
    assert starts_s == list(range(starts_s[0], starts_s[0] + STEP_S * len(llama), STEP_S))


def test_any_ten_minutes_agree_with_the_file(llama: list[Window]) -> None:
    course = wall_course(folder("llama2-70b"))
    chance = random.Random(2024)
    for first in chance.sample(range(1, len(llama) - 61), 12):
        span = llama[first : first + 60]
        from_s = span[0].start_ns / NS_PER_S
        assert metered_j(span) == pytest.approx(joules(course, from_s, from_s + 600), rel=1e-3)
        assert [window.meters[0].covered_ns for window in span] == [s_to_ns(STEP_S)] * 60


def test_the_course_inside_a_window_is_the_files(llama: list[Window]) -> None:
    course = wall_course(folder("llama2-70b"))
    for window in llama[1:-1:25]:
        (mean_mw,) = window.meters[0].trace_mw
        from_s = window.start_ns / NS_PER_S
        assert mean_mw == pytest.approx(w_to_mw(joules(course, from_s, from_s + STEP_S) / STEP_S), rel=1e-3)


def test_the_whole_log_has_the_energy_outside_of_the_interval_too(collector: Collector, tmp_path: Path) -> None:
    replay_run(collector, tmp_path / "s.db", "gptj", "--all")
    course, (begin_s, end_s) = wall_course(folder("gptj")), interval(folder("gptj"))
    assert course[0][0] < begin_s - 30 and course[-1][0] > end_s + 1
    (ledger,) = collector.ask()["ledger"]
    assert ledger["metered_j"] == pytest.approx(joules(course, course[0][0], course[-1][0]), rel=1e-6)
    before = [window for window in collector.windows() if window.end_ns / NS_PER_S <= begin_s]
    assert metered_j(before) == pytest.approx(joules(course, course[0][0], before[-1].end_ns / NS_PER_S), rel=1e-6)
    done = [work.counts.requests_ok for window in before for work in window.engines[0].work]
    assert done == [0] * len(before)


def test_the_same_again_changes_nothing(collector: Collector, tmp_path: Path) -> None:
    first = replay_run(collector, tmp_path / "a.db", "resnet50")
    before, stored = collector.ask(), collector.export()
    again = replay_run(collector, tmp_path / "b.db", "resnet50")
    assert (again["timeline"], again["windows"]) == (first["timeline"], first["windows"])
    assert figures(collector.ask()) == figures(before)
    assert collector.export() == stored


def test_exported_windows_replayed_elsewhere_give_equal_answers(
    fleet: Collector, collector: Collector, tmp_path: Path
) -> None:
    exported = tmp_path / "windows.jsonl"
    exported.write_bytes(fleet.export())
    outcome = replay(collector, tmp_path / "s.db", "windows", str(exported))
    assert outcome["windows"] == len(exported.read_bytes().splitlines())
    for by in ("model,hardware", "server,model"):
        (words, numbers), (words_there, numbers_there) = (
            sorted_out(figures(one.ask(by=by, step="hour"))) for one in (collector, fleet)
        )
        assert words == words_there
        # Batches of other sizes are added up in another order.
        assert numbers == pytest.approx(numbers_there, rel=1e-9)
    assert collector.export() == exported.read_bytes()


@pytest.mark.parametrize("recording", ["A100_gpudata.csv", "A100_5050_gpudata.csv"])
def test_a_recording_of_nvidia_smi_gives_its_joules(collector: Collector, tmp_path: Path, recording: str) -> None:
    path = DATA / "nvidia-smi" / recording
    of = ("--server", "a100-1", "--hardware", "A100", "--step", str(STEP_S))
    outcome = replay(collector, tmp_path / "s.db", "nvidia-smi", str(path), *of)
    course: Course = board_course(path, column=5)
    (ledger,) = collector.ask()["ledger"]
    assert ledger["boundary"] == "accelerator"
    assert ledger["metered_j"] == pytest.approx(joules(course, course[0][0], course[-1][0]), rel=1e-3)
    assert ledger["covered_s"] == pytest.approx(course[-1][0] - course[0][0], abs=0.02)
    assert outcome["readings"] == len(course)
