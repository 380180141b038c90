"""How many windows a second one core of a collector takes in, durable in its store before each answer.

The collector runs as its users run it, on one core; the load comes from another core, over as many connections as
there are servers, each with one batch of one window under way. First every server is seen once, then as much as goes
is sent (capacity), then a steady half of that (latency). At the end the store is asked whether every answered window
is in its sums. Writes a table and a JSON file.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import cast

import uvloop
from servers import Fleet
from ways import WAYS, Way

from joulefleet.grid import floor_to
from joulefleet.units import s_to_ns
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import DAY_NS, Question

COLLECTOR_CORE, LOAD_CORE = 0, 1
ANSWER_S = 120.0
"""In which the last answer must have come."""
PACKAGES = ("joulefleet", "aiohttp", "uvloop", "msgspec", "zstandard", "numpy")
Figures = dict[str, float]


class Collector:
    """A collector in a process of its own, on its core."""

    def __init__(self, data_dir: Path, workers: int) -> None:
        command = [sys.executable, "-m", "joulefleet", "collector", "run", "--data-dir", str(data_dir), "--port", "0"]
        command += ["--workers", str(workers)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if workers == 1:
            os.sched_setaffinity(self._process.pid, {COLLECTOR_CORE})
        assert self._process.stdout
        told = re.search(r"http://([\d.]+):(\d+)", self._process.stdout.readline())
        assert told, "the collector did not start"
        self.host, self.port = told[1], int(told[2])

    def cpu_s(self) -> float:
        """CPU time so far, of all its processes."""
        workers = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return self.writer_cpu_s() + sum(_cpu_s(int(worker)) for worker in workers)

    def writer_cpu_s(self) -> float:
        """CPU time so far of the process that writes; the only one without workers."""
        return _cpu_s(self._process.pid)

    def memory_mb(self, name: str) -> float:
        """`VmRSS` now, or `VmHWM` at most so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]  # Linux always tells both

    def end(self) -> None:
        """As its service manager would."""
        self._process.terminate()
        self._process.wait(ANSWER_S)


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Agent(asyncio.Protocol):
    """One connection: sends a batch, and when told to the next one."""

    def __init__(self, load: "Load", way: Way, messages: Sequence[bytes]) -> None:
        self._load = load
        self._way = way
        self._messages = iter(messages)
        self._sent_s = 0.0
        self._data = b""
        self._is_open = asyncio.get_running_loop().create_future()
        self.is_waiting = False

    async def opened(self) -> None:
        """Wait until batches may be sent."""
        await self._is_open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._way.opening)
        self._greeted(b"")

    def send(self) -> bool:
        """Send the next batch; False where the last one is not answered yet or there is none."""
        message = None if self.is_waiting else next(self._messages, None)
        if message is None:
            return False
        self.is_waiting, self._sent_s = True, time.perf_counter()
        self._transport.write(message)
        return True

    def data_received(self, data: bytes) -> None:
        if not self._is_open.done():
            self._greeted(data)
            return
        self._data += data
        while answer := self._way.answer(self._data):
            good, self._data = answer
            self.is_waiting = False
            self._load.answered(self, good, time.perf_counter() - self._sent_s)

    def _greeted(self, data: bytes) -> None:
        self._data += data
        rest = self._way.greeted(self._data)
        if rest is not None:
            self._data = rest
            self._is_open.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """A batch under way is not answered."""
        self._load.lost += 1
        self.is_waiting = False


class Load:
    """All agents, and what became of their batches."""

    def __init__(self) -> None:
        self.agents: list[Agent] = []
        self.taken = self.refused = self.lost = 0
        self.latencies_s: list[float] = []
        self.closed_loop = False

    async def connect(self, collector: Collector, way: Way, messages: Iterable[Sequence[bytes]]) -> None:
        """Open one connection for each server."""
        loop = asyncio.get_running_loop()
        for its in messages:
            _, agent = await loop.create_connection(lambda m=its: Agent(self, way, m), collector.host, collector.port)
            self.agents.append(agent)
            await agent.opened()

    def answered(self, agent: Agent, good: bool, latency_s: float) -> None:
        """Called by an agent."""
        self.taken += good
        self.refused += not good
        self.latencies_s.append(latency_s)
        if self.closed_loop:
            agent.send()

    async def all_at_once(self) -> None:
        """Each agent sends one batch; returns when all are answered."""
        for agent in self.agents:
            agent.send()
        await self.settle()

    async def as_fast_as_goes(self, seconds: float) -> None:
        """Each agent sends its next batch as soon as the last is answered."""
        self.closed_loop = True
        for agent in self.agents:
            agent.send()
        await asyncio.sleep(seconds)

    async def steady(self, rate: float, seconds: float) -> int:
        """So many batches a second, spread evenly over time and agents; returns how many found no free agent."""
        began, sent, missed, turn = time.perf_counter(), 0, 0, 0
        while (elapsed := time.perf_counter() - began) < seconds:
            for _ in range(int(elapsed * rate) - sent):
                missed += not self.agents[turn % len(self.agents)].send()
                sent, turn = sent + 1, turn + 1
            await asyncio.sleep(0.001)
        return missed

    async def settle(self) -> None:
        """Wait until every batch is answered. Raises TimeoutError where one never is."""
        self.closed_loop = False
        async with asyncio.timeout(ANSWER_S):
            while any(agent.is_waiting for agent in self.agents):
                await asyncio.sleep(0.01)


async def measure(
    collector: Collector, way: Way, messages: Sequence[Sequence[bytes]], seconds: float, rate: float
) -> Figures:
    """The figures of one run."""
    load = Load()
    await load.connect(collector, way, messages)
    figures: Figures = {"connections": len(load.agents), "connected_mb": collector.memory_mb("VmRSS")}
    began = time.perf_counter()
    await load.all_at_once()
    figures["first_contact_windows_per_s"] = load.taken / (time.perf_counter() - began)
    figures |= await _capacity(collector, load, seconds)
    figures |= await _latency(collector, load, rate or figures["windows_per_s"] / 2, seconds)
    figures |= {
        "taken": load.taken,
        "refused": load.refused,
        "lost_connections": load.lost,
        "most_mb": collector.memory_mb("VmHWM"),
    }
    return figures


async def _capacity(collector: Collector, load: Load, seconds: float) -> Figures:
    await load.as_fast_as_goes(seconds / 4)
    writer_s = collector.writer_cpu_s()
    taken, cpu_s, core, began = load.taken, collector.cpu_s(), core_s(), time.perf_counter()
    await asyncio.sleep(seconds)
    taken, cpu_s, took_s = load.taken - taken, collector.cpu_s() - cpu_s, time.perf_counter() - began
    writer_s = collector.writer_cpu_s() - writer_s
    busy_s, waiting_s = (after - before for after, before in zip(core_s(), core, strict=True))
    await load.settle()
    return {
        "windows_per_s": taken / took_s,
        "cpu_us_per_window": cpu_s / taken * 1e6,
        "writer_cpu_us_per_window": writer_s / taken * 1e6,
        "core_share": cpu_s / took_s,
        "core_others": (busy_s - cpu_s) / took_s,
        "core_waiting_for_disk": waiting_s / took_s,
    }


async def _latency(collector: Collector, load: Load, rate: float, seconds: float) -> Figures:
    await load.steady(rate, seconds / 4)
    load.latencies_s.clear()
    cpu_s = collector.cpu_s()
    missed = await load.steady(rate, seconds)
    cpu_s = collector.cpu_s() - cpu_s
    await load.settle()
    cuts = statistics.quantiles(load.latencies_s, n=1000)
    return {
        "steady_per_s": rate,
        "steady_core_share": cpu_s / seconds,
        "p50_s": cuts[499],
        "p99_s": cuts[989],
        "p999_s": cuts[998],
        "longest_s": max(load.latencies_s),
        "missed": missed,
    }


def core_s() -> tuple[float, float]:
    """Seconds in which the core of the collector was busy, with whatever it was, and in which it waited for a disk."""
    line = re.search(rf"(?m)^cpu{COLLECTOR_CORE} (.*)", Path("/proc/stat").read_text())
    assert line, "not Linux"
    user, nice, system, _, waiting, *rest = [int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in line[1].split()[:8]]
    return user + nice + system + sum(rest), waiting


def kept(data_dir: Path) -> float:
    """Windows in the sums of the store."""
    with closing(EmbeddedStore(data_dir, lambda: "")) as store:
        question = Question(kind="agent", since_ns=0, until_ns=40_000 * DAY_NS, fields=("windows",))
        return sum(total.fields["windows"] for total in store.ask(question))


def stored_bytes(data_dir: Path) -> int:
    """Size of the store's files."""
    return sum(path.stat().st_size for path in data_dir.iterdir())


def machine() -> dict[str, object]:
    """What the figures depend on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "load_average": os.getloadavg()[0],
    }


def run(asked: argparse.Namespace) -> dict[str, object]:
    """One whole run in a folder of its own."""
    windows = asked.windows
    first_ns = floor_to(time.time_ns(), s_to_ns(60)) - (windows + 6) * s_to_ns(asked.step)
    fleet = Fleet(asked.servers, s_to_ns(asked.step), first_ns)
    way = WAYS[asked.by]
    messages = [list(way.messages(fleet.batches(server, windows))) for server in range(asked.servers)]
    with tempfile.TemporaryDirectory(dir=asked.data_dir) as folder:
        collector = Collector(Path(folder), asked.workers)
        try:
            figures = uvloop.run(measure(collector, way, messages, asked.seconds, asked.rate))
        finally:
            collector.end()
        figures["kept"] = kept(Path(folder))
        figures["stored_bytes_per_window"] = stored_bytes(Path(folder)) / figures["kept"]
    figures["wire_bytes_per_window"] = statistics.mean(len(one) for its in messages for one in its)
    return {"machine": machine(), "by": asked.by, "servers": asked.servers, "step_s": asked.step, "figures": figures}


TARGETS = {"p99_s": (1, None), "most_mb": (300, None)}
WINDOWS_PER_S = {"stream": (5_000, 12_000), "post": (3_500, 8_000)}


def show(outcome: dict[str, object]) -> None:
    """The table."""
    figures = outcome["figures"]
    assert isinstance(figures, dict)
    targets = TARGETS | {"windows_per_s": WINDOWS_PER_S[str(outcome["by"])]}
    for name, value in figures.items():
        reach, goal = targets.get(name, ("", ""))
        print(f"{name:32} {value:14,.3f} {reach or '':>8} {goal or '':>8}")
    verdict = "every answered window is kept" if figures["kept"] == figures["taken"] else "WINDOWS ARE MISSING"
    print(f"{verdict}: {figures['kept']:,.0f} of {figures['taken']:,.0f}")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--by", choices=WAYS, default="stream", help="the way of the windows")
    parser.add_argument("--servers", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=1, help="from two on, on any core, with one more that writes")
    parser.add_argument("--step", type=int, default=10, help="seconds of a window")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--windows", type=int, default=24, help="windows made ready for each server")
    parser.add_argument("--rate", type=float, default=0.0, help="windows a second of the steady part; half by default")
    parser.add_argument("--data-dir", default=None, help="folder on the disk to be measured")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    return parser.parse_args()


def main() -> None:
    """Run, print, write."""
    asked = options()
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
    os.sched_setaffinity(0, {LOAD_CORE})
    outcome = run(asked)
    show(outcome)
    if asked.json:
        asked.json.write_text(json.dumps(outcome, indent=1) + "\n")
    if outcome["figures"]["kept"] != outcome["figures"]["taken"]:  # type: ignore[index]  # told above
        sys.exit(1)


if __name__ == "__main__":
    main()
