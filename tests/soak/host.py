"""One process of a soak that hosts many simulated agents, and goes on where an earlier one was killed.

Real: each agent's pipeline, cutter and spool on disk, its uplink in a thread of its own, its links with stream and
POST, and windows cut from readings each second. Simulated: what the meters and the engine say; and that readings are
taken at whole seconds by one thread for all agents of the process, instead of a thread for each source. Whole seconds
make the truth exact: an edge of a window falls on a reading.
"""

import logging
import random
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from joulefleet.grid import floor_to
from joulefleet.units import ns_to_s
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.link import Link, best_link
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.reply import Delivered, Halve, Verdict, Wait
from joulefleet_agent.simulate.roster import SimServer
from joulefleet_agent.simulate.sensors import Sensors
from joulefleet_agent.spool import Bounds, Spool, Waiting
from joulefleet_agent.uplink import Uplink, keep_sending
from soak.fleet import STEP_NS, Host, Run
from soak.tally import Tally

SOURCE = "simulated"
BOUNDS = Bounds(keep_after_ack_s=60.0)
"""Sixty windows; at its usual step a real agent keeps ten."""
LOOK_EVERY_S = 0.2


class CountedSpool(Spool):
    """A spool that counts the windows that are taken from it to be sent, and what becomes of them."""

    def __init__(self, path: Path, tally: Tally) -> None:
        super().__init__(path, BOUNDS)
        self._tally = tally

    def waiting(self, limit: int, now_ns: int, max_bytes: int, newest_first: bool = False) -> list[Waiting]:
        """The next batch."""
        batch = super().waiting(limit, now_ns, max_bytes, newest_first)
        self._tally.add("sent", len(batch))
        return batch

    def stored(self, seqs: Sequence[int], now_ns: int) -> None:
        """A collector has them."""
        super().stored(seqs, now_ns)
        self._tally.add("kept", len(seqs))


class CountedLink:
    """A link that counts batches, and what was said of them."""

    def __init__(self, link: Link, tally: Tally) -> None:
        self.url = link.url
        self._link = link
        self._tally = tally

    def exchange(self, batch: bytes, attempt: int) -> Verdict:
        """Give the batch over, and count."""
        self._tally.add("batches")
        verdict = self._link.exchange(batch, attempt)
        match verdict:
            case Delivered():
                self._tally.answered(wall_ns())
                for one in verdict.rejected:
                    self._tally.add(one.code)
            case Halve():
                self._tally.add(verdict.code)
            case Wait():
                self._tally.add(verdict.reason.partition(":")[0])
        return verdict

    def close(self) -> None:
        """Let it go."""
        self._link.close()


class Hosted:
    """One simulated agent."""

    def __init__(self, server: SimServer, folder: Path, urls: tuple[str, ...]) -> None:
        self.wake = threading.Event()
        self._server = server
        self._path = folder / f"{server.name}.db"
        self._urls = urls
        self._tally = Tally(folder / f"{server.name}.tally")
        self._sensors = Sensors(server)
        self._spool = Spool(self._path, BOUNDS)
        self._pipeline = Pipeline(self._spool, server.identity, STEP_NS)

    def start(self, begin_ns: int, now_ns: int) -> None:
        """Begin with the first reading, or go on where an earlier process was killed."""
        is_new = self._pipeline.last_ns < 0
        at_ns = begin_ns if is_new else now_ns
        self._pipeline.start([SOURCE], at_ns)
        devices = [device.meter for device in self._server.chassis.metered]
        self._pipeline.declare(SOURCE, [*devices, self._server.engine], at_ns)
        if is_new:
            self.read(at_ns)

    def read(self, at_ns: int) -> None:
        """Read everything, and close what is settled."""
        self._pipeline.feed(self._sensors.read(at_ns), at_ns)
        if self._pipeline.tick(at_ns, at_ns):
            self.wake.set()

    def send(self, stop: threading.Event) -> None:
        """Deliver until told to stop: the life of the sending thread."""
        with CountedSpool(self._path, self._tally) as spool:
            chance = random.SystemRandom()
            links = [CountedLink(best_link(url, chance), self._tally) for url in self._urls]
            keep_sending(Uplink(links, spool, wall_ns), stop, self.wake)

    @property
    def is_empty(self) -> bool:
        """Whether no window waits."""
        return self._spool.depth()[0] == 0


def live(agents: list[Hosted], run: Run, stop: threading.Event) -> None:
    """Read all agents at each whole second until the end; seconds that went by meanwhile are passed over."""
    for agent in agents:
        agent.start(run.begin_ns, max(_second(run), run.begin_ns))
    while (at_ns := _second(run)) < run.end_ns:
        if at_ns > run.begin_ns:
            read_all(agents, at_ns)
        stop.wait(ns_to_s(max(at_ns + STEP_NS - wall_ns(), 0)))
    read_all(agents, run.end_ns)
    while not all(agent.is_empty for agent in agents):
        stop.wait(LOOK_EVERY_S)


def read_all(agents: list[Hosted], at_ns: int) -> None:
    """One reading of each; the same instant twice changes nothing."""
    for agent in agents:
        agent.read(at_ns)


def _second(run: Run) -> int:
    return min(floor_to(wall_ns(), STEP_NS), run.end_ns)


def main(folder: Path, name: str) -> None:
    """Host the agents of this name until all is delivered."""
    run = Run.read(folder)
    host: Host = next(one for one in run.hosts if one.name == name)
    servers, stop = run.servers(), threading.Event()
    agents = [Hosted(servers[server], folder, host.urls) for server in host.servers]
    senders = [threading.Thread(target=agent.send, args=(stop,), daemon=True) for agent in agents]
    for sender in senders:
        sender.start()
    live(agents, run, stop)
    stop.set()
    for agent in agents:
        agent.wake.set()
    for sender in senders:
        sender.join()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    main(Path(sys.argv[1]), sys.argv[2])
