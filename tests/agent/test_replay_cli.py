"""`joulefleet replay`, against a fake collector on a real socket."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from joulefleet.delivery import Answer, Rejected
from joulefleet.describe import Meter
from joulefleet.reading import MeterReading
from joulefleet.window import Window
from joulefleet_agent import replay_cli
from joulefleet_agent.cutter import Identity
from joulefleet_agent.listen import Heard
from joulefleet_agent.recording import Began, RecordingWriter
from joulefleet_agent.replay_cli import replay
from joulefleet_agent.sampler import Opened, Said
from joulefleet_agent.service import only_one
from joulefleet_agent.spool import Bounds, Spool

DATA = Path(os.environ.get("JOULEFLEET_DATA", Path(__file__).parents[3] / "shared" / "data"))
HEAD = "timestamp, index, uuid, power.draw [W]\n"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "joulefleet"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two boards of 300 and 200 W, ten minutes long, one reading a second."""
    lines = [
        f"2025/01/02 03:{t // 60:02}:{t % 60:02}.000, {k}, GPU-{k}, {300 - 100 * k}.00 W\n"
        for t in range(600)
        for k in range(2)
    ]
    path = tmp_path / "gpus.csv"
    path.write_text(HEAD + "".join(lines))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(replay, [str(one) for one in arguments])


def smi(recording: Path, collector: Any, *more: object) -> Result:
    return run("nvidia-smi", recording, "--server", "a", "--collector", collector.url, *more)


@pytest.mark.parametrize("url", ["htps://127.0.0.1:9", "127.0.0.1:9", "http://me:word@127.0.0.1:9"])
def test_a_collector_that_is_no_url_is_refused_before_anything_is_sent(recording: Path, url: str) -> None:
    result = run("nvidia-smi", recording, "--server", "a", "--collector", url)
    assert result.exit_code == 2 and "expected a URL without a user" in result.output
    assert "word" not in result.output


def test_a_recording_is_delivered_and_told_in_one_line(recording: Path, collector: Any, state: Path) -> None:
    result = smi(recording, collector)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("10 windows of 599 s, 2025-01-02 03:00:00 to 2025-01-02 03:09:59, stored in")
    joules = sum(one.energy_uj for window in collector.taken for one in window.meters) / 1e6
    assert joules == pytest.approx(500 * 599)
    assert all(collector.backfills)
    assert list(state.glob("*")) == []


def test_a_token_goes_with_every_batch(recording: Path, collector: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("jf1.secret\n")
    assert smi(recording, collector, "--token-file", tmp_path / "token").exit_code == 0
    assert {headers.get("Authorization") for headers in collector.asked} == {"Bearer jf1.secret"}
    missing = smi(recording, collector, "--token-file", tmp_path / "none")
    assert missing.exit_code == 2
    assert "the secret cannot be read" in missing.output


def test_as_json(recording: Path, collector: Any) -> None:
    result = smi(recording, collector, "--json", "--step", 10, "--model", "m", "--hardware", "H100")
    assert result.exit_code == 0, result.output
    told = msgspec.json.decode(result.stdout)
    assert told["windows"] == len(collector.taken) == 60
    assert (told["refused"], told["lost"]) == ({}, 0)
    assert {one.step_ns for one in collector.taken} == {10_000_000_000}


def test_again_is_the_same_and_said_otherwise_is_another_timeline(recording: Path, collector: Any) -> None:
    for _ in range(2):
        smi(recording, collector)
    assert len({one.key for one in collector.taken}) == 10
    assert len(collector.taken) == 20
    smi(recording, collector, "--model", "other")
    assert len({one.timeline for one in collector.taken}) == 2


def test_refused_windows_are_kept_and_the_command_fails(
    recording: Path, collector: Any, reply: Any, state: Path
) -> None:
    collector.replies = [reply(answer=Answer(rejected=[Rejected(index=0, code="malformed", detail="x")]))]
    result = smi(recording, collector)
    assert result.exit_code == 1
    assert "refused windows for good: 1 malformed; they are kept in" in result.output
    assert len(list(state.glob("replay-*.db"))) == 1


def test_windows_without_room_fail_the_command(recording: Path, collector: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(replay_cli, "REPLAY_BOUNDS", Bounds(max_bytes=2_000))
    result = smi(recording, collector)
    assert result.exit_code == 1
    assert "no room" in result.output


def test_a_collector_that_is_away_is_one_sentence(
    recording: Path, collector: Any, reply: Any, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joulefleet_agent.replay.PATIENCE_S", -1.0)
    collector.default = lambda _windows: reply(503)
    result = smi(recording, collector)
    assert result.exit_code == 1
    assert "run the same command again" in result.output
    assert "Traceback" not in result.output
    collector.default = lambda _windows: reply()
    assert smi(recording, collector).exit_code == 0
    assert len(collector.taken) == 10
    assert list(state.glob("*")) == []


def test_a_spool_of_ones_own_is_kept(recording: Path, collector: Any, tmp_path: Path) -> None:
    spool = tmp_path / "mine.db"
    assert smi(recording, collector, "--spool", spool).exit_code == 0
    assert spool.exists()


@pytest.mark.parametrize(
    ("content", "more"), [("not, a, recording\n", ()), (HEAD, ("--step", "7")), (HEAD, ("--column", "power.typo"))]
)
def test_what_the_user_has_to_mend_is_one_sentence(
    tmp_path: Path, collector: Any, content: str, more: tuple[str, ...]
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    result = smi(path, collector, *more)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Error: " in result.output
    assert collector.taken == []


def test_windows_as_recorded(tmp_path: Path, collector: Any, make_window: Callable[..., Window]) -> None:
    path = tmp_path / "windows.jsonl"
    windows = [make_window(), make_window()]
    path.write_bytes(b"\n".join(one.encode_json() for one in windows))
    result = run("windows", path, "--collector", collector.url)
    assert result.exit_code == 0, result.output
    assert collector.taken == windows
    path.write_bytes(b"{}\n")
    result = run("windows", path, "--collector", collector.url)
    assert result.exit_code == 2
    assert "windows.jsonl line 1" in result.output


def test_an_mlperf_run_is_told_to_the_joule(collector: Any) -> None:
    folder = DATA / "mlperf" / "h200x8-maxq" / "llama2-70b" / "offline"
    if not folder.exists():
        pytest.skip(f"no recorded MLPerf run in {DATA} (set JOULEFLEET_DATA)")
    result = run("mlperf", folder, "--server", "h200", "--model", "llama2-70b", "--collector", collector.url)
    assert result.exit_code == 0, result.output
    joules = sum(one.energy_uj for window in collector.taken for one in window.meters) / 1e6
    assert joules == pytest.approx(19_175_588, rel=1e-3)


def test_a_spool_is_sent_with_what_was_refused_before(
    recording: Path, collector: Any, reply: Any, tmp_path: Path
) -> None:
    path = tmp_path / "spool.db"
    collector.replies = [reply(answer=Answer(rejected=[Rejected(index=k, code="too_old") for k in range(4)]))]
    assert smi(recording, collector, "--spool", path).exit_code == 1
    before = len(collector.taken)
    result = run("spool", path, "--collector", collector.url)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("4 windows of")
    assert len({one.key for one in collector.taken}) == before + 4 == 10
    assert path.exists()


def test_a_spool_in_which_nothing_waits_is_told_so(tmp_path: Path, collector: Any) -> None:
    path = tmp_path / "spool.db"
    with Spool(path):
        pass
    result = run("spool", path, "--collector", collector.url)
    assert (result.exit_code, result.output) == (0, "no windows: nothing was sent\n")


def test_a_spool_of_a_running_agent_is_left_alone(tmp_path: Path, collector: Any) -> None:
    path = tmp_path / "spool.db"
    with Spool(path), only_one(path):
        result = run("spool", path, "--collector", collector.url)
    assert result.exit_code == 1
    assert "another agent is running on it" in result.output


def test_recorded_readings_are_played_with_what_was_recorded_of_the_server(
    tmp_path: Path, collector: Any, state: Path
) -> None:
    began = Began(identity=Identity(server="gpu-17", pool="chat"), step_ns=10_000_000_000)
    with RecordingWriter(tmp_path / "r", began) as writer:
        for second in range(31):
            at_ns = second * 1_000_000_000
            wall_ns = 1_500_000_000_000_000_000 + at_ns
            if not second:
                wall = Meter(id="wall", kind="server", grade="counter", sensor_class="platform")
                writer.write(Heard(at_ns, wall_ns, Opened("a", (wall,))))
            said = Said("a", at_ns, (MeterReading(meter="wall", counter_uj=second * 10**8),))
            writer.write(Heard(at_ns, wall_ns, said))
    for _ in range(2):
        result = run("readings", tmp_path / "r", "--collector", collector.url)
        assert result.exit_code == 0, result.output
        assert result.output.startswith("3 windows of 30 s, 2017-07-14 02:40:00 to 2017-07-14 02:40:30")
    assert {(one.server, one.pool, one.step_ns) for one in collector.taken} == {("gpu-17", "chat", 10_000_000_000)}
    assert (
        sum(meter.energy_uj for one in {w.key: w for w in collector.taken}.values() for meter in one.meters)
        == 3 * 10**9
    )
    assert list(state.glob("*.db")) == []
    (tmp_path / "notes").write_text("no recording")
    wrong = run("readings", tmp_path / "notes", "--collector", collector.url)
    assert wrong.exit_code == 2 and "not a recording" in wrong.output
