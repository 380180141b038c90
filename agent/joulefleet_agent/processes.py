"""Whose process it is that keeps a board busy: the engine that listens on its port, or that runs in its unit.

A process belongs to the engine if it, or a process that it descends from, holds the socket that listens on the engine's
port: workers are children of the server. Sockets of other users' processes are seen only with two rights: one to list
them (CAP_DAC_READ_SEARCH) and one to read what each is (CAP_SYS_PTRACE). Where the engine names its unit (a service or
slice of systemd), its control group tells, which everybody may read. The nearest ancestor decides.

Where neither tells, the moment does at which the process began, which everybody may read as well: many pages tell it to
the hundredth of a second (`process_start_time_seconds`, by the same clock). So engines of other users are known, and
those in containers whose ports a proxy holds. If it is that of two engines it tells nothing.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from joulefleet.describe import SOMEWHERE, WHOLE, Engine
from joulefleet.reading import MeterReading, Reading, WorkReading
from joulefleet.sockets import listening

DEEPEST = 64
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BOOTED_WITHIN_S = 2.0
"""The kernel's time of its start moves by so much at most while the clock is corrected; the fraction does not."""
LOOKS_AGAIN = 12
"""A process of no engine is looked at again after so many times: a server listens once its model is loaded."""
NOBODY = ""
HIDDEN = (
    "processes on boards belong to users whose sockets this one may not see: what they use is `unattributed`, and an"
    " engine among them has no joules until it is known; write AmbientCapabilities=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH"
    " into the agent's unit, or name the engine as a source `openmetrics` with its `unit` or `devices`"
)


class Known(msgspec.Struct):
    """Whose a process is, for as long as it lives."""

    started: str
    """By the kernel's clock: another process may have its number later."""
    engine: str
    times: int = 0


class Names(Protocol):
    """Puts engines in the place of processes."""

    hidden: bool
    """Whether a process was seen whose sockets may not be read."""

    def named(self, readings: Sequence[Reading], engines: Sequence[Engine]) -> list[Reading]:
        """The readings with engines in the place of processes."""
        ...

    def owners(self, pids: Iterable[str], engines: Sequence[Engine]) -> dict[str, str]:
        """The engine of each process, or NOBODY."""
        ...


class Processes:
    """Remembers whose processes are whose; `root` is where the kernel tells of them."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self.hidden = False
        """Whether a process was seen whose sockets may not be read."""
        self._root = root
        self._known: dict[str, Known] = {}
        self._wanted: set[str] = set()
        """The engines that were looked for last."""
        self._began_s: dict[str, float] = {}
        """When each engine's process began, where its page tells it."""
        self._of_meter: dict[str, set[str]] = {}

    def named(self, readings: Sequence[Reading], engines: Sequence[Engine]) -> list[Reading]:
        """The readings with engines in the place of processes, each engine that was found with 0 at least.

        Processes of no engine stand together under NOBODY.
        """
        self._note_beginnings(readings)
        if _is_alone(engines):
            # One engine has all that its boards do: whose processes they are need not be known.
            return [_untold(one) for one in readings]
        telling = {one.meter: one for one in readings if isinstance(one, MeterReading) and one.activity_ns is not None}
        if not telling:
            return list(readings)
        pids = {pid for one in telling.values() for pid in one.activity_ns or ()}
        owners = self.owners(pids, engines)
        for meter, one in telling.items():
            self._of_meter[meter] = {owners[pid] for pid in one.activity_ns or ()} - {NOBODY}
        found = set().union(*self._of_meter.values())
        return [by_engine(one, owners, found) if isinstance(one, MeterReading) else one for one in readings]

    def owners(self, pids: Iterable[str], engines: Sequence[Engine]) -> dict[str, str]:
        """The engine of each process, or NOBODY."""
        wanted = {engine.id for engine in engines}
        if not wanted <= self._wanted:
            self._forget_strangers()
        self._wanted = wanted
        self._began_s = {engine: at_s for engine, at_s in self._began_s.items() if engine in wanted}
        sockets: dict[str, str] | None = None
        owners = {}
        for pid in pids:
            known = self._still_known(pid, wanted)
            if known is None:
                if sockets is None:
                    sockets = self._sockets(engines)
                known = Known(self._started(pid), self._owner(pid, sockets, engines))
                self._known[pid] = known
            owners[pid] = known.engine
        for pid in [pid for pid in self._known if pid not in owners and not (self._root / pid).exists()]:
            del self._known[pid]
        return owners

    def _note_beginnings(self, readings: Sequence[Reading]) -> None:
        for one in readings:
            at_s = _seconds(one.epoch) if isinstance(one, WorkReading) else None
            if isinstance(one, WorkReading) and at_s is not None and at_s != self._began_s.get(one.engine):
                self._began_s[one.engine] = at_s
                self._forget_strangers()

    def _forget_strangers(self) -> None:
        """What was nobody's may be that of an engine of which more is known now."""
        self._known = {pid: known for pid, known in self._known.items() if known.engine != NOBODY}

    def _still_known(self, pid: str, wanted: set[str]) -> Known | None:
        known, started = self._known.get(pid), self._started(pid)
        # One that has ended still did what is told of it.
        if known is None or (started and started != known.started):
            return None
        known.times += 1
        if known.engine in wanted or (known.engine == NOBODY and known.times % LOOKS_AGAIN):
            return known
        return None

    def _owner(self, pid: str, sockets: dict[str, str], engines: Sequence[Engine]) -> str:
        units = {engine.unit: engine.id for engine in engines if engine.unit}
        group = self._text(pid, "cgroup")
        told = next((units[part] for part in group.replace("\n", "/").split("/") if part in units), NOBODY)
        if told:
            return told
        line, was_hidden = list(self._line(pid)), self.hidden
        by_socket = (self._engine_of_sockets(each, sockets) for each in line if sockets)
        owner = next((engine for engine in by_socket if engine), NOBODY) or self._engine_of_beginnings(line)
        if owner:
            self.hidden = was_hidden
        return owner

    def _engine_of_beginnings(self, line: Sequence[str]) -> str:
        """The one engine that began when one of these processes did."""
        if not self._began_s:
            return NOBODY
        booted_s = _booted_s(self._text("stat"))
        ticks = [int(started) for pid in line if (started := self._started(pid))]
        engines = {
            engine
            for engine, at_s in self._began_s.items()
            if any(_is_moment(at_s, booted_s, started) for started in ticks)
        }
        return engines.pop() if len(engines) == 1 else NOBODY

    def _line(self, pid: str) -> Iterator[str]:
        """The process and those that it descends from, the nearest first; not the first of all."""
        for _ in range(DEEPEST):
            if pid in ("", "0", "1"):
                return
            yield pid
            pid = _field(self._text(pid, "stat"), 1)

    def _engine_of_sockets(self, pid: str, sockets: dict[str, str]) -> str:
        try:
            names = [_target(link) for link in (self._root / pid / "fd").iterdir()]
        except PermissionError:
            self.hidden = True
            return NOBODY
        except OSError:  # it ended
            return NOBODY
        return next((sockets[name] for name in names if name in sockets), NOBODY)

    def _sockets(self, engines: Sequence[Engine]) -> dict[str, str]:
        """The engine of each socket that listens on an engine's port, by the socket's name."""
        ports = {engine.port: engine.id for engine in engines if engine.port}
        if not ports:
            return {}
        tables = [self._text("net", name) for name in ("tcp", "tcp6")]
        return {
            f"socket:[{one.inode}]": ports[one.port]
            for table in tables
            for one in listening(table)
            if one.port in ports
        }

    def _started(self, pid: str) -> str:
        return _field(self._text(pid, "stat"), 19)

    def _text(self, *path: str) -> str:
        try:
            return self._root.joinpath(*path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def by_engine(reading: MeterReading, owners: dict[str, str], found: Iterable[str]) -> MeterReading:
    """The reading with what each engine did in the place of what each process did."""
    if reading.activity_ns is None:
        return reading
    sums = dict.fromkeys(found, 0)
    for pid, active_ns in reading.activity_ns.items():
        sums[owners[pid]] = sums.get(owners[pid], 0) + active_ns
    return msgspec.structs.replace(reading, activity_ns=sums)


def _is_alone(engines: Sequence[Engine]) -> bool:
    """Whether there is one engine at most, and nobody beside it."""
    parts = [part for one in engines for part in one.devices]
    return len(engines) < 2 and all(part.share_ppm == WHOLE and part.meter != SOMEWHERE for part in parts)


def _untold(reading: Reading) -> Reading:
    telling = isinstance(reading, MeterReading) and reading.activity_ns is not None
    return msgspec.structs.replace(reading, activity_ns=None) if telling else reading


def _target(link: Path) -> str:
    """Raises PermissionError where it may be seen that there is one, but not which."""
    try:
        return link.readlink().name
    except PermissionError:
        raise
    except OSError:  # closed meanwhile
        return ""


def _field(stat: str, number: int) -> str:
    """A field of /proc/PID/stat, counted from behind the name, which may hold anything."""
    words = stat.rpartition(")")[2].split()
    return words[number] if len(words) > number else ""


def _is_moment(at_s: float, booted_s: float, ticks: int) -> bool:
    """Whether a process that began so long after the kernel began at this moment."""
    off_s = at_s - booted_s - ticks / TICKS_PER_S
    return abs(off_s) < BOOTED_WITHIN_S and abs(off_s - round(off_s)) < 0.5 / TICKS_PER_S


def _booted_s(stat: str) -> float:
    """When the kernel began, in seconds since 1970, from /proc/stat; 0 where it does not tell."""
    return next((float(line.split()[1]) for line in stat.splitlines() if line.startswith("btime ")), 0.0)


def _seconds(epoch: str) -> float | None:
    try:
        return float(epoch)
    except ValueError:
        return None
