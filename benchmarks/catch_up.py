"""How long a fleet takes to bring in what waited on its disks during an outage, and what that does to new windows.

Each server has a spool with the windows of the outage, made as `joulefleet simulate` makes them, and an agent's own
uplink sends it over a stream. The collector is the real one on a core of its own; all agents share another. Meanwhile
each server closes new windows, far oftener than in life. What an agent waits before it tries a collector again is not
in the figures. At the end the store is asked whether every window is in its sums. Writes a table and a JSON file.
"""

import argparse
import json
import logging
import math
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from collector import LOAD_CORE, Collector, Figures, kept, machine
from joulefleet.grid import HOUR_NS, floor_to
from joulefleet.units import ns_to_s
from joulefleet_agent.link import Link, best_link
from joulefleet_agent.reply import FEW_WINDOWS, Delivered, Verdict
from joulefleet_agent.simulate.roster import SimServer, roster
from joulefleet_agent.simulate.scenario import Scenario
from joulefleet_agent.simulate.stream import windows_of
from joulefleet_agent.spool import Spool
from joulefleet_agent.uplink import BACKLOG_WINDOWS_PER_S, Uplink, keep_sending

WINDOWS_PER_HOUR = 60
NEW_HOURS = 6
"""Of windows that follow the outage, to be closed while it is caught up."""
COMMIT = 500
"""Windows brought into a spool at once."""
LOOK_EVERY_S = 0.005


class TimedSpool(Spool):
    """A spool that notes when each window was stored."""

    def __init__(self, path: Path, stored_s: dict[int, float]) -> None:
        super().__init__(path)
        self._stored_s = stored_s

    def stored(self, seqs: Sequence[int], now_ns: int) -> None:
        super().stored(seqs, now_ns)
        now_s = time.perf_counter()
        self._stored_s.update((seq, now_s) for seq in seqs)


class CountedLink:
    """A way to the collector that counts what is sent and what is to be sent again."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.url = link.url
        self.sent = self.in_vain = 0

    def exchange(self, batch: bytes, attempt: int) -> Verdict:
        """As its link does."""
        verdict = self._link.exchange(batch, attempt)
        self.sent += 1
        self.in_vain += not isinstance(verdict, Delivered)
        return verdict

    def close(self) -> None:
        """As its link does."""
        self._link.close()


class Agent:
    """One server's spool, its uplink in a thread, and the windows that it still closes."""

    def __init__(self, server: SimServer, folder: Path, backlog: int) -> None:
        self.backlog = backlog
        self.stored_s: dict[int, float] = {}
        """By a window's number in the spool, from 1: when it was stored."""
        self.closed_s: list[float] = []
        """When each new one was in the spool."""
        self._path = folder / f"{server.name}.db"
        self._windows = windows_of(server, fast=True)
        self.wake = threading.Event()

    def fill(self) -> None:
        """Bring the windows of the outage into the spool."""
        waiting = islice(self._windows, self.backlog)
        with Spool(self._path) as spool:
            while some := list(islice(waiting, COMMIT)):
                spool.commit(b"", some, time.time_ns())

    def send(self, url: str, stop: threading.Event) -> None:
        """As a live agent, until told to stop."""
        self.link = CountedLink(best_link(url, random.SystemRandom()))
        with TimedSpool(self._path, self.stored_s) as spool:
            keep_sending(Uplink([self.link], spool, time.time_ns), stop, self.wake)

    def close_one(self) -> None:
        """A new window."""
        with Spool(self._path) as spool:
            spool.commit(b"", [next(self._windows)], time.time_ns())
        self.closed_s.append(time.perf_counter())
        self.wake.set()

    @property
    def is_caught_up(self) -> bool:
        """Whether the whole backlog is stored; as the newest go first, the oldest is the last."""
        return 1 in self.stored_s and len(self.stored_s) >= self.backlog

    @property
    def is_done(self) -> bool:
        """Whether all is stored."""
        return len(self.stored_s) == self.backlog + len(self.closed_s)


def fleet(servers: int, hours: float) -> list[SimServer]:
    """Servers whose outage and the windows after it are over by now."""
    begin_ns = floor_to(time.time_ns(), HOUR_NS) - (math.ceil(hours) + NEW_HOURS) * HOUR_NS
    begin = datetime.fromtimestamp(ns_to_s(begin_ns), UTC)
    return roster(Scenario(servers=servers, begin=begin, days=(hours + NEW_HOURS) / 24))


@contextmanager
def sending(agents: Sequence[Agent], url: str) -> Iterator[None]:
    """All uplinks at work."""
    stop = threading.Event()
    threads = [threading.Thread(target=agent.send, args=(url, stop)) for agent in agents]
    try:
        for thread in threads:
            thread.start()
        yield
    finally:
        stop.set()
        for agent, thread in zip(agents, threads, strict=True):
            agent.wake.set()
            thread.join()


def close_windows(agents: Sequence[Agent], every_s: float, for_s: float) -> float:
    """Each agent closes a window every so often, until all have caught up and for so long after. When they had."""
    began_s, closed, caught_up_s = time.perf_counter(), 0, math.inf
    most = NEW_HOURS * WINDOWS_PER_HOUR * len(agents)
    while (now_s := time.perf_counter()) < caught_up_s + for_s:
        if closed == most:
            raise TimeoutError(f"the backlog is not in after {now_s - began_s:.0f} s: try --every {2 * every_s:g}")
        if caught_up_s == math.inf and all(agent.is_caught_up for agent in agents):
            caught_up_s = now_s
        if now_s - began_s >= closed * every_s / len(agents):
            agents[closed % len(agents)].close_one()
            closed += 1
        else:
            time.sleep(LOOK_EVERY_S)
    return caught_up_s


def measure(collector: Collector, agents: Sequence[Agent], every_s: float, after_s: float) -> Figures:
    """The figures of one outage."""
    began_s, own_s, cpu_s = time.perf_counter(), time.process_time(), collector.cpu_s()
    with sending(agents, f"http://{collector.host}:{collector.port}"):
        caught_up_s = close_windows(agents, every_s, after_s)
        took_s = time.perf_counter() - began_s
        while not all(agent.is_done for agent in agents):
            time.sleep(LOOK_EVERY_S)
    backlog = sum(agent.backlog for agent in agents)
    stored = sum(len(agent.stored_s) for agent in agents)
    in_time = sum(at_s <= caught_up_s for agent in agents for at_s in agent.stored_s.values())
    newest_s = [agent.stored_s[agent.backlog] - began_s for agent in agents]
    return {
        "backlog": backlog,
        "newest_in_s": max(newest_s),
        "newest_was_first": sum(agent.stored_s[agent.backlog] == min(agent.stored_s.values()) for agent in agents),
        "backlog_in_s": caught_up_s - began_s,
        "windows_per_s": in_time / (caught_up_s - began_s),
        "batches": sum(agent.link.sent for agent in agents),
        "batches_in_vain": sum(agent.link.in_vain for agent in agents),
        "agent_windows_per_s_at_most": max(map(rate, agents)),
        "agent_limit": BACKLOG_WINDOWS_PER_S,
        **delays("meanwhile", [one for agent in agents for one in _delays(agent, began_s, caught_up_s)]),
        **delays("after", [one for agent in agents for one in _delays(agent, caught_up_s, math.inf)]),
        "cpu_us_per_window": (collector.cpu_s() - cpu_s) / stored * 1e6,
        "core_share": (collector.cpu_s() - cpu_s) / took_s,
        "load_core_share": (time.process_time() - own_s) / took_s,
        "most_mb": collector.memory_mb("VmHWM"),
    }


def rate(agent: Agent) -> float:
    """Windows a second of its backlog, from its first batch to its last."""
    its = [at_s for seq, at_s in agent.stored_s.items() if seq <= agent.backlog]
    return (agent.backlog - min(agent.backlog, FEW_WINDOWS)) / max(max(its) - min(its), LOOK_EVERY_S)


def _delays(agent: Agent, from_s: float, until_s: float) -> Iterator[float]:
    for seq, closed_s in enumerate(agent.closed_s, agent.backlog + 1):
        if from_s <= closed_s < until_s:
            yield agent.stored_s[seq] - closed_s


def delays(when: str, of_windows: Sequence[float]) -> Figures:
    """From a new window in the spool to its answer."""
    if len(of_windows) < 2:
        return {f"new_{when}": len(of_windows)}
    cuts = statistics.quantiles(of_windows, n=100)
    return {
        f"new_{when}": len(of_windows),
        f"new_{when}_p50_s": cuts[49],
        f"new_{when}_p99_s": cuts[98],
        f"new_{when}_longest_s": max(of_windows),
    }


def run(asked: argparse.Namespace) -> dict[str, object]:
    """One outage in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=asked.data_dir) as folder, ExitStack() as stack:
        store, spools = Path(folder, "store"), Path(folder, "spools")
        spools.mkdir()
        backlog = round(asked.hours * WINDOWS_PER_HOUR)
        agents = [Agent(server, spools, backlog) for server in fleet(asked.servers, asked.hours)]
        for agent in agents:
            agent.fill()
        collector = Collector(store, workers=1)
        stack.callback(collector.end)
        figures = measure(collector, agents, asked.every, asked.after)
        collector.end()
        figures |= {"sent": sum(len(agent.stored_s) for agent in agents), "kept": kept(store)}
    return {"machine": machine(), "servers": asked.servers, "outage_h": asked.hours, "figures": figures}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=50)
    parser.add_argument("--hours", type=float, default=24.0, help="of the outage; a window is a minute")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between new windows of a server")
    parser.add_argument("--after", type=float, default=10.0, help="seconds that new windows go on when all is in")
    parser.add_argument("--data-dir", default=None, help="folder on the disk to be measured")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    return parser.parse_args()


def main() -> None:
    """Run, print, write."""
    asked = options()
    os.sched_setaffinity(0, {LOAD_CORE})
    logging.disable()  # what fails is counted
    outcome = run(asked)
    figures = outcome["figures"]
    assert isinstance(figures, dict)
    for name, value in figures.items():
        print(f"{name:32} {value:14,.3f}")
    whole = figures["kept"] == figures["sent"]
    print("every window is kept" if whole else "WINDOWS ARE MISSING")
    if asked.json:
        asked.json.write_text(json.dumps(outcome, indent=1) + "\n")
    if not whole:
        sys.exit(1)


if __name__ == "__main__":
    main()
