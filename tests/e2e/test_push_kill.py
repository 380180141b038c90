"""Agents that are killed while programs tell them of work: what was answered counts, all of it and once."""

import json
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fixtures.collectors import DEADLINE_S
from fixtures.processes import SIMULATED, Restarted, agent_config, collecting, until
from fixtures.unix_http import post
from fixtures.virtual_agent import Clock
from joulefleet.reading import WorkKey
from joulefleet.units import NS_PER_S, ns_to_s, s_to_ns
from joulefleet.window import Window, decode
from joulefleet_agent.cutter import Identity
from joulefleet_agent.pipeline import COMMIT_EVERY_NS, Pipeline
from joulefleet_agent.sampler import stamped
from joulefleet_agent.spool import Spool
from joulefleet_plugins.work.push import Config, PushEngine, PushSource
from joulefleet_plugins.work.push_file import PushFile

KILLS = 5
SENDERS = ("counts", "totals")


class Sender(threading.Thread):
    """A program that tells of 1, 2, 3, ... requests until it is stopped; each message again until it has an answer."""

    def __init__(self, at: Path, name: str, stop: threading.Event) -> None:
        super().__init__(name=name)
        self._at, self._ending = at, stop
        self.sent = self.messages = self.repeats = 0

    def run(self) -> None:
        while not self._ending.is_set():
            self.messages += 1
            self.sent += self.messages
            status, told = post(self._at, "/v1/work", self._body(), again_for_s=DEADLINE_S)
            assert status == 200, told
            self.repeats += told["repeated"]

    def _body(self) -> bytes:
        told = {"engine": "e", "model": "M", "tenant": self.name, "sender": self.name, "seq": self.messages}
        of = {"requests_ok": self.messages if self.name == "counts" else self.sent}
        return json.dumps(told | ({"counts": of} if self.name == "counts" else {"totals": of, "life": "1"})).encode()


@contextmanager
def sending(at: Path) -> Iterator[list[Sender]]:
    stop = threading.Event()
    senders = [Sender(at, name, stop) for name in SENDERS]
    for one in senders:
        one.start()
    try:
        yield senders
    finally:
        stop.set()
        for one in senders:
            one.join()


def until_told(senders: list[Sender]) -> None:
    """Wait until each of them has had an answer to something that it tells from now on."""
    before = [one.messages + 1 for one in senders]
    until(lambda: all(one.messages > was for one, was in zip(senders, before, strict=True)), "work to be taken")


def counted(windows: Sequence[Window]) -> dict[str, int]:
    """Requests by tenant in all windows, late ones included."""
    sums = dict.fromkeys(SENDERS, 0)
    for window in windows:
        for work in (one for engine in window.engines if engine.engine.id == "e" for one in engine.work):
            assert work.key == WorkKey("M", "", work.key.tenant)
            sums[work.key.tenant] += (work.counts.requests_ok or 0) + (work.late.requests_ok or 0)
    return sums


def test_what_was_answered_counts_once_however_often_the_agent_is_killed(tmp_path: Path) -> None:
    chance, at, kept = random.Random(3), tmp_path / "work.sock", tmp_path / "push.db"
    file = PushFile(kept)
    file.begin("e")
    file.close()
    push = f'[[sources]]\nuse = "push"\nsocket = "{at}"\nfile = "{kept}"\nperiod_s = 1\nengines = [{{ id = "e" }}]\n'
    with collecting(tmp_path / "collector", tmp_path / "data") as (_, collector):
        config = agent_config(tmp_path, collector.url, SIMULATED + push)
        words = ("agent", "run", "--config", str(config))
        with closing(Restarted(tmp_path / "spool.db", tmp_path / "agent", *words)) as agent:
            until(lambda: any(one.engines for one in collector.windows()), "a first window with the engine")
            with sending(at) as senders:
                for _ in range(KILLS):
                    until_told(senders)
                    assert not agent.ends_well(chance.uniform(0, 1.5))
                    agent.kill()
                    agent.start()
                until_told(senders)
            sent = {one.name: one.sent for one in senders}
            until(
                lambda: counted(collector.windows()) == sent,
                f"{sent} to be counted, and not {counted(collector.windows())}",
            )
            windows = len(collector.windows())
            until(lambda: len(collector.windows()) > windows + 1, "more windows")
            assert counted(collector.windows()) == sent
    messages = sum(one.messages for one in senders)
    print(f"{messages} messages, {KILLS} kills, {sum(one.repeats for one in senders)} sent again after an answer")
    assert messages > 2 * KILLS


class Life:
    """An agent from its start to its death, in the test's time; what it has not committed dies with it."""

    def __init__(self, folder: Path, clock: Clock, step_s: int) -> None:
        self._clock, self._begun_ns = clock, 0
        config = Config(engines=(PushEngine(id="e"),))
        self.source = PushSource(config, PushFile(folder / "push.db"), lambda: ns_to_s(clock()))
        self.spool = Spool(folder / "spool.db")
        self._pipeline = Pipeline(self.spool, Identity(server="s"), s_to_ns(step_s))
        self._pipeline.start(["push"], clock())
        self._pipeline.declare("push", self.source.declares, clock())

    def read(self, commits: bool) -> None:
        """Read, and commit now; after ten seconds at the latest, as an agent does whose disk was slow at first."""
        told = stamped(self.source.read(), self._clock(), self.source.declares)
        self._pipeline.feed(told, self._clock())
        self._begun_ns = self._begun_ns or self._clock()
        if commits or self._clock() - self._begun_ns >= COMMIT_EVERY_NS:
            self._pipeline.tick(self._clock(), self._clock())

    def finish(self) -> list[Window]:
        self._pipeline.finish(self._clock())
        return [decode(one.body) for one in self.spool.waiting(10_000, self._clock(), 2**40)]

    def kill(self) -> None:
        self.source.close()
        self.spool.__exit__(None, None, None)


@pytest.mark.parametrize("seed", range(12))
def test_from_its_first_second_on_no_kill_loses_a_request(tmp_path: Path, seed: int) -> None:
    """An agent that never ran before, killed at any of its seconds, and told of work at any other."""
    chance, clock, sent = random.Random(seed), Clock(1_790_000_000 * NS_PER_S), 0
    life = Life(tmp_path, clock, chance.choice([2, 10, 60]))
    try:
        for seq in range(chance.choice([20, 60, 200])):
            clock.now_ns += s_to_ns(chance.uniform(0.1, 5))
            if chance.random() < 0.5:
                sent += seq
                told = {"engine": "e", "model": "M", "tenant": "counts", "sender": "s", "seq": seq}
                assert (
                    life.source.desk.take(json.dumps({**told, "counts": {"requests_ok": seq}}).encode()).status == 200
                )
            if chance.random() < 0.7:
                life.read(chance.random() < 0.2)
            if chance.random() < 0.15:
                life.kill()
                life = Life(tmp_path, clock, chance.choice([2, 10, 60]))
        for _ in range(20):
            clock.now_ns += 5 * NS_PER_S
            life.read(True)
        assert counted(life.finish())["counts"] == sent
    finally:
        life.kill()
