"""An agent whose clock is an hour wrong: what it makes is kept or taken, nothing is lost, and the offset is told."""

import random
import re
from itertools import pairwise
from pathlib import Path

import pytest

from fixtures.collectors import run
from fixtures.past import assert_same, joules, windows_in
from fixtures.processes import SIMULATED, agent_config, collecting, running, until, wrong_by
from joulefleet.units import NS_PER_S
from joulefleet.window import Window
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.link import best_link
from joulefleet_agent.spool import Spool
from joulefleet_agent.uplink import Uplink

HOUR_S = 3_600
LATER_S = HOUR_S + 700
"""When the windows of an hour ahead are due: so far that they have been tried again too."""


def test_windows_of_a_clock_that_is_ahead_are_kept_and_taken_when_they_are_due(tmp_path: Path) -> None:
    spool_file, data = tmp_path / "spool.db", tmp_path / "data"
    expected = tmp_path / "expected"
    expected.write_text("s\n")
    with collecting(tmp_path / "collector", data) as (_, collector):
        config = str(agent_config(tmp_path, collector.url, SIMULATED, step_s=1))
        with running(tmp_path / "agent", "agent", "run", "--config", config, program=wrong_by(HOUR_S)) as agent:
            until(lambda: "the clock of this server" in agent.err, "the offset to be told")
            until(lambda: len(windows_in(spool_file, "due_ns > 0")) >= 3, "three windows to be too early")
            assert told_offset_s(agent.err, "ahead of") == HOUR_S
            assert agent.end() == 0
        assert collector.windows() == []
        listed = run("agents", "--collector", collector.url, "--expected", str(expected)).stdout
        assert re.search(r"^s +never", listed, re.MULTILINE)
    made = windows_in(spool_file)
    assert len(windows_in(spool_file, "status = 'waiting'")) == len(made)
    with collecting(tmp_path / "later", data, program=wrong_by(LATER_S)) as (_, collector), Spool(spool_file) as spool:
        uplink = Uplink([best_link(collector.url, random.Random(1))], spool, lambda: wall_ns() + LATER_S * NS_PER_S)
        assert [uplink.send_once(), uplink.send_once()] == [0.0, None]
        uplink.close()
        assert_same(collector.windows(), made)
        (ledger,) = (one for one in collector.ask(by="server")["ledger"] if one["boundary"] == "server")
        assert ledger["metered_j"] + ledger["late_j"] == pytest.approx(joules(made), rel=1e-9)
    assert_whole(made)


def test_windows_of_a_clock_that_is_behind_are_taken_and_the_offset_is_told(tmp_path: Path) -> None:
    with collecting(tmp_path / "collector", tmp_path / "data") as (_, collector):
        config = str(agent_config(tmp_path, collector.url, SIMULATED, step_s=1))
        with running(tmp_path / "agent", "agent", "run", "--config", config, program=wrong_by(-HOUR_S)) as agent:
            until(lambda: len(collector.windows()) >= 3, "three windows")
            assert told_offset_s(agent.err, "behind") == HOUR_S
            (state,) = collector.agents()
            assert agent.end() == 0
        told = collector.windows()
    assert_same(told, windows_in(tmp_path / "spool.db", f"start_ns <= {told[-1].start_ns}"))
    assert_whole(told)
    assert HOUR_S <= state["lag_s"] < HOUR_S + 60


def told_offset_s(err: str, word: str) -> int:
    """By how much the clock differs, as the agent says, to ten seconds. It says so once."""
    (told,) = re.findall(rf"the clock of this server is (\d+) s {word} the collector's", err)
    return round(int(told), -1)


def assert_whole(windows: list[Window]) -> None:
    """No window is missing, and each begins with what the one before ended with."""
    for earlier, later in pairwise(windows):
        assert later.start_ns == earlier.end_ns
        assert [one.last_uj for one in earlier.meters] == [one.first_uj for one in later.meters]
