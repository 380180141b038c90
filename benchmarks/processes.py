"""Programs under measurement: started on one core, asked what they cost, ended by their id."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

DEADLINE_S = 30.0
T = TypeVar("T")


@contextmanager
def running(
    command: Sequence[str], said: Path, core: int, environment: Mapping[str, str] = os.environ
) -> Iterator["subprocess.Popen[bytes]"]:
    """A program on this core until the end of the block; all that it says goes to a file."""
    with said.open("wb") as out:
        process = subprocess.Popen(["taskset", "-c", str(core), *command], stdout=out, stderr=out, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def until(condition: Callable[[], T], what: str) -> T:
    """Look until this holds; what it gave."""
    end_s = time.monotonic() + DEADLINE_S
    while not (told := condition()):
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:g} s for {what}"
        time.sleep(0.01)
    return told


def cpu_ns(pid: int) -> int:
    """CPU time of a process so far, ended threads included; /proc/PID/stat tells the same in steps of 10 ms.

    The clock's number is made as clock_getcpuclockid(3) makes it.
    """
    return time.clock_gettime_ns((~pid << 3) | 2)


def memory_mb(pid: int, name: str) -> float:
    """`Rss` or `Pss` now."""
    told = re.search(rf"(?m)^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text())
    assert told, f"no {name} of process {pid}"
    return int(told[1]) / 1024


def wakeups(pid: int) -> int:
    """How often its present threads have given the core up to wait."""
    states = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(re.findall(r"(?m)^voluntary_ctxt_switches:\s+(\d+)", state)[0]) for state in states)


def threads(pid: int) -> int:
    """How many threads it has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))
