"""The commands as processes: their line, their end, their exit codes."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from click.testing import CliRunner

from joulefleet.window import Window
from joulefleet_collector.cli import collector
from joulefleet_collector.rows import Row
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import Accounted

DEADLINE_S = 30


@contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`collector run` as a process, and the line that it printed when it listened."""
    command = [sys.executable, "-m", "joulefleet", "collector", "run", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


def test_it_says_where_it_listens_and_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    with running("--data-dir", str(tmp_path)) as (process, line):
        address = line.split("listens on ")[1].split(",")[0]
        assert str(tmp_path) in line
        with urllib.request.urlopen(f"{address}/-/ready", timeout=DEADLINE_S) as answer:
            assert json.load(answer) == {"ready": True}
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err


def test_what_was_taken_is_there_after_a_kill_and_a_new_start(tmp_path: Path, a_window: Callable[..., Window]) -> None:
    body = b'{"backfill":true,"windows":[' + a_window(minute=-60 * 24 * 300).encode_json() + b"]}"
    with running("--data-dir", str(tmp_path)) as (process, line):
        address = line.split("listens on ")[1].split(",")[0]
        request = urllib.request.Request(f"{address}/v1/windows", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            assert "rejected" not in json.load(answer)
        process.kill()
    with running("--data-dir", str(tmp_path)) as (_, line):
        address = line.split("listens on ")[1].split(",")[0]
        with urllib.request.urlopen(f"{address}/v1/usage?since=all&boundary=server", timeout=DEADLINE_S) as answer:
            assert [row["energy_j"] for row in json.load(answer)["rows"]] == [600.0]


def test_a_port_in_use_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = str(other.getsockname()[1])
        result = CliRunner().invoke(collector, ["run", "--data-dir", str(tmp_path), "--port", port])
    assert result.exit_code == 2
    assert result.stderr.strip() == (
        f"Error: cannot listen on 127.0.0.1 port {port}: the port is in use;"
        " end what listens there or choose another with --port"
    )


def test_a_data_folder_that_cannot_be_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(collector, ["run", "--data-dir", str(tmp_path / "file"), "--port", "0"])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "name a folder" in result.stderr


def test_a_config_with_a_typo_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[listen]\nprot = 1\n")
    result = CliRunner().invoke(collector, ["run", "--config", str(config)])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "c.toml" in result.stderr and "prot" in result.stderr


def test_a_running_collector_lets_go_of_what_is_older_than_is_kept(
    tmp_path: Path, a_window: Callable[..., Window], account: Callable[[Window], list[Row]], start_ns: int
) -> None:
    windows = [a_window(minute=-300 * 1440 + day * 1440) for day in range(20)]
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as opened:
        for one in windows:
            opened.write([Accounted(one, one.encode(), account(one))], one.end_ns)
    with running("--data-dir", str(tmp_path)) as (process, _):
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as opened:
        assert [one.start_ns for one in opened.windows(None, 0, start_ns)] == [one.start_ns for one in windows[12:]]
