"""Agents and collectors that are killed at any instant: after a new start every joule and token is there, once."""

import random
import threading
from contextlib import closing
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fixtures.collectors import DEADLINE_S, Collector
from fixtures.made_run import made_run
from fixtures.past import Past
from fixtures.processes import Restarted, address_of, agent_config, collecting, free_port, running, until
from fixtures.sums import sums_of
from joulefleet.units import uj_to_j
from joulefleet.window import MeterWindow, Window
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.link import best_link
from joulefleet_agent.uplink import Uplink
from joulefleet_plugins.meters.simulated import SERVER, SimulatedConfig, truth

KILLS = 50
AT_WORK = 20
"""So many at least must hit a process that had written to its disk since it was started."""
WAIT_S = (0.0, 0.6)
RUN_S = 2 * 3_600
STREAM_KILLS = 6
BATCH = 60
COMMIT_S = 0.1
"""About as long as a batch takes from the agent to the answer."""


def test_fifty_kills_of_replays_and_their_collector_change_no_sum(tmp_path: Path) -> None:
    run = made_run(tmp_path, RUN_S)
    windows, sums = undisturbed(tmp_path, run)
    assert len(windows) == RUN_S // 10
    chance, port, hits = random.Random(7), free_port(), list[bool]()
    data = tmp_path / "data"
    words = ("collector", "run", "--data-dir", str(data), "--port", str(port))
    with closing(Restarted(data / "joulefleet.db", tmp_path / "collector", *words)) as store:
        collector = Collector(f"http://127.0.0.1:{port}")
        for number in count(1):
            spool = tmp_path / f"s{number}.db"
            replay = replay_words(run, collector.url, f"s{number}", spool)
            with closing(Restarted(spool, tmp_path / "replay", *replay)) as agent:
                hits += killed_until_it_ends(agent, store, chance, KILLS - len(hits))
            if len(hits) == KILLS:
                break
        print(f"{sum(hits)} of {KILLS} kills hit a process at work; {number} replays")
        assert sum(hits) >= AT_WORK
        assert address_of(store.command) == collector.url
        for server in (f"s{one}" for one in range(1, number + 1)):
            assert [bare(one) for one in collector.windows(server=server)] == windows, server
            assert sums_of(collector, server) == [pytest.approx(one, rel=1e-9) for one in sums], server


def test_a_collector_killed_while_it_answers_a_stream_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    chance, port, data = random.Random(13), free_port(), tmp_path / "data"
    words = ("collector", "run", "--data-dir", str(data), "--port", str(port))
    unanswered = stored = 0
    with (
        closing(Restarted(data / "joulefleet.db", tmp_path / "collector", *words)) as store,
        closing(Past(tmp_path / "past.db", "past", wall_ns() - 3 * 3_600 * 10**9)) as past,
    ):
        collector = Collector(f"http://127.0.0.1:{port}")
        uplink = Uplink([best_link(collector.url, random.Random(1))], past.spool, wall_ns)
        for number in range(STREAM_KILLS):
            address_of(store.command)
            past.live(1)  # so that the stream is open again
            while uplink.send_once() is not None:
                pass
            past.live(BATCH)
            known = len(collector.windows())
            # Half of them at any instant, the others in the commit: between it and the answer above all.
            blind = threading.Timer(chance.uniform(0, COMMIT_S), store.kill)
            killer = blind if number % 2 else threading.Thread(target=store.kill_at_a_write)
            killer.start()
            unanswered += bool(uplink.send_once())
            killer.join()
            store.start()
            address_of(store.command)
            stored += past.spool.depth()[0] > 0 and len(collector.windows()) > known
        while uplink.send_once() is not None:
            pass
        uplink.close()
        print(f"{unanswered} of {STREAM_KILLS} batches had no answer, of which {stored} were stored all the same")
        assert unanswered >= 2
        past.assert_counted_once(collector)


def undisturbed(folder: Path, run: Path) -> tuple[list[bytes], list[list[Any]]]:
    """Windows and sums of the run, replayed without any kill."""
    with collecting(folder / "calm", folder / "calm") as (_, collector):
        words = replay_words(run, collector.url, "s0", folder / "s0.db")
        with running(folder / "replay", *words) as replay:
            assert replay.wait() == 0, replay.err
        return [bare(one) for one in collector.windows()], sums_of(collector, "s0")


def killed_until_it_ends(agent: Restarted, store: Restarted, chance: random.Random, most: int) -> list[bool]:
    """Kill one of the two, again and again, until the agent's work is done; which kills hit a process at work.

    Half of them come at any instant after a start, the others once there is work to break off.
    """
    hits: list[bool] = []
    while len(hits) < most:
        victim = chance.choice((agent, store))
        if chance.random() < 0.5:
            until_at_work(victim, agent)
        if agent.ends_well(chance.uniform(*WAIT_S)):
            return hits
        hits.append(victim.kill())
        victim.start()
    assert agent.ends_well(DEADLINE_S)
    return hits


def until_at_work(victim: Restarted, agent: Restarted) -> None:
    """Wait until the victim has something to lose, or all work is done."""
    until(lambda: victim.at_work or not agent.command.alive, "work to begin")


def replay_words(run: Path, url: str, server: str, spool: Path) -> list[str]:
    """The command that replays this run."""
    options = {"server": server, "model": "m", "step": "10", "collector": url, "spool": str(spool)}
    return ["replay", "mlperf", str(run), *(f"--{name}={value}" for name, value in options.items())]


def bare(window: Window) -> bytes:
    """A window without what tells whose it is."""
    return msgspec.structs.replace(window, server="", timeline=0).encode()


def test_a_killed_live_agent_loses_no_joule_and_counts_none_twice(tmp_path: Path) -> None:
    chance = random.Random(11)
    with collecting(tmp_path / "collector", tmp_path / "data") as (_, collector):
        config = agent_config(tmp_path, collector.url, '[[sources]]\nuse = "simulated"\nperiod_s = 0.25\n')
        words = ("agent", "run", "--config", str(config))
        with closing(Restarted(tmp_path / "spool.db", tmp_path / "agent", *words)) as agent:
            for _ in range(4):
                until_another_window(collector)
                assert not agent.ends_well(chance.uniform(0, 1.5))
                agent.kill()
                agent.start()
            until_another_window(collector)
            until_another_window(collector)
        windows = collector.windows()
    assert len({one.timeline for one in windows}) == 1
    assert all(after.start_ns == before.end_ns for before, after in pairwise(windows))
    for meter in [one.meter.id for one in windows[0].meters]:
        course = [one for window in windows for one in window.meters if one.meter.id == meter]
        assert len(course) == len(windows)
        assert all(after.first_uj == before.last_uj for before, after in pairwise(course))
        assert sum(one.energy_uj + one.late_uj for one in course) == course[-1].last_uj - course[0].first_uj
    whole, last = windows[1], windows[-1]
    told_j = uj_to_j(of(last, SERVER).last_uj - of(whole, SERVER).first_uj)
    assert told_j == pytest.approx(truth(SimulatedConfig(), whole.start_ns, last.end_ns).server_j, rel=1e-6)


def until_another_window(collector: Collector) -> None:
    """Wait for a window after those that are stored."""
    before = len(collector.windows())
    until(lambda: len(collector.windows()) > before, "another window")


def of(window: Window, meter: str) -> MeterWindow:
    """What a window tells of one meter."""
    return next(one for one in window.meters if one.meter.id == meter)
