"""CPU packages, their DRAM and the platform, read from the energy counters (RAPL) as events of perf.

Reads the events `energy-pkg`, `energy-ram`, `energy-cores`, `energy-gpu`, `energy-psys` of the PMU in
`/sys/bus/event_source/devices/power`, each once for each CPU of its `cpumask`, which is one of each package or die.
It needs CAP_PERFMON or `kernel.perf_event_paranoid` at 0 or below, but not root, and the kernel follows the 32 bits of
the register, so that the counter never wraps. It begins at 0 whenever it is opened: what was used while no agent ran
is known to `rapl` alone.

A meter bears the `device` of the same zone of `rapl`, and an id that sorts before it: where both are read, the cover of
a boundary takes this one and never both.
"""

import contextlib
import ctypes
import os
import re
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec

from joulefleet import Engine, Failure, Kind, Meter, MeterReading, Reading, Source, SourceUnavailable, typed
from joulefleet.units import s_to_ns, steps_to_uj
from joulefleet_plugins.interfaces.kept_file import number_in, said
from joulefleet_plugins.meters.rapl import BOUND_MW, CPUINFO, PSYS_KINDS, REFRESH_NS, USUAL_STEP_UJ, dies_apart

TRIED = "faithful fake"
PMU = "/sys/bus/event_source/devices/power"
CPUS = "/sys/devices/system/cpu"
DEADLINE_NS = s_to_ns(2)

SYSCALL = 298
"""Number of perf_event_open on x86-64, where alone this PMU is found."""
CLOSE_ON_EXEC = 8
ATTRIBUTES = struct.Struct("=IIQQQQQIIQ")
"""struct perf_event_attr as it was in its first version: type, size, config and seven that stay 0."""

PERMISSION = (
    "give the agent CAP_PERFMON (AmbientCapabilities=CAP_PERFMON in its unit; CAP_SYS_ADMIN before Linux 5.8), "
    "or run: sysctl kernel.perf_event_paranoid=0"
)
ABSENT = "load the module on bare metal: modprobe rapl; virtual machines seldom show RAPL"


class RaplPerfConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The source's part of the agent's config."""

    pmu: str = PMU
    """Folder of the PMU."""
    cpus: str = CPUS
    """Folder that tells to which package a CPU belongs."""
    cpuinfo: str = CPUINFO
    """File that tells who made the CPUs."""
    period_s: Annotated[float, msgspec.Meta(ge=0.01)] = 1.0
    """Seconds between two reads."""


class Domain(msgspec.Struct, frozen=True):
    """What an event counts."""

    event: str
    kind: Kind
    zone: str
    """Its device, as `rapl` names it; `{}` is the package."""


DOMAINS = (
    Domain("energy-pkg", "cpu_package", "{}"),
    Domain("energy-ram", "dram", "{}/dram"),
    Domain("energy-cores", "cpu_core", "{}/core"),
    Domain("energy-gpu", "cpu_core", "{}/uncore"),
    Domain("energy-psys", "psys", "psys"),
)


class Event(Protocol):
    """One open counter."""

    def steps(self) -> int:
        """Its value in steps since it was opened. Raises OSError."""
        ...

    def close(self) -> None:
        """Give it up."""
        ...


OpenEvent = Callable[[int, int, int], Event]
"""Opens an event by type of the PMU, config and CPU. Raises OSError."""


class PerfEvent:
    """One event as the kernel opened it."""

    def __init__(self, libc: Any, type_: int, config: int, cpu: int) -> None:
        """`libc` is the C library, as ctypes loads it with `use_errno`. Raises OSError."""
        attributes = ATTRIBUTES.pack(type_, ATTRIBUTES.size, config, 0, 0, 0, 0, 0, 0, 0)
        # Not of one process (-1), but of this CPU; in no group (-1).
        long = ctypes.c_long
        self._fd = int(
            libc.syscall(long(SYSCALL), attributes, long(-1), long(cpu), long(-1), ctypes.c_ulong(CLOSE_ON_EXEC))
        )
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"perf_event_open: {os.strerror(number)}")

    def steps(self) -> int:
        """Its value since it was opened. Raises OSError."""
        answer = os.read(self._fd, 8)
        if len(answer) < 8:
            # So the kernel says that the event is no more: the PMU was unloaded.
            raise FileNotFoundError("the event has ended")
        return int.from_bytes(answer, "little")

    def close(self) -> None:
        """Give the descriptor up."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()


class Counter:
    """One event of one CPU: what it measures, and how it is opened again."""

    def __init__(self, meter: Meter, open_: Callable[[], Event], step_j: Fraction, life: str) -> None:
        """Raises OSError."""
        self.meter = meter
        self._open = open_
        self._step_j = step_j
        self._life = life
        self._openings = 0
        self._event: Event | None = None
        self._begin()

    def read(self) -> MeterReading:
        """What it says now, at the second try where the event has ended. Raises OSError."""
        try:
            return self._reading()
        except OSError:
            self._end()
            return self._reading()

    def _reading(self) -> MeterReading:
        event = self._event or self._begin()
        counter_uj = steps_to_uj(event.steps(), self._step_j)
        return MeterReading(meter=self.meter.id, counter_uj=counter_uj, epoch=f"{self._life}/{self._openings}")

    def _begin(self) -> Event:
        self._event = self._open()
        self._openings += 1
        return self._event

    def _end(self) -> None:
        if self._event is not None:
            with contextlib.suppress(OSError):
                self._event.close()
        self._event = None


class RaplPerfSource:
    """All events of the PMU, each for each package."""

    def __init__(self, config: RaplPerfConfig, open_event: OpenEvent, life: str) -> None:
        """`life` differs from one opening to the next. Raises SourceUnavailable."""
        self.period_ns = s_to_ns(config.period_s)
        self.deadline_ns = DEADLINE_NS
        self._pmu = Path(config.pmu)
        self._open_event = open_event
        self._life = life
        type_ = number_in(self._pmu / "type")
        if type_ is None:
            raise SourceUnavailable("absent", f"no PMU in {self._pmu}", ABSENT)
        self._type = type_
        apart = dies_apart(Path(config.cpuinfo))
        self._counters = list(self._found(packages(self._pmu, Path(config.cpus), apart)))
        if not self._counters:
            raise SourceUnavailable("absent", f"no energy event in {self._pmu}/events", ABSENT)
        self.declares: tuple[Meter | Engine, ...] = tuple(counter.meter for counter in self._counters)

    def read(self) -> list[Reading]:
        """Every event once; one that cannot be read gives a Failure."""
        return [self._read(counter) for counter in self._counters]

    def _read(self, counter: Counter) -> Reading:
        try:
            return counter.read()
        except PermissionError as error:
            return Failure(subject=counter.meter.id, code="permission", detail=str(error))
        except OSError as error:
            return Failure(subject=counter.meter.id, code="read_failed", detail=str(error))

    def _found(self, packages: dict[str, int]) -> Iterator[Counter]:
        for domain in DOMAINS:
            config = event_config(said(self._pmu / "events" / domain.event))
            if config is None:
                continue
            # One register tells the whole platform; only that of the first package is sure to be filled.
            of = dict(list(packages.items())[:1]) if domain.kind == "psys" else packages
            yield from [self._counter(domain, config, package, cpu) for package, cpu in of.items()]

    def _counter(self, domain: Domain, config: int, package: str, cpu: int) -> Counter:
        meter = _meter(domain, package, self.period_ns)
        try:
            return Counter(meter, lambda: self._open_event(self._type, config, cpu), self._step_j(domain), self._life)
        except PermissionError as error:
            detail = f"the event {domain.event} may not be opened: {error.strerror}"
            raise SourceUnavailable("permission", detail, PERMISSION) from error
        except OSError as error:
            raise SourceUnavailable("read_failed", f"the event {domain.event} cannot be opened: {error}") from error

    def _step_j(self, domain: Domain) -> Fraction:
        scale, unit = (said(self._pmu / "events" / f"{domain.event}.{name}") for name in ("scale", "unit"))
        try:
            step_j = Fraction(scale)
        except ValueError:
            step_j = Fraction(0)
        if unit != "Joules" or step_j <= 0:
            raise SourceUnavailable("unit", f"{domain.event} has the scale {scale!r} and the unit {unit!r}, not joules")
        return step_j


def packages(pmu: Path, cpus: Path, dies_apart: bool) -> dict[str, int]:
    """The CPU at which each package is read, by the package's name in the powercap tree, in the order of CPUs.

    Where the mask names several CPUs of one package these are its dies, or else all of them show the package.
    """
    places = {cpu: _place(cpus / f"cpu{cpu}" / "topology") for cpu in cpus_in(said(pmu / "cpumask"))}
    if not dies_apart:
        first = {package: cpu for cpu, (package, _) in reversed(places.items())}
        places = {cpu: place for cpu, place in places.items() if first[place[0]] == cpu}
    numbers = [package for package, _ in places.values()]
    return {
        f"package-{package}" if numbers.count(package) == 1 else f"package-{package}-die-{die}": cpu
        for cpu, (package, die) in places.items()
    }


def cpus_in(mask: str) -> list[int]:
    """The CPUs of a list like `0,24-25`. Raises SourceUnavailable where it is none."""
    found: list[int] = []
    for part in filter(None, mask.split(",")):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if bounds is None:
            raise SourceUnavailable("read_failed", f"the PMU's cpumask is {mask!r}, no list of CPUs")
        found += range(int(bounds[1]), int(bounds[2] or bounds[1]) + 1)
    return found


def event_config(text: str) -> int | None:
    """The number of an event in a text like `event=0x02`; None where it is none."""
    found = re.fullmatch(r"event=(0x[0-9a-f]+|\d+)", text)
    return int(found[1], 0) if found else None


def _place(topology: Path) -> tuple[int, int]:
    """Package and die of a CPU; a kernel that tells no die has one in each package."""
    return number_in(topology / "physical_package_id") or 0, number_in(topology / "die_id") or 0


def _meter(domain: Domain, package: str, period_ns: int) -> Meter:
    shared = domain.kind == "psys"
    place = "" if shared else package.removeprefix("package")
    return Meter(
        id=domain.event + place,
        kind=domain.kind,
        grade="counter",
        sensor_class="onboard",
        contains=PSYS_KINDS if shared else (),
        inside=f"energy-pkg{place}" if domain.kind == "cpu_core" else "",
        device=domain.zone.format(package),
        resolution_uj=USUAL_STEP_UJ,
        refresh_ns=REFRESH_NS,
        period_ns=period_ns,
        max_power_mw=BOUND_MW[domain.kind],
        restarts_at_zero=True,
    )


def open(table: dict[str, Any]) -> Source:
    """All RAPL events of this server.

    Raises ConfigError, and SourceUnavailable where there are none or they may not be opened.
    """
    config = typed(table, RaplPerfConfig, "rapl_perf")
    libc = ctypes.CDLL(None, use_errno=True)

    def open_event(type_: int, event: int, cpu: int) -> Event:
        return PerfEvent(libc, type_, event, cpu)

    return RaplPerfSource(config, open_event, os.urandom(8).hex())
