"""`joulefleet up` as its users meet it: what can be read, the first figure, the demonstration, and a clean end."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil

from fixtures.collectors import Collector, run
from fixtures.fake_vllm import FakeVllm
from fixtures.processes import Command, free_port, running, until

FIRST_FIGURE_WITHIN_S = 60
PAIRS = {("sim-8b", "SIM-A"), ("sim-8b", "SIM-B"), ("sim-70b", "SIM-A"), ("sim-70b", "SIM-B")}


def test_it_tells_what_can_be_read_then_the_first_figure_and_leaves_no_process_behind(tmp_path: Path) -> None:
    began_s, data = time.monotonic(), str(tmp_path / "data")
    with going_up(tmp_path / "up", "--port", "0", "--data-dir", data) as (up, family):
        until(lambda: " W, " in up.out or not up.alive, "the first figure", FIRST_FIGURE_WITHIN_S)
        assert up.alive, up.err
        print(f"first figure after {time.monotonic() - began_s:.1f} s: {up.out}")
        with going_up(tmp_path / "second", "--port", "0", "--data-dir", data) as (second, _):
            assert second.wait() == 2
        assert len(family()) == 3
        assert up.end() == 0
        assert still_running(family()) == []
    first = up.out.splitlines()[0]
    assert " J in " in first and "boundary server" in first and "modelled" in first
    assert "ok  host_model" in up.err
    for source in ("nvml", "rapl"):
        assert any(f"{mark}  {source}" in up.err for mark in ("ok", "--", "  ")), source
    assert up.err.count("mend: ") >= up.err.count("--  nvml") + up.err.count("--  rapl")
    assert "Traceback" not in up.err
    reason = f"another `joulefleet up` is running on {data}; end it, or choose another folder with --data-dir"
    assert second.err == f"Error: {reason}\n"


def test_a_server_that_listens_beside_it_is_found_without_a_word(tmp_path: Path) -> None:
    with (
        FakeVllm(model="beside", port=free_port()) as vllm,
        going_up(tmp_path / "up", "--port", "0", "--data-dir", str(tmp_path / "data")) as (up, _),
    ):
        collector = Collector(until(lambda: told_address(up), "the collector's address"))

        def paid() -> list[dict[str, Any]]:
            vllm.serve(prompt=10, output=5)
            assert up.alive, up.err
            return [row for row in collector.ask(by="model", model="beside")["rows"] if row["paired_s"]]

        (row,) = until(paid, "tokens of the server with joules beside them", FIRST_FIGURE_WITHIN_S)
        config = (tmp_path / "data" / "agent.toml").read_text()
        assert up.end() == 0
    assert row["output_tokens"] > 0 and row["joules_by_grade"]["modelled"] > 0
    assert f"engine vllm@{vllm.address}: vllm" in up.err
    assert vllm.address not in config


def test_a_port_in_use_is_told_in_one_sentence(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        options = ("--port", str(port), "--data-dir", str(tmp_path / "data"))
        with going_up(tmp_path / "up", *options) as (up, _):
            assert up.wait() == 2
    assert up.err.startswith(f"Error: the collector ended: cannot listen on 127.0.0.1 port {port}: the port is in use;")
    assert len(up.err.splitlines()) == 1


def test_the_demonstration_shows_a_fleet_and_what_a_release_costs(tmp_path: Path) -> None:
    began_s = time.monotonic()
    options = ("--demo", "--json", "--port", "0", "--data-dir", str(tmp_path / "data"))
    with going_up(tmp_path / "up", *options) as (up, family):
        collector = Collector(until(lambda: told_address(up), "the collector's address"))
        until(lambda: pairs(collector) == PAIRS and per_token(collector, "1.1"), "both hardwares, models and versions")
        print(f"the whole demonstration after {time.monotonic() - began_s:.1f} s")
        table = run("report", "--collector", collector.url, "--by", "model,hardware,version").stdout
        before, after = per_token(collector, "1.0"), per_token(collector, "1.1")
        warnings = {one["code"] for one in collector.ask(by="model")["warnings"]}
        until(lambda: up.out, "a line of JSON")
        # One of the two ends by itself: so does all of it, and says which.
        next(child for child in family() if "demo" in child.cmdline()[4:]).kill()
        assert up.wait() == 2
        assert still_running(family()) == []
    assert before and after
    for boundary in ("accelerator", "server"):
        assert 1.03 < after[boundary] / before[boundary] < 1.08
    rows = [line for line in table.splitlines() if line.startswith("sim-")]
    assert len(rows) == 10
    assert all(" SIMULATED " in row for row in rows)
    assert "unmatched" not in warnings
    answers = [json.loads(line) for line in up.out.splitlines()]
    assert all(row["simulated"] for answer in answers for row in answer["rows"] + answer["ledger"])
    assert "everything below is SIMULATED" in up.err
    assert "Error: the demo ended: " in up.err.splitlines()[-1]


@contextmanager
def going_up(said: Path, *options: str) -> Iterator[tuple[Command, Any]]:
    """`joulefleet up`, and a way to ask for it and all its processes; none of them outlives the block."""
    known: dict[int, psutil.Process] = {}

    def family() -> list[psutil.Process]:
        if psutil.pid_exists(up.process.pid):
            parent = psutil.Process(up.process.pid)
            known.update({one.pid: one for one in (parent, *parent.children(recursive=True))})
        return list(known.values())

    with running(said, "up", *options) as up:
        try:
            yield up, family
        finally:
            for one in still_running(family()):
                one.kill()


def still_running(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those of them that have not ended; one whose end its parent has yet to hear of has."""
    return [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def told_address(up: Command) -> str:
    """The collector's address, once `up` has told it."""
    assert up.alive, up.err
    return up.err.split("collector: ")[1].split(",")[0] if "collector: " in up.err else ""


def pairs(collector: Collector) -> set[tuple[str, str]]:
    """Which models are told of on which hardware."""
    return {(row["model"], row["hardware"]) for row in collector.ask(by="model,hardware")["rows"]}


def per_token(collector: Collector, version: str) -> dict[str, float]:
    """Joules of an output token of the model that was released anew, by boundary; empty before it is told of."""
    rows = collector.ask(by="version", model="sim-70b", hardware="SIM-A", version=version)["rows"]
    return {row["boundary"]: row["joules_per_output_token"] for row in rows}
