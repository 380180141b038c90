"""`joulefleet agents` as a person sees it."""

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner

from fixtures.collectors import Collector, in_this_process
from joulefleet.delivery import JSON_TYPE
from joulefleet_collector.agents_cli import agents


@pytest.fixture
def collector(tmp_path: Path, start_ns: int) -> Any:
    with in_this_process(tmp_path / "store", lambda: start_ns + 120 * 10**9) as opened:
        yield opened


def send(collector: Collector, body: bytes) -> None:
    request = Request(f"{collector.url}/v1/windows", b'{"windows":[' + body + b"]}", {"Content-Type": JSON_TYPE})
    with urlopen(request, timeout=20) as answer:
        assert answer.status == 200


def test_agents_are_listed_and_who_never_came_is_named(collector: Collector, tmp_path: Path, a_window: Any) -> None:
    send(collector, a_window("gpu-1").encode_json())
    expected = tmp_path / "fleet.txt"
    expected.write_text("# our fleet\ngpu-1\ngpu-2   # on order\n\n")
    shown = CliRunner().invoke(agents, ["--collector", collector.url, "--expected", str(expected)])
    assert shown.exit_code == 0, shown.output
    rows = [line.split() for line in shown.output.splitlines()]
    assert rows[1][:2] == ["gpu-1", "ok"]
    assert rows[2][:3] == ["gpu-2", "never", "-"]
    told = CliRunner().invoke(agents, ["--collector", collector.url, "--json"])
    (state,) = json.loads(told.output)["agents"]
    assert (state["server"], state["lag_s"]) == ("gpu-1", 60.0)


def test_nobody_yet_and_nobody_there(collector: Collector) -> None:
    assert "No agent has reported yet" in CliRunner().invoke(agents, ["--collector", collector.url]).output
    silent = CliRunner().invoke(agents, ["--collector", "http://127.0.0.1:1"])
    assert silent.exit_code == 1
    assert "no collector answers" in silent.output
