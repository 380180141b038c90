"""What the agent costs the server that it measures, beside Debian's prometheus-node-exporter and collectd.

All read 30 energy counters once a second, or ten times, and the agent and collectd a vLLM page of 20 KB every 5 s. They
run at the same time on one core; what they read, the collector and the scrapers are on the other. CPU time is taken
after the start. Before that, agents are started one after the other, to see how soon after `exec` their first window
begins to be covered, and what they import. Writes a table and a JSON file; peers come with benchmarks/install.sh.
"""

import argparse
import json
import os
import platform
import re
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.metadata import version
from pathlib import Path

import agent_peers as peers
from processes import cpu_ns, memory_mb, running, threads, until, wakeups
from surroundings import Pages, beside, move, page, powercap

from joulefleet.window import decode

MEASURED_CORE, OTHER_CORE = 1, 0
JOULEFLEET = (sys.executable, "-m", "joulefleet")
STARTS = 5
MEMORY = "/dev/shm"
"""A read of sysfs touches no disk; one of an ordinary file is written down in its file system."""
SETTLE_S = 12.0
"""Until the first commit and the first send are done."""
FOREIGN = ("numpy", "influxdb_client", "aiohttp", "asyncio")
PACKAGES = ("joulefleet", "msgspec", "websockets", "zstandard", "click")
TO_REACH = {"core_share": {1: 0.15, 10: 0.8}, "rss_mb": 40, "first_s": 0.3}
GOALS = {"core_share": {1: 0.06, 10: 0.4}, "rss_mb": 25}
"""Of the agent: per cent of a core by reads a second, MB, seconds."""
Row = dict[str, object]


class Surroundings:
    """What is read, and where windows go, for as long as the benchmark runs."""

    def __init__(self, folder: Path, period_s: float, stack: ExitStack) -> None:
        self.folder = folder
        self.powercap = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY))) / "powercap"
        self.counters = powercap(self.powercap)
        stack.enter_context(beside(OTHER_CORE, move, self.counters, period_s))
        pages = Pages()
        self.page_url = pages.url
        stack.enter_context(beside(OTHER_CORE, pages.serve_forever))
        self.collector_url = stack.enter_context(collector(folder))


@contextmanager
def collector(folder: Path) -> Iterator[str]:
    """A real collector; its URL."""
    said = folder / "collector.out"
    command = [*JOULEFLEET, "collector", "run", "--data-dir", str(folder / "store"), "--port", "0"]
    with running(command, said, OTHER_CORE):
        yield until(lambda: re.search(r"listens on (http://[\d.:]+)", said.read_text()), "the collector")[1]


def config_of(around: Surroundings, name: str, period_s: float, step_s: int) -> Path:
    """An agent's config file, and beside it later its spool."""
    path = around.folder / f"{name}.toml"
    path.write_text(
        f'server = "{name}"\nstep_s = {step_s}\nspool = "{around.folder / name}.db"\n'
        f'[collector]\nurl = "{around.collector_url}"\n'
        f'[[sources]]\nuse = "rapl"\nroot = "{around.powercap}"\nperiod_s = {period_s}\n'
        f'[[sources]]\nuse = "openmetrics"\nurl = "{around.page_url}"\nperiod_s = 5\n'
    )
    return path


@contextmanager
def agent(around: Surroundings, name: str, period_s: float, step_s: int, **environment: str) -> Iterator[peers.Peer]:
    """An agent as its users run it."""
    command = [*JOULEFLEET, "agent", "run", "--config", str(config_of(around, name, period_s, step_s))]
    said = around.folder / f"{name}.err"
    with running(command, said, MEASURED_CORE, {**os.environ, **environment}) as process:
        until(lambda: process.poll() is not None or "rapl: open" in said.read_text(), "the agent's counters")
        assert process.poll() is None, said.read_text()
        note = f"30 counters and the whole page, windows of {step_s} s, durable before they are sent"
        yield peers.Peer(f"joulefleet agent, step {step_s} s", process.pid, note)


def first_covered_ns(spool: Path) -> int | None:
    """The instant from which on the first counter's energy is known; None as long as no window tells."""
    with closing(sqlite3.connect(f"file:{spool}?mode=ro", uri=True)) as db:
        bodies = db.execute("SELECT body FROM windows ORDER BY start_ns").fetchall()
    windows = [decode(body) for (body,) in bodies]
    covered = [one for one in windows if one.meters and one.meters[0].covered_ns]
    return covered[0].start_ns + covered[0].step_ns - covered[0].meters[0].covered_ns if covered else None


def start(around: Surroundings, name: str, **environment: str) -> float:
    """Seconds from an agent's exec to its first reading, as its own windows tell it."""
    began_ns = time.time_ns()
    with agent(around, name, 1.0, 1, **environment):
        told_ns = until(lambda: first_covered_ns(around.folder / f"{name}.db"), "a first window")
    return (told_ns - began_ns) / 1e9


def imported(around: Surroundings) -> list[str]:
    """All modules that an agent imports until its first window is there."""
    start(around, "imports", PYTHONPROFILEIMPORTTIME="1")
    told = (around.folder / "imports.err").read_text()
    return sorted({line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")})


def starts(around: Surroundings) -> Row:
    """How soon an agent reads, and what it imports."""
    seconds = [start(around, f"start-{k}") for k in range(STARTS)]
    modules = imported(around)
    return {
        "first_s": statistics.median(seconds),
        "first_at_most_s": max(seconds),
        "modules": len(modules),
        "foreign": [name for name in FOREIGN if name in modules],
    }


@contextmanager
def all_at(around: Surroundings, period_s: float, steps_s: list[int]) -> Iterator[list[peers.Peer]]:
    """Agents and peers, all of them at once; a peer that is not installed is left out."""
    with ExitStack() as stack:
        rate = f"{1 / period_s:g}hz"
        those = [stack.enter_context(agent(around, f"{rate}-{step_s}", period_s, step_s)) for step_s in steps_s]
        for small in (False, True) if peers.found("prometheus-node-exporter") else ():
            folder = around.folder / f"{rate}-node-{small}"
            cores = OTHER_CORE, MEASURED_CORE
            those.append(stack.enter_context(peers.node_exporter(folder, around.powercap, period_s, cores, small)))
        if peers.found("collectd"):
            folder = around.folder / f"{rate}-collectd"
            peer = peers.collectd(folder, around.counters, around.page_url, period_s, MEASURED_CORE)
            those.append(stack.enter_context(peer))
        yield those


def cost(around: Surroundings, period_s: float, steps_s: list[int], seconds: float) -> list[Row]:
    """What each costs a second, at this period."""
    with all_at(around, period_s, steps_s) as those:
        time.sleep(SETTLE_S)
        before = [(cpu_ns(one.pid), wakeups(one.pid)) for one in those]
        began_s = time.monotonic()
        time.sleep(seconds)
        took_s = time.monotonic() - began_s
        return [_row(one, period_s, then, took_s) for one, then in zip(those, before, strict=True)]


def _row(one: peers.Peer, period_s: float, before: tuple[int, int], took_s: float) -> Row:
    return {
        "name": one.name,
        "hz": 1 / period_s,
        "core_share": (cpu_ns(one.pid) - before[0]) / 1e9 / took_s,
        "rss_mb": memory_mb(one.pid, "Rss"),
        "pss_mb": memory_mb(one.pid, "Pss"),
        "wakeups_per_s": (wakeups(one.pid) - before[1]) / took_s,
        "threads": threads(one.pid),
        "note": one.note,
    }


def machine() -> Row:
    """What the figures depend on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "load_average": os.getloadavg()[0],
    }


def run(seconds: float) -> dict[str, object]:
    """One whole run in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        around = Surroundings(Path(folder), 0.03, stack)
        return {
            "machine": machine(),
            "seconds": seconds,
            "page_bytes": len(page(1_000)),
            "start": starts(around),
            "rows": [*cost(around, 1.0, [60, 10], seconds), *cost(around, 0.1, [60], seconds)],
        }


def show(outcome: dict[str, object]) -> None:
    """The tables."""
    rows, begun = outcome["rows"], outcome["start"]
    assert isinstance(rows, list)
    assert isinstance(begun, dict)
    head = ("", "Hz", "% of a core", "RSS MB", "PSS MB", "wake-ups/s", "threads")
    print("{:28} {:>4} {:>12} {:>7} {:>7} {:>11} {:>8}".format(*head))
    for row in rows:
        figures = "{name:28} {hz:4.0f} {share:12.3f} {rss_mb:7.1f} {pss_mb:7.1f} {wakeups_per_s:11.1f} {threads:8d}"
        print(figures.format(share=100 * row["core_share"], **row))
    print(f"to reach: {TO_REACH}; goal: {GOALS}")
    print(f"first reading after {begun['first_s']:.3f} s, {begun['first_at_most_s']:.3f} s at most of {STARTS} starts;")
    print(f"{begun['modules']} modules imported, of {', '.join(FOREIGN)}: {', '.join(begun['foreign']) or 'none'}\n")
    for name, note in {row["name"]: row["note"] for row in rows}.items():
        print(f"{name}: {note}")
    for name in ("prometheus-node-exporter", "collectd"):
        if not peers.found(name):
            print(f"{name}: not installed, see benchmarks/install.sh")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the measurement at each rate")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    return parser.parse_args()


def main() -> None:
    """Run, print, write."""
    asked = options()
    os.sched_setaffinity(0, {OTHER_CORE})
    outcome = run(asked.seconds)
    show(outcome)
    if asked.json:
        asked.json.write_text(json.dumps(outcome, indent=1) + "\n")
    if outcome["start"]["foreign"]:  # type: ignore[index]  # told above
        sys.exit(1)


if __name__ == "__main__":
    main()
