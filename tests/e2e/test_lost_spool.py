"""A spool that is deleted under an agent or before it starts: nothing is counted twice, and what is lost is told."""

from itertools import pairwise
from pathlib import Path

from fixtures.collectors import Collector, run
from fixtures.past import assert_same, windows_in
from fixtures.processes import SIMULATED, agent_config, collecting, free_port, running, until
from joulefleet.grid import rfc3339
from joulefleet.window import Window


def test_a_spool_deleted_while_the_agent_runs_is_put_back_when_it_ends(tmp_path: Path) -> None:
    spool, port = tmp_path / "spool.db", free_port()
    config = str(agent_config(tmp_path, f"http://127.0.0.1:{port}", SIMULATED, step_s=1))
    with collecting(tmp_path / "collector", tmp_path / "data", port) as (_, collector):
        with running(tmp_path / "agent", "agent", "run", "--config", config) as agent:
            until(collector.windows, "a first window")
            forget(spool)
            until_more(collector)
            assert agent.err.count("the file was removed while it was in use") == 1
        # It was killed at the end of the block: all that it holds is what it has delivered.
        assert not spool.exists()
    with running(tmp_path / "again", "agent", "run", "--config", config) as agent:
        until(lambda: "wait on disk" in agent.err, "a window to wait")
        until(lambda: len(windows_in(spool)) >= 2, "windows to wait")
        spool.unlink()
        until(lambda: "the file was removed" in agent.err, "the agent to see it")
        assert agent.end() == 0
        assert "put back" in agent.err
    waiting = windows_in(spool, "status = 'waiting'")
    assert len(waiting) >= 2
    with collecting(tmp_path / "later", tmp_path / "data", port) as (_, collector):
        with running(tmp_path / "third", "agent", "run", "--config", config) as agent:
            until(lambda: collector.windows()[-1].start_ns > waiting[-1].start_ns, "newer windows")
            assert agent.end() == 0
        told = [one for one in collector.windows() if one.timeline == waiting[0].timeline]
        assert_same(told, windows_in(spool, "status = 'stored'"))
    assert_whole(told)


def test_a_spool_lost_while_the_agent_is_down_counts_nothing_twice_and_the_lost_time_is_told(tmp_path: Path) -> None:
    spool, data, port = tmp_path / "spool.db", tmp_path / "data", free_port()
    config = str(agent_config(tmp_path, f"http://127.0.0.1:{port}", SIMULATED, step_s=1))
    words = ("agent", "run", "--config", config)
    with running(tmp_path / "agent", *words) as agent:
        with collecting(tmp_path / "collector", data, port) as (_, collector):
            until_more(collector)
            assert "spool_lost" not in {one["code"] for one in collector.ask()["warnings"]}
        until(lambda: len(windows_in(spool, "status = 'waiting'")) >= 2, "windows to wait")
        assert agent.end() == 0
    lost = windows_in(spool, "status = 'waiting'")
    delivered = windows_in(spool, "status = 'stored'")
    forget(spool)
    with collecting(tmp_path / "later", data, port) as (_, collector), running(tmp_path / "again", *words) as agent:
        until(lambda: collector.windows()[-1].timeline != lost[0].timeline, "a window of a new timeline")
        assert agent.end() == 0
        known = [one for one in collector.windows() if one.timeline == lost[0].timeline]
        assert_same(known[: len(delivered)], delivered)
        fresh = windows_in(spool, "status = 'stored'")
        assert_same([one for one in collector.windows() if one.timeline == fresh[0].timeline], fresh)
        (told,) = (one for one in collector.ask()["warnings"] if one["code"] == "spool_lost")
        assert (told["server"], told["since"]) == ("s", rfc3339(known[-1].end_ns))
        assert told["until"] == rfc3339(fresh[0].start_ns)
        shown = run("report", "--collector", collector.url, "--since", "all").stdout
        assert "warning spool_lost: no window of server 's' tells of the time from" in shown


def forget(spool: Path) -> None:
    """Delete it, with what SQLite keeps beside it."""
    for name in (spool, Path(f"{spool}-wal"), Path(f"{spool}-shm")):
        name.unlink(missing_ok=True)


def until_more(collector: Collector) -> None:
    """Wait for two more windows."""
    least = len(collector.windows()) + 2
    until(lambda: len(collector.windows()) >= least, "two more windows")


def assert_whole(windows: list[Window]) -> None:
    """No window is missing, and each begins with what the one before ended with."""
    for earlier, later in pairwise(windows):
        assert later.start_ns == earlier.end_ns
        assert [one.last_uj for one in earlier.meters] == [one.first_uj for one in later.meters]
