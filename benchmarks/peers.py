"""What a collector takes in beside vmagent, VictoriaMetrics and InfluxDB, each given the same seconds of a fleet.

A window of 10 s goes to the collector as an agent sends it; its peers get every reading that it stands for, as line
protocol. Each server has one core to itself and one connection for each that is measured. They take short turns, the
others standing still meanwhile, so that a noisy machine is noisy for all. Writes a table and a JSON file.
"""

import argparse
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
from ways import Post, Stream, Way

from collector import LOAD_CORE, Figures, Load, core_s, kept, machine, stored_bytes
from joulefleet.grid import HOUR_NS, floor_to
from joulefleet.units import s_to_ns
from joulefleet_collector.store.embedded import EmbeddedStore

MOST_PER_S = 6_000
"""More windows a second than a collector can take: so many are made ready."""
PATTERNS = 12
"""POSTs of each server that are made ready for peers, to be sent again and again at later times."""
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


class PatientStream(Stream):
    """A stream that is asked after each pause whether it is still there; the batches that follow say so."""

    PING = 0x89

    def answer(self, data: bytes) -> tuple[bool, bytes] | None:
        """An answer's frame, after any ping."""
        while len(data) > 1 and data[0] == self.PING:
            data = data[2 + data[1] :]
        return super().answer(data)


class Lines:
    """The way to a peer: requests of line protocol, answered with a head and nothing else."""

    opening = b""

    def messages(self, batches: Iterable[bytes]) -> Iterable[bytes]:
        """They are requests already."""
        return batches

    def greeted(self, data: bytes) -> bytes | None:
        """Nothing was sent."""
        return data

    def answer(self, data: bytes) -> tuple[bool, bytes] | None:
        """A response; a refusal has a body, and ends the run."""
        head, found, rest = data.partition(b"\r\n\r\n")
        return (head.startswith(b"HTTP/1.1 204"), rest) if found else None


OUR_WAYS: dict[str, Way] = {"stream": PatientStream(), "post": Post()}


class System:
    """One of those that are compared: its server, its load and the figures of its turns."""

    def __init__(self, name: str, server: Paused, way: Way, messages: Sequence[Iterable[bytes]]) -> None:
        self.name, self.server, self.way, self.messages = name, server, way, messages
        self.sample = list(islice(messages[0], PATTERNS))
        self.load = Load()
        self.turns: list[Figures] = []

    async def begin(self) -> None:
        """Connect, let each server be seen for the first time, and wait for the first turn."""
        await self.load.connect(self.server, self.way, self.messages)
        await self.load.all_at_once()
        await self.load.all_at_once()
        self.server.pause()

    async def turn(self, seconds: float) -> None:
        """Send as much as goes for so long; over when all is answered, so that no work is told without its batches."""
        self.server.resume()
        before, began = self._so_far(), time.perf_counter()
        await self.load.as_fast_as_goes(seconds)
        await self.load.settle()
        took_s = time.perf_counter() - began
        taken, cpu_s, own_s, busy_s, waiting_s = (b - a for a, b in zip(before, self._so_far(), strict=True))
        self.server.pause()
        self.turns.append(
            {
                "batches_per_s": taken / took_s,
                "cpu_us": cpu_s / taken * 1e6,
                "core_share": cpu_s / took_s,
                "core_others": (busy_s - cpu_s) / took_s,
                "core_waiting_for_disk": waiting_s / took_s,
                "load_core_share": own_s / took_s,
            }
        )

    def _so_far(self) -> tuple[float, ...]:
        return self.load.taken, self.server.cpu_s(), time.process_time(), *core_s()

    def check(self) -> None:
        """Raises RuntimeError where the figures would not be those of the server."""
        if self.load.refused or self.load.lost:
            raise RuntimeError(f"{self.name}: {self.load.refused} batches refused, {self.load.lost} connections lost")
        if any(isinstance(each, Supply) and each.is_over for each in self.messages):
            raise RuntimeError(f"{self.name}: more batches were taken than made ready: raise MOST_PER_S")

    def figures(self) -> dict[str, object]:
        """Of all turns: the middle, the least and the most."""
        of = {name: [turn[name] for turn in self.turns] for name in self.turns[0]}
        return {name: {"median": statistics.median(all_), "of_turns": all_} for name, all_ in of.items()}


def ours(way: Way, servers: int, windows: int) -> list[Supply]:
    """Windows that end shortly before now."""
    first_ns = floor_to(time.time_ns(), s_to_ns(60)) - (windows + 6) * s_to_ns(TICKS)
    fleet = Fleet(servers, s_to_ns(TICKS), first_ns)
    return [Supply(list(way.messages(fleet.batches(server, windows)))) for server in range(servers)]


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


def finish_ours(system: System, collector: Paused) -> dict[str, object]:
    """What is left to do and what is kept, once it has ended: rows that wait are brought in, the file made small."""
    rss_mb = collector.memory_mb("VmHWM")
    collector.end()
    with closing(EmbeddedStore(collector.folder, lambda: "")) as store:
        began_s = time.process_time()
        store.settle()
        later_s = time.process_time() - began_s
        store.compact()
    windows = kept(collector.folder)
    if windows != system.load.taken:
        raise RuntimeError(f"{windows} windows are in the store's sums; {system.load.taken} were answered")
    return _finished(system, later_s, stored_bytes(collector.folder), rss_mb) | {"durable": DURABLE, "stores": STORES}


def finish_peer(system: System, peer: Peer) -> dict[str, object]:
    """The same of a peer."""
    before_s = peer.cpu_s()
    peer.rest()
    later_s, rss_mb = peer.cpu_s() - before_s, peer.memory_mb("VmHWM")
    peer.let_out()
    peer.end()
    bodies = [request.partition(b"\r\n\r\n")[2] for request in system.sample]
    told: dict[str, object] = {"version": peer.version(), "durable": peer.DURABLE, "stores": peer.STORES}
    told["gzip_bytes"] = statistics.mean(len(zlib.compress(body, 6)) for body in bodies)
    return _finished(system, later_s, peer.stored(), rss_mb) | told


def _finished(system: System, later_s: float, stored: int, rss_mb: float) -> dict[str, object]:
    return {
        "wire_bytes": statistics.mean(map(len, system.sample)),
        "batches": system.load.taken,
        "later_us": later_s / system.load.taken * 1e6,
        "stored_bytes": stored / system.load.taken,
        "most_mb": rss_mb,
    }


def our_systems(asked: argparse.Namespace, folder: Path, stack: ExitStack) -> Iterator[System]:
    """A collector for each way."""
    windows = math.ceil(asked.seconds * MOST_PER_S / asked.servers) + PATTERNS
    for name, way in OUR_WAYS.items():
        collector = Paused(folder / name)
        stack.callback(collector.end)
        yield System(f"{OURS}, {name}", collector, way, ours(way, asked.servers, windows))


def peer_systems(asked: argparse.Namespace, folder: Path, stack: ExitStack) -> Iterator[System]:
    """All that are installed, given readings of this hour: what they are fastest with."""
    read = [lines(server, PATTERNS) for server in range(asked.servers)]
    first_s = floor_to(time.time_ns(), HOUR_NS) // s_to_ns(1)
    for kind in PEERS:
        if kind.version() is None:
            print(f"{kind.NAME}: not on PATH; benchmarks/install.sh installs it")
            continue
        peer = kind(folder / kind.PROGRAM)
        stack.callback(peer.end)
        peer.prepare()
        yield System(kind.NAME, peer, Lines(), [posts(each, kind.WRITE, first_s) for each in read])


def run(asked: argparse.Namespace, folder: Path, stack: ExitStack) -> dict[str, dict[str, Any]]:
    """All systems, each in a folder of its own."""
    systems = [*our_systems(asked, folder, stack), *peer_systems(asked, folder, stack)]
    uvloop.run(take_turns(systems, asked.turns, asked.seconds))
    return {one.name: one.figures() | finish(one) for one in systems}


def finish(system: System) -> dict[str, Any]:
    """Its figures after all turns."""
    server = system.server
    return finish_peer(system, server) if isinstance(server, Peer) else finish_ours(system, server)


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
        print(f"{line:24}" + "".join(f"{_cell(figures.get(name)):>26}" for figures in systems.values()))
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
    return "-" if figure is None else f"{figure:,.0f}"


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
