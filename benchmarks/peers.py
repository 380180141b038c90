"""What a collector takes in beside vmagent, VictoriaMetrics and InfluxDB, each given the same seconds of a fleet.

A window of 10 s goes to the collector as an agent sends it; its peers get every reading that it stands for, as line
protocol. Each server has one core to itself and one connection for each that is measured. They take short turns, the
others standing still meanwhile, so that a noisy machine is noisy for all. Writes a table and a JSON file.
"""

import argparse
import asyncio
import gc
import json
import math
import os
import resource
import statistics
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any

import uvloop
from peer_servers import PEERS, Paused, Peer
from readings import TICKS, VALUES, lines, posts
from servers import Fleet

from collector import LOAD_CORE, Agent, Collector, Figures, Load, core_s, kept, machine, post, stored_bytes
from joulefleet.grid import HOUR_NS, floor_to
from joulefleet.units import s_to_ns
from joulefleet_collector.store.embedded import EmbeddedStore

MOST_PER_S = 6_000
"""More windows a second than a collector can take: so many are made ready."""
PATTERNS = 12
"""POSTs of each server that are made ready for peers, to be sent again and again at later times."""
WARM = 0.25
"""Of a turn, before it is measured."""
DURABLE = "yes: synced before the answer"
OURS = "joulefleet"
STORES = "the window, and its joules and tokens by minute, hour and day; no reading of a second"


class Supply:
    """The batches of one connection; says when there are no more, since then the collector is not what limits."""

    def __init__(self, batches: Sequence[bytes]) -> None:
        self.batches = batches
        self.is_over = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self.batches
        self.is_over = True


class PeerAgent(Agent):
    """One connection to a peer, which answers with a head and nothing else."""

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if b"\r\n\r\n" in self._answer:
            good = self._answer.startswith(b"HTTP/1.1 204")
            self._answer, self.is_waiting = b"", False
            self._load.answered(self, good, time.perf_counter() - self._sent_s)


class PeerLoad(Load):
    """All connections to a peer."""

    async def connect(self, collector: Collector, batches: Iterable[Iterable[bytes]]) -> None:
        loop = asyncio.get_running_loop()
        for each in batches:
            _, agent = await loop.create_connection(lambda p=each: PeerAgent(self, p), collector.host, collector.port)
            self.agents.append(agent)


class System:
    """One of those that are compared: its server, its load and the figures of its turns."""

    def __init__(self, name: str, server: Paused, load: Load, batches: Sequence[Iterable[bytes]]) -> None:
        self.name, self.server, self.load, self.batches = name, server, load, batches
        self.turns: list[Figures] = []

    async def begin(self) -> None:
        """Connect, let each server be seen for the first time, and wait for the first turn."""
        await self.load.connect(self.server, self.batches)
        await self.load.all_at_once()
        await self.load.all_at_once()
        self.server.pause()

    async def turn(self, seconds: float) -> None:
        """Send as much as goes for so long."""
        self.server.resume()
        await self.load.as_fast_as_goes(seconds * WARM)
        before, began = self._so_far(), time.perf_counter()
        await asyncio.sleep(seconds)
        took_s = time.perf_counter() - began
        taken, cpu_s, own_s, busy_s, waiting_s = (b - a for a, b in zip(before, self._so_far(), strict=True))
        self.turns.append(
            {
                "batches_per_s": taken / took_s,
                "cpu_us": cpu_s / max(taken, 1) * 1e6,
                "core_share": cpu_s / took_s,
                "core_others": (busy_s - cpu_s) / took_s,
                "core_waiting_for_disk": waiting_s / took_s,
                "load_core_share": own_s / took_s,
            }
        )
        await self.load.settle()
        self.server.pause()

    def _so_far(self) -> tuple[float, ...]:
        return self.load.taken, self.server.cpu_s(), time.process_time(), *core_s()

    def check(self) -> None:
        """Raises RuntimeError where the figures would not be those of the server."""
        if self.load.refused or self.load.lost:
            raise RuntimeError(f"{self.name}: {self.load.refused} batches refused, {self.load.lost} connections lost")
        if any(isinstance(each, Supply) and each.is_over for each in self.batches):
            raise RuntimeError(f"{self.name}: more batches were taken than made ready: raise MOST_PER_S")

    def figures(self) -> dict[str, object]:
        """Of all turns: the middle, the least and the most."""
        of = {name: [turn[name] for turn in self.turns] for name in self.turns[0]}
        return {name: {"median": statistics.median(all_), "of_turns": all_} for name, all_ in of.items()}


def our_batches(servers: int, windows: int) -> list[Supply]:
    """Windows that end shortly before now, as POSTs."""
    first_ns = floor_to(time.time_ns(), s_to_ns(60)) - (windows + 6) * s_to_ns(TICKS)
    fleet = Fleet(servers, s_to_ns(TICKS), first_ns)
    return [Supply([post(body) for body in fleet.posts(server, windows)]) for server in range(servers)]


async def take_turns(systems: Sequence[System], turns: int, seconds: float) -> None:
    """All systems in turn, the first one last in the next round."""
    for system in systems:
        await system.begin()
    gc.freeze()
    for number in range(turns):
        for place in range(len(systems)):
            await systems[(place + number) % len(systems)].turn(seconds / turns)
    for system in systems:
        system.server.resume()
        system.check()


def finish_ours(system: System, folder: Path) -> dict[str, object]:
    """What is left to do and what is kept, once it has ended: rows that wait are brought in, the file made small."""
    rss_mb = system.server.memory_mb("VmHWM")
    system.server.end()
    began_s = time.process_time()
    windows = kept(folder)
    later_s = time.process_time() - began_s
    if windows != system.load.taken:
        raise RuntimeError(f"{windows} windows are in the store's sums; {system.load.taken} were answered")
    with closing(EmbeddedStore(folder, lambda: "")) as store:
        store.compact()
    return _finished(system, later_s, stored_bytes(folder), rss_mb) | {"durable": DURABLE, "stores": STORES}


def finish_peer(system: System, peer: Peer) -> dict[str, object]:
    """The same of a peer."""
    before_s = peer.cpu_s()
    peer.rest()
    later_s, rss_mb = peer.cpu_s() - before_s, peer.memory_mb("VmHWM")
    peer.let_out()
    peer.end()
    told = {"version": peer.version(), "durable": peer.DURABLE, "stores": peer.STORES}
    return _finished(system, later_s, peer.stored(), rss_mb) | told


def _finished(system: System, later_s: float, stored: int, rss_mb: float) -> dict[str, object]:
    return {
        "batches": system.load.taken,
        "later_us": later_s / system.load.taken * 1e6,
        "stored_bytes": stored / system.load.taken,
        "most_mb": rss_mb,
    }


def run(asked: argparse.Namespace, folder: Path, stack: ExitStack) -> dict[str, dict[str, object]]:
    """All systems that are installed, each in a folder of its own."""
    windows = math.ceil(asked.seconds * (1 + WARM) * MOST_PER_S / asked.servers) + 2
    first_s = floor_to(time.time_ns(), HOUR_NS) // s_to_ns(1)
    ours = Paused(folder / "joulefleet")
    stack.callback(ours.end)
    batches = our_batches(asked.servers, windows)
    systems = [System("joulefleet, POST", ours, Load(), batches)]
    wire = {systems[0].name: _wire(batches[0].batches)}
    read = [lines(server, PATTERNS) for server in range(asked.servers)]
    peers: list[Peer] = []
    for kind in PEERS:
        if kind.version() is None:
            print(f"{kind.NAME}: not on PATH; benchmarks/install.sh installs it")
            continue
        peers.append(kind(folder / kind.PROGRAM))
        stack.callback(peers[-1].end)
        peers[-1].prepare()
        systems.append(System(kind.NAME, peers[-1], PeerLoad(), [posts(each, kind.WRITE, first_s) for each in read]))
        wire[kind.NAME] = _wire(list(islice(posts(read[0], kind.WRITE, first_s), PATTERNS)))
    uvloop.run(take_turns(systems, asked.turns, asked.seconds))
    ends = [finish_ours(systems[0], folder / "joulefleet")]
    ends += [finish_peer(system, peer) for system, peer in zip(systems[1:], peers, strict=True)]
    return {one.name: one.figures() | end | wire[one.name] for one, end in zip(systems, ends, strict=True)}


def _wire(requests: Sequence[bytes]) -> dict[str, float]:
    """Bytes of a request as it is sent, and of its body if gzip had packed it."""
    bodies = [request.partition(b"\r\n\r\n")[2] for request in requests]
    packed = [len(zlib.compress(body, 6)) for body in bodies]
    return {"wire_bytes": statistics.mean(map(len, requests)), "gzip_bytes": statistics.mean(packed)}


LINES = {
    "batches_per_s": "batches a second",
    "cpu_us": "CPU of a batch, us",
    "later_us": "... put off, us",
    "core_share": "its core, busy",
    "core_others": "... by others",
    "core_waiting_for_disk": "... waiting for the disk",
    "load_core_share": "the load's core, busy",
    "wire_bytes": "bytes on the wire",
    "gzip_bytes": "... its body by gzip",
    "stored_bytes": "bytes stored",
    "most_mb": "memory at most, MB",
}


def show(systems: dict[str, dict[str, object]]) -> None:
    """The table: the middle of all turns, with the least and the most."""
    print(f"{'':24}" + "".join(f"{name:>26}" for name in systems))
    for name, line in LINES.items():
        print(f"{line:24}" + "".join(f"{_cell(figures[name]):>26}" for figures in systems.values()))
    for name, figures in systems.items():
        print(f"{name}: durable when it answers: {figures['durable']}; stores: {figures['stores']}")
    for name, (middle, least, most) in ratios(systems).items():
        print(f"against {name}: {middle:.2f} times as many batches of a core ({least:.2f} to {most:.2f})")


def ratios(systems: dict[str, dict[str, object]]) -> dict[str, tuple[float, float, float]]:
    """How many times as many batches of a core each of our ways takes in, turn by turn, with what is put off."""
    return {
        f"{peer}, {ours}": _spread(
            [theirs / own for theirs, own in zip(_costs(systems[peer]), _costs(systems[ours]), strict=True)]
        )
        for ours in systems
        if ours.startswith(OURS)
        for peer in systems
        if not peer.startswith(OURS)
    }


def _costs(figures: dict[str, Any]) -> list[float]:
    return [cost + figures["later_us"] for cost in figures["cpu_us"]["of_turns"]]


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def _cell(figure: Any) -> str:
    if isinstance(figure, dict):
        middle, least, most = _spread(figure["of_turns"])
        digits = 2 if most < 10 else 0
        return f"{middle:,.{digits}f} ({least:,.{digits}f}-{most:,.{digits}f})"
    return f"{figure:,.0f}"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=1_000, help="that are measured; each has a connection")
    parser.add_argument("--seconds", type=float, default=10.0, help="that each system is measured, in all its turns")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--data-dir", default=None, help="folder on the disk to be measured")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    return parser.parse_args()


def main() -> None:
    """Run, print, write."""
    asked = options()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory(dir=asked.data_dir) as folder, ExitStack() as stack:
        systems = run(asked, Path(folder), stack)
    show(systems)
    if asked.json:
        told = {"machine": machine(), "servers": asked.servers, "values_of_a_batch": VALUES, "systems": systems}
        asked.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
