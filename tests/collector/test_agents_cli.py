"""`joulefleet agents` as a person sees it."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner

from fixtures.collectors import Collector, in_this_process
from joulefleet.delivery import JSON_TYPE
from joulefleet.window import AgentCost
from joulefleet_collector.agents_cli import agents
from joulefleet_collector.auth import make_key_file
from joulefleet_collector.config import Auth


@pytest.fixture
def collector(tmp_path: Path, start_ns: int) -> Any:
    with in_this_process(tmp_path / "store", lambda: start_ns + 120 * 10**9) as opened:
        yield opened


def send(collector: Collector, body: bytes) -> None:
    request = Request(f"{collector.url}/v1/windows", b'{"windows":[' + body + b"]}", {"Content-Type": JSON_TYPE})
    with urlopen(request, timeout=20) as answer:
        assert answer.status == 200


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(agents, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_agents_are_listed_and_who_never_came_is_named(collector: Collector, tmp_path: Path, a_window: Any) -> None:
    send(collector, a_window("gpu-1").encode_json())
    expected = tmp_path / "fleet.txt"
    expected.write_text("# our fleet\ngpu-1\ngpu-2   # on order\n\n")
    rows = [line.split() for line in shown("--collector", collector.url, "--expected", str(expected)).splitlines()]
    assert rows[1][:2] == ["gpu-1", "ok"]
    assert rows[2][:3] == ["gpu-2", "never", "-"]
    (state,) = json.loads(shown("--collector", collector.url, "--json"))["agents"]
    assert (state["server"], state["lag_s"]) == ("gpu-1", 60.0)


def test_what_an_agent_tells_of_itself_is_shown_and_its_clock_is_warned_of(collector: Collector, a_window: Any) -> None:
    cost = AgentCost(rss_bytes=1, spool_windows=3, clock_ahead_ns=-4_500_000_000, clock_error_ns=12_000_000)
    facts = {"agent": "0.1.0", "schema": "1"}
    send(collector, a_window("gpu-1", agent=cost, facts=facts, site="fra").encode_json())
    head, row, *warnings = shown("--collector", collector.url).splitlines()
    cells = dict(zip(re.split("  +", head), re.split("  +", row), strict=True))
    assert (cells["pool"], cells["site"], cells["labels"]) == ("p", "fra", "rack=r1")
    assert (cells["clock s"], cells["waiting"]) == ("-4.500 ±0.012", "3")
    assert (cells["version"], cells["schema"]) == ("0.1.0", "1")
    (warning,) = warnings
    assert warning.startswith("warning agent_clock: the clock of 'gpu-1' is 4.5 s behind")


def test_columns_of_which_nobody_tells_anything_are_left_out(collector: Collector, a_window: Any) -> None:
    send(collector, a_window("gpu-1", pool="", labels={}).encode_json())
    head, _ = shown("--collector", collector.url).splitlines()
    assert not {"pool", "site", "labels"} & set(re.split("  +", head))


def test_agents_of_a_pool_and_a_site_and_who_never_came_is_of_none(
    collector: Collector, a_window: Any, tmp_path: Path
) -> None:
    off = AgentCost(clock_ahead_ns=9 * 10**9)
    for name, pool, site in (("gpu-1", "x", "s"), ("gpu-2", "y", "s"), ("gpu-3", "z", "t")):
        send(collector, a_window(name, pool=pool, site=site, agent=off).encode_json())
    expected = tmp_path / "fleet.txt"
    expected.write_text("gpu-2\ngpu-4\n")
    for options, servers, warned in (
        (["--pool", "x", "--pool", "z"], ["gpu-1", "gpu-3"], 2),
        (["--pool", "x", "--site", "t"], [], 0),
        (["--site", "s", "--expected", str(expected)], ["gpu-1", "gpu-2", "gpu-4"], 2),
    ):
        answer = json.loads(shown("--collector", collector.url, "--json", *options))
        assert ([one["server"] for one in answer["agents"]], len(answer["warnings"])) == (servers, warned)
    assert "none of those asked for" in shown("--collector", collector.url, "--site", "nowhere")


def test_a_fleet_of_thousands_may_be_expected(collector: Collector, tmp_path: Path) -> None:
    expected = tmp_path / "fleet.txt"
    expected.write_text("".join(f"gpu-{number:05d}.example\n" for number in range(3_000)))
    assert shown("--collector", collector.url, "--expected", str(expected)).count(" never ") == 3_000


def test_a_server_is_retired_and_comes_back_by_hand_and_by_itself(collector: Collector, a_window: Any) -> None:
    send(collector, a_window("gpu-1").encode_json())
    told = shown("retire", "gpu-1", "gpu-9", "--collector", collector.url)
    assert "retired: gpu-1, gpu-9" in told
    assert "'gpu-1' reported 60 s ago" in told and "'gpu-9' has never reported" in told
    assert shown("--collector", collector.url) == "2 retired: gpu-1, gpu-9\n"
    assert "no longer retired: gpu-9" in shown("--collector", collector.url, "retire", "--undo", "gpu-9")
    send(collector, a_window("gpu-1", 1).encode_json())
    _, row = shown("--collector", collector.url).splitlines()
    assert row.split()[:2] == ["gpu-1", "ok"]
    answer = json.loads(shown("--collector", collector.url, "retire", "gpu-1", "--json"))
    assert (answer["servers"], len(answer["notes"])) == (["gpu-1"], 1)


def test_retiring_needs_the_operators_token_where_there_are_keys(tmp_path: Path, start_ns: int) -> None:
    make_key_file(tmp_path / "keys")
    operator, other = tmp_path / "operator", tmp_path / "other"
    operator.write_text("an-operators-token\n")
    other.write_text("a-token-of-another\n")
    auth = Auth(key_file=str(tmp_path / "keys"), operator_token_file=str(operator))
    with in_this_process(tmp_path / "store", lambda: start_ns, auth) as guarded:
        retire = ["retire", "gpu-1", "--collector", guarded.url]
        for options in ([], ["--token-file", str(other)]):
            refused = CliRunner().invoke(agents, [*retire, *options])
            assert refused.exit_code == 1
            assert "auth.operator_token_file" in refused.output and "a-token" not in refused.output
        assert "retired: gpu-1" in shown(*retire, "--token-file", str(operator))


def test_nobody_yet_and_nobody_there(collector: Collector) -> None:
    assert "No agent has reported yet" in CliRunner().invoke(agents, ["--collector", collector.url]).output
    silent = CliRunner().invoke(agents, ["--collector", "http://127.0.0.1:1"])
    assert silent.exit_code == 1
    assert "no collector answers" in silent.output
