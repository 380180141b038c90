"""A thousand agents whose collector ends and comes back: they return spread over time, and every window is there once.

What is judged is when each agent means to return, told by its link; when it does return is printed beside it, since a
machine that runs a thousand agents at once is too busy to keep every appointment.
"""

import random
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from fixtures.collectors import Collector
from fixtures.past import assert_same
from fixtures.processes import Restarted, address_of, free_port, until
from joulefleet.describe import Meter
from joulefleet.units import NS_PER_S
from joulefleet.window import MeterWindow, Window
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.link import StreamLink
from joulefleet_agent.reply import FIRST_WAIT_S, Delivered, Verdict, Wait
from joulefleet_agent.spool import Spool
from joulefleet_agent.uplink import Uplink
from joulefleet_collector.stream import RETURNS_PER_S

AGENTS = 1_000
NAMED_S = 1 + AGENTS // RETURNS_PER_S
"""Over so many seconds a collector that says goodbye to all of them spreads their return."""
BUCKET_S = 0.1
UNEVEN = 3
"""So many times the even share may fall into one bucket: chance alone gives less than twice."""
LINES = 15
SWITCH_S = 0.2
"""Each thread that wants to run asks so often for its turn; of a thousand the asking alone would fill a core."""
LONGEST_WAIT_S = 3.0
"""What an agent means to wait beyond it is cut off here, for the sake of the test's time; none of it is judged."""
STEP_NS = 60 * NS_PER_S
METER = Meter(id="m", kind="server", grade="counter", sensor_class="platform")


class Watched(StreamLink):
    """The agent's stream, and what became of each exchange on it since the last look."""

    def __init__(self, url: str, chance: random.Random) -> None:
        super().__init__(url, chance)
        self.found: list[tuple[float, Verdict]] = []

    def exchange(self, body: bytes, attempt: int) -> Verdict:
        verdict = super().exchange(body, attempt)
        self.found.append((time.monotonic(), verdict))
        return verdict


class Agent(threading.Thread):
    """One server's spool and uplink. It sends a window as soon as the fleet's time has come to the next one."""

    def __init__(self, number: int, url: str, fleet: "Fleet") -> None:
        super().__init__(daemon=True)
        self.server = f"s{number:04}"
        self.link = Watched(url, random.Random(number))
        self.delivered = 0
        self._fleet = fleet

    def run(self) -> None:
        with Spool(Path(":memory:")) as spool:
            uplink = Uplink([self.link], spool, wall_ns)
            for window in self._fleet.windows_of(self.server):
                spool.commit(b"", [window], wall_ns())
                while (wait_s := uplink.send_once()) is not None:
                    self._fleet.ended.wait(min(wait_s, LONGEST_WAIT_S))
                    if self._fleet.ended.is_set():
                        return
                self.delivered += 1
            uplink.close()


class Fleet:
    """All agents, and the number of windows that each of them has by now."""

    def __init__(self, url: str) -> None:
        self.ended = threading.Event()
        self._begin_ns = wall_ns() // (60 * STEP_NS) * 60 * STEP_NS - 60 * STEP_NS
        self._due = 0
        self._next = threading.Condition()
        self.agents = [Agent(number, url, self) for number in range(AGENTS)]
        for agent in self.agents:
            agent.start()

    def window(self, server: str, number: int) -> Window:
        """A window of one joule more than the one before."""
        energy_uj = (number + 1) * 1_000_000
        told = MeterWindow(meter=METER, energy_uj=energy_uj, last_uj=energy_uj, covered_ns=STEP_NS)
        start_ns = self._begin_ns + number * STEP_NS
        return Window(server=server, timeline=1, start_ns=start_ns, step_ns=STEP_NS, meters=(told,))

    def windows_of(self, server: str) -> Iterator[Window]:
        """Each as soon as it is due, until the fleet has ended."""
        number = 0
        while True:
            with self._next:
                self._next.wait_for(lambda: self._due > number or self.ended.is_set())  # noqa: B023 # called at once
            if self.ended.is_set():
                return
            yield self.window(server, number)
            number += 1

    def next_window(self) -> None:
        """Every agent has one window more, all at once."""
        for agent in self.agents:
            agent.link.found.clear()
        with self._next:
            self._due += 1
            self._next.notify_all()

    def until_delivered(self) -> None:
        """Wait until every agent has delivered all that it has."""
        until(lambda: all(agent.delivered == self._due for agent in self.agents), "every agent to deliver")

    def waits(self, number: int) -> list[float]:
        """How long the agents waited after the exchange of this number that was in vain, those that had so many."""
        tries = ([one for _, one in agent.link.found if isinstance(one, Wait)] for agent in self.agents)
        return [several[number].seconds for several in tries if len(several) > number]

    def returned(self) -> list[float]:
        """When each was heard again, in seconds since the first of them."""
        heard = [at_s for agent in self.agents for at_s, one in agent.link.found if isinstance(one, Delivered)]
        return [at_s - min(heard) for at_s in heard]

    def assert_stored_once(self, collector: Collector) -> None:
        """The store has every window of every agent, and no other."""
        made = [self.window(agent.server, number) for number in range(self._due) for agent in self.agents]
        by_key = {window.key: window for window in collector.windows()}
        assert len(collector.windows()) == len(made)
        assert_same([by_key[window.key] for window in made], made)

    def close(self) -> None:
        """End all agents."""
        self.ended.set()
        with self._next:
            self._next.notify_all()
        for agent in self.agents:
            agent.join()


@pytest.fixture(autouse=True)
def thousands() -> Iterator[None]:
    """As many connections as the system lets a process have, and threads that seldom ask for their turn."""
    (soft, hard), interval_s = resource.getrlimit(resource.RLIMIT_NOFILE), sys.getswitchinterval()
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(SWITCH_S)
    yield
    sys.setswitchinterval(interval_s)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_agents_return_spread_after_a_goodbye_and_after_a_crash(tmp_path: Path) -> None:
    data, port = tmp_path / "data", free_port()
    words = ("collector", "run", "--data-dir", str(data), "--port", str(port))
    with closing(Restarted(data / "joulefleet.db", tmp_path / "collector", *words)) as store:
        collector = Collector(address_of(store.command))
        with closing(Fleet(collector.url)) as fleet:
            fleet.next_window()
            fleet.until_delivered()

            assert store.command.end() == 0
            store.start()
            address_of(store.command)
            fleet.next_window()
            fleet.until_delivered()
            meant = fleet.waits(0)
            show("goodbye: means to return after", meant)
            show("goodbye: heard again", fleet.returned())
            assert len(meant) == AGENTS
            assert_spread(meant, NAMED_S)

            store.kill()
            fleet.next_window()
            until(lambda: len(fleet.waits(1)) == AGENTS, "every agent to find nobody")
            store.start()
            address_of(store.command)
            fleet.until_delivered()
            first, second = fleet.waits(0), fleet.waits(1)
            show("crash: tries again after", first)
            show("crash: and then after", second)
            show("crash: heard again", fleet.returned())
            assert_spread(first, FIRST_WAIT_S)
            assert_spread(second, 2 * FIRST_WAIT_S)
            fleet.assert_stored_once(collector)


def assert_spread(waits: Sequence[float], over_s: float) -> None:
    """They reach from 0 to this time, and no bucket of it holds much more than its share."""
    assert 0 <= min(waits) < 0.05 * over_s < 0.95 * over_s < max(waits) <= over_s
    share = len(waits) * BUCKET_S / over_s
    assert max(buckets(waits).values()) < UNEVEN * share


def buckets(instants: Sequence[float]) -> Counter[int]:
    """How many fall into each BUCKET_S."""
    return Counter(int(instant / BUCKET_S) for instant in instants)


def show(what: str, instants: Sequence[float]) -> None:
    """Lines of equal parts of the time, and how many fall into each."""
    width_s = max(instants) / LINES
    found = Counter(min(int(instant / width_s), LINES - 1) for instant in instants)
    print(f"{what}, {len(instants)} agents, at most {max(buckets(instants).values())} in {BUCKET_S} s")
    for number in range(LINES):
        print(f"{number * width_s:7.2f} s {found[number]:5} {'#' * (found[number] // 5)}")
