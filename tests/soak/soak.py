"""The course of a soak: everything is started, killed by plan, tended, left to empty its spools, and asked."""

import random
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from fixtures.collectors import Collector
from joulefleet.grid import floor_to
from joulefleet.units import NS_PER_S, s_to_ns
from joulefleet.window import Window, decode
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.link import best_link
from joulefleet_agent.spool import Spool
from joulefleet_agent.uplink import Uplink
from soak import judge
from soak.fleet import STEP_NS, Host, Place, Run, Sums, fleet, holes, told, truth
from soak.life import Kept
from soak.outcome import Outcome
from soak.plan import Kill, Prey, plan
from soak.side import Side, sides
from soak.tally import Tally

REAL_AGENTS = 4
HOSTED_IN_ONE = 20
LOOK_EVERY_S = 0.2
SAMPLE_EVERY_S = 2.0
TELL_EVERY_S = 5.0
LEAD_S = 4.0
"""For the agents to start before the first reading."""
LONG_S = 180.0
"""From here on a soak kills at the same pace, however long."""
START_S = 60.0
EMPTY_S = 300.0
"""In which all spools must be empty after the last reading: an agent waits 60 s at most before it tries again."""
EXCUSED_S = 60.0
"""So long after its store began a collector may have ended since it did not answer."""


class Soak:
    """One soak in a folder of its own; every process that it started has ended when the block does."""

    def __init__(self, folder: Path, seed: int, seconds: int, agents: int) -> None:
        self._folder, self._seed, self._seconds, self._agents = folder, seed, seconds, agents
        self._began_ns = wall_ns()
        self._sides = sides(folder, REAL_AGENTS)
        self._kept = [one for side in self._sides for one in side.kept]
        self._hosts: list[Kept] = []
        self._tallies: list[Tally] = []
        self._killed: Counter[str] = Counter()
        self._passed_over = 0
        self._faults: list[str] = []
        self._sampled_s = self._told_s = 0.0

    def __enter__(self) -> "Soak":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._kept:
            one.close(self._now_s())

    def run(self) -> Outcome:
        """All of it. What is off is in the outcome's faults."""
        self._start_stores()
        self._start_agents()
        self._live(plan(self._seed, self._seconds, self._preys()))
        self._empty()
        self._end_agents()
        self._compare()
        self._faults += judge.memory(self._kept) + self._ends() + self._said()
        return Outcome(
            seed=self._seed,
            seconds=self._seconds,
            made=len(self._tallies) * self._seconds,
            tallies=self._tallies,
            killed=dict(self._killed),
            passed_over=self._passed_over,
            kept=self._kept,
            faults=self._faults,
        )

    def _now_s(self) -> float:
        return (wall_ns() - self._began_ns) / NS_PER_S

    def _course_s(self) -> float:
        """Seconds since the first reading."""
        return (wall_ns() - self._course.begin_ns) / NS_PER_S

    def _preys(self) -> list[Prey]:
        """A first host and a first real agent always live on, so that their memory can be watched.

        In a long soak the first collector of each store does so from some time on. A short one kills more often, so
        that it kills some of each kind.
        """
        minutes = min(self._seconds, LONG_S) / 60
        preys = [
            Prey(
                kind=f"collector, {side.name}",
                names=tuple(one.name for one in side.collectors),
                every_s=18.0 * minutes,
                spared=(side.collectors[0].name,) if self._seconds > LONG_S else (),
            )
            for side in self._sides
        ]
        stores = tuple(side.store.name for side in self._sides if side.store)
        agents = tuple(one.name for side in self._sides for one in side.agents)
        hosts = tuple(one.name for one in self._hosts)
        preys.append(Prey(kind="store", names=stores, every_s=20.0 * minutes))
        preys.append(Prey(kind="host of agents", names=hosts[1:], every_s=10.0 * minutes))
        preys.append(Prey(kind="real agent", names=agents[1:], every_s=20.0 * minutes))
        return [prey for prey in preys if prey.names]

    def _start_stores(self) -> None:
        for side in self._sides:
            if side.store:
                side.store.start(self._now_s())
                _until(partial(_answers, f"{side.store_url}/ping"), side.name)
            for collector in side.collectors:
                collector.start(self._now_s())
        for url in [url for side in self._sides for url in side.urls]:
            _until(partial(_answers, f"{url}/-/ready"), "a collector")

    def _start_agents(self) -> None:
        begin_ns = floor_to(wall_ns() + s_to_ns(LEAD_S), STEP_NS)
        hosts = _hosts(self._agents - REAL_AGENTS, self._sides, self._seed, begin_ns)
        end_ns = begin_ns + self._seconds * NS_PER_S
        self._course = Run(seed=self._seed, begin_ns=begin_ns, end_ns=end_ns, hosts=hosts)
        self._course.write(self._folder)
        self._tallies = [Tally(self._folder / f"{name}.tally") for host in hosts for name in host.servers]
        self._hosts = [_host(host, self._folder) for host in hosts]
        self._kept += self._hosts
        for one in self._kept:
            if not one.runs:
                one.start(self._now_s())

    def _live(self, kills: list[Kill]) -> None:
        by_name = {one.name: one for one in self._kept}
        coming = list(reversed(kills))
        while (course_s := self._course_s()) < self._seconds:
            while coming and coming[-1].at_s <= course_s:
                kill = coming.pop()
                if by_name[kill.victim].kill(self._now_s(), kill.down_s):
                    self._killed[kill.kind] += 1
                else:
                    self._passed_over += 1
            self._tend()

    def _tend(self) -> None:
        for one in self._kept:
            one.tend(self._now_s())
        self._look()
        time.sleep(LOOK_EVERY_S)

    def _empty(self) -> None:
        """Let hosts deliver what waits; each ends by itself when nothing does."""
        until_s = self._now_s() + EMPTY_S
        while left := [host.name for host in self._hosts if not host.is_done]:
            if self._now_s() > until_s:
                self._faults.append(f"windows wait {EMPTY_S:.0f} s after the last reading: {', '.join(left)}")
                return
            self._tend()

    def _end_agents(self) -> None:
        """End the real agents, and send what still waits in their spools."""
        for side in self._sides:
            for agent, path in zip(side.agents, side.spools, strict=True):
                if agent.end(self._now_s()) not in (0, None):
                    self._faults.append(f"{agent.name} did not end cleanly")
                with Spool(path) as spool:
                    chance = random.SystemRandom()
                    uplink = Uplink([best_link(url, chance) for url in side.urls], spool, wall_ns)
                    _until(partial(_sent, uplink), f"the spool of {agent.name} to be empty", EMPTY_S)
                    uplink.close()

    def _compare(self) -> None:
        servers = self._course.servers()
        for side in self._sides:
            names = [name for host in self._course.hosts if host.urls == side.urls for name in host.servers]
            true: dict[Place, Sums] = {}
            for name in names:
                true |= truth(servers[name], self._course.begin_ns, self._course.end_ns)
            for path in side.spools:
                windows = _windows(path)
                self._faults += judge.shortened(holes(windows))
                true |= told(windows)
            collector = Collector(side.urls[-1])
            answer, fleet_answer = collector.ask(by="server"), collector.ask(by="")
            self._faults += judge.shortened(judge.differences(true, judge.told_by(answer), side.name))
            whole, fleet_told = judge.together(true), judge.of_fleet(fleet_answer)
            self._faults += judge.shortened(judge.differences(whole, fleet_told, f"{side.name}, sums of the fleet"))
            self._faults += judge.shortened(judge.residuals(answer, side.name))

    def _ends(self) -> list[str]:
        """Processes that ended by themselves, save collectors whose store was not there to be opened."""
        found = []
        for side in self._sides:
            began_s = [life.began_s for life in side.store.lives] if side.store else []
            ended_s = [life.ended_s for life in side.store.lives if life.ended_s is not None] if side.store else []
            for one in side.kept:
                for at_s, code in one.by_itself:
                    excused = any(0 <= at_s - then <= EXCUSED_S for then in [*began_s, *ended_s])
                    if one not in side.collectors or not excused or code != 2:
                        found.append(f"{one.name} ended by itself after {at_s:.0f} s with exit code {code}")
        for host in self._hosts:
            found += [f"{host.name} ended by itself after {at_s:.0f} s: {code}" for at_s, code in host.by_itself]
        return found

    def _said(self) -> list[str]:
        """Logs that tell of a fault of ours, and lines that InfluxDB refused."""
        logs = [(one.log.name, one.log.read_text(errors="replace")) for one in self._kept]
        found = [f"{name}: {fault}" for name, log in logs for fault in sorted(judge.tracebacks(log))]
        aside = [str(path.relative_to(self._folder)) for path in self._folder.glob("*/set-aside.lp")]
        return found + [f"{name}: InfluxDB refused lines" for name in aside]

    def _look(self) -> None:
        now_s = self._now_s()
        if now_s - self._sampled_s >= SAMPLE_EVERY_S:
            self._sampled_s = now_s
            for one in self._kept:
                one.sample(now_s)
        if now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            course_s = self._course_s()
            made = len(self._tallies) * max(min(int(course_s), self._seconds), 0)
            kept = sum(tally["kept"] for tally in self._tallies)
            down = ", ".join(one.name for one in self._kept if not one.runs and not one.is_done) or "nothing"
            kills = sum(self._killed.values())
            print(f"{course_s:4.0f} s  {kept:,} windows kept of {made:,}; {kills} kills; down: {down}", flush=True)


def _hosts(number: int, several: list[Side], seed: int, begin_ns: int) -> tuple[Host, ...]:
    """Servers in turn for each store, some twenty to a host."""
    names = list(fleet(seed, number, begin_ns))
    hosts: list[Host] = []
    for place, side in enumerate(several):
        own = names[place :: len(several)]
        parts = -(-len(own) // HOSTED_IN_ONE)
        hosts += [Host(f"host-{len(hosts) + k + 1}", side.urls, tuple(own[k::parts])) for k in range(parts)]
    return tuple(hosts)


def _host(host: Host, folder: Path) -> Kept:
    return Kept(
        host.name, "host of agents", (sys.executable, "-m", "soak.host", folder, host.name), folder, may_end=True
    )


def _windows(path: Path) -> list[Window]:
    """Every window of a spool, in order."""
    with closing(sqlite3.connect(path)) as db:
        return [decode(body) for (body,) in db.execute("SELECT body FROM windows ORDER BY start_ns")]


def _sent(uplink: Uplink) -> bool:
    """Whether nothing waits any more; else a batch was sent, or has to wait."""
    wait_s = uplink.send_once()
    if wait_s:
        time.sleep(wait_s)
    return wait_s is None


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=10):
            return True
    except HTTPError:
        return False
    except OSError:
        return False


def _until(condition: Callable[[], bool], what: str, deadline_s: float = START_S) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"waited {deadline_s:.0f} s for {what}")
        time.sleep(LOOK_EVERY_S)
