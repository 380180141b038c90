"""Tools of a vendor, faked as small scripts: what they print, how they fail, and that nothing of them is left."""

import gc
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from joulefleet_plugins.interfaces import process
from joulefleet_plugins.interfaces.process import Command, CommandFailed, Lines

ENVIRONMENT = {"PATH": os.environ["PATH"]}
Make = Callable[[str], list[str]]


@pytest.fixture
def tool(tmp_path: Path) -> Make:
    """Makes a tool of the lines of a shell script."""

    def make(script: str) -> list[str]:
        path = tmp_path / "vendor-smi"
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
        path.chmod(0o755)
        return [str(path)]

    return make


def run(argv: list[str], environment: dict[str, str], timeout_s: float) -> bytes:
    return Command(argv, environment, timeout_s).run()


def refused(argv: list[str], timeout_s: float = 20.0) -> CommandFailed:
    with pytest.raises(CommandFailed) as raised:
        run(argv, ENVIRONMENT, timeout_s)
    return raised.value


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """Whether this process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_a_tool_prints_is_whole(tool: Make) -> None:
    assert run(tool("echo 226 W; echo noise >&2; printf '%s' \"$1\""), ENVIRONMENT, 20) == b"226 W\n"
    assert run([*tool("printf '%s' \"$1\""), "a b; c"], ENVIRONMENT, 20) == b"a b; c"


def test_output_larger_than_a_pipe_is_whole(tool: Make) -> None:
    assert run(tool("head -c 300000 /dev/zero"), ENVIRONMENT, 20) == bytes(300_000)


def test_a_tool_gets_nothing_but_what_it_is_given(tool: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_SECRET", "hunter2")
    printed = run(tool("env; pwd; cat"), {**ENVIRONMENT, "GIVEN": "yes"}, 20).decode()
    assert "GIVEN=yes" in printed
    assert "hunter2" not in printed
    assert printed.splitlines()[-1] == "/"


def test_a_tool_that_fails_says_why(tool: Make) -> None:
    error = refused(tool("echo 300 W; echo first >&2; echo 'no device found' >&2; exit 3"))
    assert error.code == "exit_status"
    assert str(error).endswith("ended with status 3: no device found")
    assert refused(tool("kill -9 $$")).detail.endswith("ended with signal 9")


def test_a_tool_that_is_not_there_or_may_not_be_run(tmp_path: Path) -> None:
    assert refused([str(tmp_path / "none")]).code == "absent"
    (tmp_path / "plain").write_text("text")
    assert refused([str(tmp_path / "plain")]).code == "permission"


def test_a_tool_that_hangs_is_killed_with_its_children(tool: Make, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    error = refused(tool(f"sleep 600 & echo $$ $! > {pids}; wait"), timeout_s=1.0)
    assert error.code == "timeout"
    for pid in pids.read_text().split():
        until(lambda pid=pid: not lives(int(pid)))


def test_a_tool_that_closes_its_output_and_hangs_is_killed(tool: Make) -> None:
    assert refused(tool("exec >&- 2>&-; sleep 600"), timeout_s=0.5).code == "timeout"


def test_children_that_hold_the_output_delay_nobody_and_do_not_stay(tool: Make, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    assert run(tool(f"sleep 600 & echo $! > {pid}; echo 12 W"), ENVIRONMENT, 20) == b"12 W\n"
    until(lambda: not lives(int(pid.read_text())))


def test_a_tool_that_cannot_be_killed_is_not_joined_by_others(
    tool: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids, free = tmp_path / "pids", tmp_path / "free"
    argv = tool(f"echo $$ >> {pids}; [ -e {free} ] || exec sleep 600")
    command = Command(argv, ENVIRONMENT, 0.5)
    kill = process._kill
    monkeypatch.setattr(process, "_kill", lambda process: None)
    monkeypatch.setattr(process, "REAP_S", 0.01)
    codes = []
    for _ in range(3):
        with pytest.raises(CommandFailed) as raised:
            command.run()
        codes.append(raised.value.code)
    assert codes == ["timeout", "unkillable", "unkillable"]
    assert command._left is not None
    assert pids.read_text() == f"{command._left.pid}\n"
    kill(command._left)
    command._left.wait(20)
    free.touch()
    assert Command(argv, ENVIRONMENT, 20).run() == b""
    command.timeout_s = 20
    assert command.run() == b""


def test_five_megabytes_are_too_much(tool: Make) -> None:
    assert refused(tool("head -c 5000000 /dev/zero; sleep 600")).code == "too_large"
    assert refused(tool("head -c 5000000 /dev/zero >&2; exit 1")).code == "exit_status"


def test_no_zombie_and_no_open_file_is_left(tool: Make) -> None:
    argv = tool("echo 1; exit $1")
    before = open_files()
    for status in ("0", "1") * 20:
        try:
            run([*argv, status], ENVIRONMENT, 20)
        except CommandFailed:
            assert status == "1"
    gc.collect()
    assert open_files() == before
    assert not [child for child in children() if not lives(child)]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in listed.read_text().split()] if listed.exists() else []


class Clock:
    now_ns = 1_000

    def __call__(self) -> int:
        return self.now_ns


def taken(lines: Lines, number: int) -> list[bytes]:
    """So many lines, as they come."""
    found: list[bytes] = []

    def enough() -> bool:
        found.extend(line.text for line in lines.take())
        return len(found) >= number

    until(enough)
    return found


def test_lines_of_a_running_tool_come_as_they_are_printed(tool: Make) -> None:
    clock = Clock()
    lines = Lines(tool("echo banner >&2; echo 'a 1'; echo 'b 2'; sleep 600"), ENVIRONMENT, clock)
    assert taken(lines, 2) == [b"a 1", b"b 2"]
    assert lines.take() == []
    lines.end()


def test_each_line_bears_the_time_at_which_it_came(tool: Make, tmp_path: Path) -> None:
    clock, go = Clock(), tmp_path / "go"
    os.mkfifo(go)
    lines = Lines(tool(f"echo 1; cat {go}; echo 2; sleep 600"), ENVIRONMENT, clock)
    found: list[tuple[int, bytes]] = []

    def have(number: int) -> bool:
        found.extend(lines.take())
        return len(found) >= number

    until(lambda: have(1))
    clock.now_ns = 5_000
    go.write_text("")
    until(lambda: have(2))
    assert found == [(1_000, b"1"), (5_000, b"2")]
    lines.end()


def test_a_tool_that_ended_is_started_again_but_not_at_once(tool: Make, tmp_path: Path) -> None:
    clock, starts = Clock(), tmp_path / "starts"
    lines = Lines(tool(f"echo x >> {starts}; echo 7; echo broken >&2; exit 2"), ENVIRONMENT, clock)
    assert taken(lines, 1) == [b"7"]
    until(lambda: not lines._reader.is_alive())
    for _ in range(3):
        with pytest.raises(CommandFailed, match="ended with status 2: broken") as raised:
            lines.take()
        assert raised.value.code == "ended"
    assert starts.read_text() == "x\n"
    clock.now_ns += process.RESTART_NS
    ended = weakref.ref(lines._tool.process)
    with pytest.raises(CommandFailed):
        lines.take()
    assert taken(lines, 1) == [b"7"]
    assert starts.read_text() == "x\nx\n"
    gc.collect()
    assert ended() is None, "nothing of an earlier life is kept"


def test_a_line_without_end_is_killed(tool: Make) -> None:
    lines = Lines(tool("cat /dev/zero"), ENVIRONMENT)
    until(lambda: not lines._reader.is_alive())
    with pytest.raises(CommandFailed, match="more than"):
        lines.take()


def test_lines_that_nobody_takes_are_bounded(tool: Make) -> None:
    lines = Lines(tool("seq 5000"), ENVIRONMENT)
    until(lambda: not lines._reader.is_alive())
    assert [line.text for line in lines.take()] == [str(k).encode() for k in range(4001, 5001)]


def test_a_tool_ends_with_the_source_that_started_it(tool: Make, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    lines = Lines(tool(f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600"), ENVIRONMENT)
    until(pid.exists)
    del lines
    gc.collect()
    until(lambda: not lives(int(pid.read_text())))
