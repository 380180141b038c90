"""The command: options, files, and what it says."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from joulefleet.window import decode_json
from joulefleet_agent.simulate.command import Progress, simulate
from joulefleet_agent.simulate.load import Sent

SMALL = ("--servers", "3", "--days", "0.05", "--step", "300")


def run(*options: str) -> Result:
    return CliRunner().invoke(simulate, list(options), catch_exceptions=False)


def made(path: Path, *options: str) -> bytes:
    done = run(*SMALL, *options, "--out", str(path))
    assert done.exit_code == 0, done.output
    return path.read_bytes()


@pytest.mark.parametrize("way", [(), ("--fast",)])
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, way: tuple[str, ...]) -> None:
    trouble = ("--sensor-faults", "2", "--outages", "1", "--release", "8", "--stragglers", "1")
    first = made(tmp_path / "a", *way, *trouble)
    assert first == made(tmp_path / "b", *way, *trouble)
    assert first != made(tmp_path / "c", *way, *trouble, "--seed", "2")
    windows = [decode_json(line) for line in first.splitlines()]
    assert all(window.simulated for window in windows)
    assert {window.server for window in windows} == {"sim-0001", "sim-0002", "sim-0003"}


def test_the_outcome_is_told_as_json(tmp_path: Path) -> None:
    done = run(*SMALL, "--fast", "--out", str(tmp_path / "a"), "--json")
    outcome = json.loads(done.stdout)
    assert (outcome["servers"], outcome["windows"]) == (3, 42)
    assert outcome["until_s"] - outcome["from_s"] == 4_200


def test_the_truth_alone_may_be_asked_for(tmp_path: Path) -> None:
    done = run(*SMALL, "--regression", "5", "--truth", str(tmp_path / "t.json"))
    assert done.exit_code == 0
    told = json.loads((tmp_path / "t.json").read_text())
    assert len(told["servers"]) == 3
    assert [one["kind"] for one in told["injected"]] == ["regression"]


def test_options_stand_above_the_file(tmp_path: Path) -> None:
    scenario = tmp_path / "lab.toml"
    scenario.write_text('name = "lab"\nservers = 5\ndays = 0.05\nstep_s = 300\n')
    run("--scenario", str(scenario), "--servers", "2", "--fast", "--out", str(tmp_path / "a"))
    servers = {decode_json(line).server for line in (tmp_path / "a").read_bytes().splitlines()}
    assert servers == {"lab-0001", "lab-0002"}


def test_arrivals_give_the_course(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6,10,1\n2023-11-16 18:16:50,10,99\n")
    lines = made(tmp_path / "a", "--fast", "--arrivals", str(trace)).splitlines()
    work = decode_json(lines[0]).engines[0].work[0].counts
    # Five minutes: 1, 99, 1, 99 and 1 output tokens for 10 prompt tokens each, scaled.
    assert work.prompt_tokens == pytest.approx((work.output_tokens or 0) * 50 / 201, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "say where it goes"),
        (("--out", "x", "--collector", "http://127.0.0.1:1"), "say where it goes"),
        (("--out", "-", "--step", "7"), "step_s: a window step of 7 s"),
        (("--out", "-", "--begin", "soon"), "begin"),
        (("--out", "-", "--servers", "0"), "servers"),
        (("--out", "-", "--arrivals", "/none.csv"), "/none.csv: cannot be read"),
        (("--out", "-", "--days", "0.001", "--step", "600"), "days: shorter than one window"),
    ],
)
def test_what_the_user_can_mend_ends_with_one_sentence(options: tuple[str, ...], said: str) -> None:
    done = run(*options)
    assert done.exit_code == 2
    assert said in done.stderr


def test_windows_go_to_a_collector(collector: Any) -> None:
    done = run(*SMALL, "--fast", "--collector", collector.url, "--batch", "4", "--connections", "2", "--json")
    outcome = json.loads(done.stdout)
    assert outcome["windows"] == len(collector.taken) == 42
    assert outcome["wire_bytes"] > 0
    assert max(len(batch) for batch in collector.batches) == 4


def test_progress_is_told_every_few_seconds(capsys: pytest.CaptureFixture[str], make_window: Any) -> None:
    now_s = iter([1.0, 5.0, 6.0, 11.0])
    progress = Progress(0.0, now_s.__next__)
    progress.sent(Sent(windows=1))
    for _ in range(4):
        progress.made([make_window(), make_window()])
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "4 windows, 1 stored, 1/s, at 1970-01-01 00:04:00",
        "8 windows, 1 stored, 1/s, at 1970-01-01 00:08:00",
    ]
