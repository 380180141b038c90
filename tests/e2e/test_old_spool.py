"""Windows that come days late, or twice: what is too old is set aside and told, and nothing is counted twice."""

import random
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fixtures.collectors import Collector, run
from fixtures.past import Past, assert_same, windows_in
from fixtures.processes import SIMULATED, agent_config, collecting, running, until, wrong_by
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.link import best_link
from joulefleet_agent.spool import Spool
from joulefleet_agent.uplink import Uplink

DAY_S = 86_400
DAY_NS = DAY_S * 10**9
OLD = 300
"""Windows of four days ago: more than go into one batch."""
LINES = 10
"""In which they are told at most, one for each batch; the first batches of a backlog are small."""
LATER_S = 8 * DAY_S


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Four days ago a server was measured for nearly an hour, and no collector was there."""
    with closing(Past(tmp_path / "past.db", "s", wall_ns() - 4 * DAY_NS)) as past:
        past.live(OLD)
    path = tmp_path / "spool.db"
    with Spool(path) as spool:
        spool.commit(b"", windows_in(tmp_path / "past.db"), wall_ns() - 4 * DAY_NS)
    return path


def test_what_is_older_than_the_store_keeps_is_set_aside_and_shown_and_can_be_declared(
    tmp_path: Path, spool: Path
) -> None:
    old = windows_in(spool)
    config = tmp_path / "collector.toml"
    config.write_text("[store]\nkeep_windows_days = 2\n")
    with collecting(tmp_path / "collector", tmp_path / "data", 0, "--config", str(config)) as (_, collector):
        err = live_until(lambda: state_of(collector).get("refused_windows") == OLD, tmp_path, collector)
        assert 1 <= err.count("windows refused for good and set aside: too_old") <= LINES
        assert_same(windows_in(spool, "status = 'refused' AND code = 'too_old'"), old)
        newer = windows_in(spool, "status = 'stored'")
        assert_same(collector.windows(), newer)
        assert state_of(collector)["status"] == "loses"
        listed = run("agents", "--collector", collector.url).stdout
        assert re.search(rf"^s .* loses .* {OLD} ", listed, re.MULTILINE)
        said = run("replay", "spool", str(spool), "--collector", collector.url).stdout
        assert re.match(r"3\d\d windows of", said)
        assert_same(collector.windows()[:OLD], old)
        assert_same(collector.windows(), windows_in(spool))
        live_until(lambda: state_of(collector)["status"] == "ok", tmp_path, collector)
        assert_same(collector.windows()[:OLD], old)


def test_what_was_counted_is_known_for_ever_however_it_comes_again(tmp_path: Path, spool: Path) -> None:
    data, copies = tmp_path / "data", [tmp_path / f"copy{number}.db" for number in range(3)]
    for copy in copies:
        shutil.copy(spool, copy)
    with collecting(tmp_path / "collector", data) as (_, collector):
        assert delivered(spool, collector) == {}
        assert_same(collector.windows(), windows_in(spool))
        sums = sums_of(collector)
        assert delivered(copies[0], collector) == {}
        assert sums_of(collector) == sums
    with collecting(tmp_path / "later", data, program=wrong_by(LATER_S)) as (_, collector):
        with closing(Past(tmp_path / "newer.db", "newer", wall_ns() + LATER_S * 10**9)) as newer:
            newer.live(2)
        assert delivered(tmp_path / "newer.db", collector, LATER_S) == {}
    with collecting(tmp_path / "pruned", data, program=wrong_by(LATER_S)) as (_, collector):
        until(lambda: not collector.windows(server="s"), "the old windows to be let go of")
        assert sums_of(collector) == sums
        assert delivered(copies[1], collector, LATER_S) == {"too_old": OLD}
        assert sums_of(collector) == sums
        run("replay", "spool", str(copies[2]), "--collector", collector.url)
        assert sums_of(collector) == sums


def live_until(condition: Callable[[], bool], folder: Path, collector: Collector) -> str:
    """Run the agent on the spool in this folder until this holds. What it said."""
    config = str(agent_config(folder, collector.url, SIMULATED, step_s=1))
    with running(folder / "agent", "agent", "run", "--config", config) as agent:
        until(condition, "the collector to be told")
        assert agent.end() == 0
        return agent.err


def delivered(path: Path, collector: Collector, later_s: int = 0) -> dict[str, int]:
    """Send what waits in a spool as a live agent does, so many seconds from now. What was refused, by code."""
    with Spool(path) as spool:
        uplink = Uplink([best_link(collector.url, random.Random(1))], spool, lambda: wall_ns() + later_s * 10**9)
        while uplink.send_once() is not None:
            pass
        uplink.close()
        assert spool.depth()[0] == 0
        return spool.refusals()


def state_of(collector: Collector) -> dict[str, Any]:
    """What `joulefleet agents` says of the one agent; nothing before it was heard."""
    agents = collector.agents()
    return agents[0] if agents else {}


def sums_of(collector: Collector) -> list[dict[str, Any]]:
    """All sums of the server's old windows."""
    answer = collector.ask(by="server", server="s")
    assert answer["rows"] and answer["ledger"]
    return [*answer["rows"], *answer["ledger"]]
