"""`joulefleet agent`, as a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from joulefleet_agent.recording import BadReadings, RecordedReadings

COMMAND = (sys.executable, "-m", "joulefleet", "agent")
WAIT_S = 20
Start = Callable[..., "subprocess.Popen[str]"]


def wait_until(true: Callable[[], bool], within_s: float) -> None:
    """Wait for a condition, at most so long."""
    until_s = time.monotonic() + within_s
    while not _true(true):
        assert time.monotonic() < until_s, "it never was so"
        time.sleep(0.05)


def _true(true: Callable[[], bool]) -> bool:
    try:
        return true()
    except BadReadings:
        return False


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the command; what still runs at the end is ended."""
    begun: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def config(tmp_path: Path, url: str = "http://127.0.0.1:9", **changes: str) -> Path:
    lines = {
        "server": '"gpu-17"',
        "step_s": "1",
        "spool": f'"{tmp_path / "spool.db"}"',
        "sources": '[{use = "simulated", boards = 2, start_s = 0, period_s = 0.1}]',
        "collector": f'{{url = "{url}"}}',
        **changes,
    }
    path = tmp_path / "agent.toml"
    path.write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
    return path


def refused(process: "subprocess.Popen[str]") -> str:
    """What it says when it ends at once because of the user."""
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2, err
    assert "Traceback" not in out + err
    return err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_delivers_until_it_is_told_to_stop(start: Start, tmp_path: Path, collector: Any, how: int) -> None:
    process = start("run", "--config", config(tmp_path, collector.url))
    assert collector.wait_for(1, WAIT_S)
    process.send_signal(how)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    assert out == ""
    assert f"agent of gpu-17: windows of 1 s to {collector.url}" in err
    assert "Traceback" not in err
    assert collector.taken[0].server == "gpu-17"


def test_a_second_agent_on_one_spool_is_refused(start: Start, tmp_path: Path, collector: Any) -> None:
    first = start("run", "--config", config(tmp_path, collector.url))
    assert collector.wait_for(1, WAIT_S)
    assert "another agent is running on it" in refused(start("run", "--config", tmp_path / "agent.toml"))
    assert first.poll() is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stepp_s": "5"}, ["stepp_s", "unknown field"]),
        ({"step_s": "7"}, ["step_s", "does not divide an hour"]),
        ({"collector": '{url = "127.0.0.1:8765"}'}, ["collector.url", "http://127.0.0.1:8765"]),
        ({"collector": '{token_file = "/nowhere/token"}'}, ["/nowhere/token", "cannot be read"]),
        ({"sources": '[{use = "simulatd"}]'}, ["sources", "'simulatd'", "simulated"]),
        ({"sources": '[{use = "simulated", boards = "2"}]'}, ["source simulated: boards", "expected `int`"]),
        ({"spool": '"/dev/null/spool.db"'}, ["/dev/null/spool.db"]),
    ],
)
def test_what_the_user_has_to_mend_is_one_sentence(
    start: Start, tmp_path: Path, changes: dict[str, str], told: list[str]
) -> None:
    said = refused(start("run", "--config", config(tmp_path, **changes)))
    sentence = said.strip().splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert all(part in sentence for part in told), sentence
    if "spool" not in changes and "token" not in str(changes):
        assert str(tmp_path / "agent.toml") in sentence


def test_a_config_that_is_not_there(start: Start, tmp_path: Path) -> None:
    assert "does not exist" in refused(start("run", "--config", tmp_path / "none.toml"))


def test_a_spool_that_is_something_else(start: Start, tmp_path: Path) -> None:
    (tmp_path / "spool.db").write_text("notes\n" * 500)
    assert "spool.db: file is not a database" in refused(start("run", "--config", config(tmp_path)))


def test_once_prints_what_every_source_says_and_keeps_nothing(start: Start, tmp_path: Path) -> None:
    process = start("once", "--json", "--config", config(tmp_path))
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    told = msgspec.json.decode(out)
    assert [one["type"] for one in told["simulated"]] == ["MeterReading"] * 3 + ["WorkReading"]
    assert all(one["at_ns"] > 0 for one in told["simulated"])
    assert not (tmp_path / "spool.db").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_recording_ends_with_ctrl_c_and_one_that_was_killed_can_be_read(
    start: Start, tmp_path: Path, how: int
) -> None:
    process = start("record", tmp_path / "r", "--config", config(tmp_path))
    wait_until(lambda: (tmp_path / "r").exists() and len(list(RecordedReadings(tmp_path / "r").heard())) > 5, WAIT_S)
    process.send_signal(how)
    out, err = process.communicate(timeout=WAIT_S)
    assert "Traceback" not in err
    heard = list(RecordedReadings(tmp_path / "r").heard())
    assert len(heard) > 5
    if how == signal.SIGINT:
        assert f"{tmp_path / 'r'}: " in out and " readings in " in out
    assert "exists already; name another file" in refused(start("record", tmp_path / "r"))


def test_once_says_in_words_what_gives_no_value(start: Start, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    page = f'[{{use = "openmetrics", url = "http://127.0.0.1:{port}/metrics"}}]'
    out, err = start("once", "--config", config(tmp_path, sources=page)).communicate(timeout=WAIT_S)
    assert out.splitlines() == [
        "openmetrics:",
        f"  unknown@127.0.0.1:{port}: scrape_failed: 127.0.0.1:{port}: Connection refused",
    ], err


def test_what_was_recorded_is_told_as_json_when_asked(start: Start, tmp_path: Path) -> None:
    process = start("record", tmp_path / "r", "--config", config(tmp_path), "--seconds", "0.5", "--json")
    out, err = process.communicate(timeout=WAIT_S)
    told = msgspec.json.decode(out)
    assert told["readings"] > 0 and told["size_bytes"] == (tmp_path / "r").stat().st_size, err


def test_once_names_the_file_in_which_a_key_is_wrong(start: Start, tmp_path: Path) -> None:
    path = config(tmp_path, sources='[{use = "simulated", bords = 1}]')
    assert f"Error: {path}: source simulated: bords: " in refused(start("once", "--config", path))


def test_the_service_manager_hears_that_it_is_ready_alive_and_stopping(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(WAIT_S)
        environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        command = [sys.executable, "-m", "joulefleet", "agent", "run", "--config", str(config(tmp_path))]
        process = subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL)
        try:
            assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"WATCHDOG=1"]
            process.terminate()
            while (said := manager.recv(100)) == b"WATCHDOG=1":
                pass
            assert said == b"STOPPING=1"
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()
            process.wait()
