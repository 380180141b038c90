"""Two accounts of one time, from a clock that stepped back or two agents of one name: both are kept, and named."""

import random
from itertools import pairwise
from pathlib import Path

import pytest

from fixtures.collectors import Collector, run
from fixtures.processes import SIMULATED, agent_config, collecting, running, until
from fixtures.sums import windows_of
from joulefleet.describe import Engine, Meter
from joulefleet.reading import Counts, MeterReading, WorkKey, WorkReading
from joulefleet.units import NS_PER_S, s_to_ns, uj_to_j
from joulefleet.window import Window
from joulefleet_agent.clock import AgentClock, wall_ns
from joulefleet_agent.cutter import Identity
from joulefleet_agent.link import PostLink
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.sampler import Opened, Said
from joulefleet_agent.service import Agent
from joulefleet_agent.spool import Spool
from joulefleet_agent.uplink import Uplink

STEP_S = 10
METER = Meter(id="m", kind="server", grade="counter", sensor_class="platform", resolution_uj=1)
ENGINE = Engine(id="e", software="vllm")


class Host:
    """A server's two clocks and what its meter and its engine have counted; a second at a time."""

    def __init__(self, folder: Path, wall_ns: int) -> None:
        self.wall_ns = wall_ns
        self.boot_ns = 5_000 * NS_PER_S
        self.counter_uj = 7_000_000
        self.tokens = 400
        self.spool = Spool(folder / "spool.db")
        self.pipeline = Pipeline(self.spool, Identity(server="s"), s_to_ns(STEP_S))
        clock = AgentClock(lambda: self.wall_ns, lambda: self.boot_ns)
        self._agent = Agent(self.pipeline, clock, s_to_ns(STEP_S), lambda: self.wall_ns, lambda: self.boot_ns)
        self.pipeline.start(["own"], clock.now_ns())
        self._agent.take(Opened("own", (METER, ENGINE)))
        self._read()

    def live(self, seconds: int) -> None:
        """So many seconds pass, and each is read."""
        for _ in range(seconds):
            self.wall_ns += NS_PER_S
            self.boot_ns += NS_PER_S
            self.counter_uj += 301_234_567
            self.tokens += 37
            self._read()
            self._agent.beat()

    def _read(self) -> None:
        counts = Counts(requests_ok=self.tokens // 10, output_tokens=self.tokens)
        work = WorkReading(engine="e", counts={WorkKey("llama"): counts})
        self._agent.take(Said("own", self.boot_ns, (MeterReading(meter="m", counter_uj=self.counter_uj), work)))

    def deliver(self, url: str) -> None:
        """Close what was read, and send all windows."""
        self.pipeline.finish(self.wall_ns)
        uplink = Uplink([PostLink(url, random.Random(1))], self.spool, lambda: self.wall_ns)
        while uplink.send_once() is not None:
            pass
        uplink.close()
        assert self.spool.depth()[0] == 0


def test_a_clock_that_steps_back_an_hour_loses_nothing_and_is_named(tmp_path: Path) -> None:
    began_ns = wall_ns() - 3 * 3_600 * NS_PER_S
    host = Host(tmp_path, began_ns)
    first_uj, first_tokens = host.counter_uj, host.tokens
    with collecting(tmp_path / "collector", tmp_path / "data") as (_, collector):
        host.live(1_203)
        host.wall_ns -= 3_600 * NS_PER_S
        host.live(3_000)
        host.deliver(collector.url)
        windows = collector.windows()
        ledger = collector.ask(by="server")["ledger"]
        warnings = collector.report()["warnings"]
        told = run("report", "--collector", collector.url, "--since", "all").stdout
    used_uj, made = host.counter_uj - first_uj, host.tokens - first_tokens
    assert joules_uj(windows) == used_uj
    assert sum(tokens(window) for window in windows) == made
    (entry,) = ledger
    assert entry["metered_j"] + entry["late_j"] == pytest.approx(uj_to_j(used_uj), rel=1e-9)
    timelines = {window.timeline for window in windows}
    assert len(timelines) == 2
    assert len({window.key for window in windows}) == len(windows)
    named = [one for one in warnings if one["code"] == "two_agents_or_clock"]
    assert [one["server"] for one in named] == ["s"]
    assert set(named[0]["timelines"]) == {f"{timeline:08x}" for timeline in timelines}
    assert "warning two_agents_or_clock: server 's' sent two accounts" in told


def test_two_agents_of_one_name_are_both_kept_and_named(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    with collecting(tmp_path / "collector", tmp_path / "data") as (_, collector):
        for folder in folders:
            folder.mkdir()
            agent_config(folder, collector.url, SIMULATED)
        commands = [("agent", "run", "--config", str(folder / "agent.toml")) for folder in folders]
        with running(folders[0] / "agent", *commands[0]) as one, running(folders[1] / "agent", *commands[1]) as other:
            until(lambda: overlaps(collector), "three windows of each agent")
            assert [one.end(), other.end()] == [0, 0]
        windows = {window.key: window for window in collector.windows()}
        named = [entry for entry in collector.report()["warnings"] if entry["code"] == "two_agents_or_clock"]
    for folder in folders:
        sent = windows_of(folder / "spool.db", "stored")
        assert len(sent) >= 3
        assert all(windows[window.key] == window for window in sent)
        own = [window for window in windows.values() if window.timeline == sent[0].timeline]
        assert all(after.meters[0].first_uj == before.meters[0].last_uj for before, after in pairwise(own))
    assert [one["server"] for one in named] == ["s"]


def overlaps(collector: Collector) -> bool:
    """Whether both agents have told of three windows."""
    told = [window.timeline for window in collector.windows()]
    return len(set(told)) == 2 and all(told.count(one) >= 3 for one in set(told))


def joules_uj(windows: list[Window]) -> int:
    """Everything that these windows tell of all meters."""
    return sum(one.energy_uj + one.late_uj for window in windows for one in window.meters)


def tokens(window: Window) -> int:
    """Output tokens of a window, late ones too."""
    work = [one for engine in window.engines for one in engine.work]
    return sum((one.counts.output_tokens or 0) + (one.late.output_tokens or 0) for one in work)
