"""The node, its CPUs, memory and accelerators on HPE Cray EX and XC, as the node's controller counts them.

Reads `/sys/cray/pm_counters/energy` and its like, a counter in joules, and `power` beside it, a gauge in watts: texts
such as `2178501771 J 1734094386309238 us`, whose last number is the controller's clock. A value whose stamp stands
still is as old as that, and after STALE_S none. `startup` tells when the controller began to count. (`generation` does
not: it counts changes of the power cap.)

The controller does not tell which board is `accel0`, and the boards' own driver shows them as well: accelerators are
meters only where `accelerators` says who they are.
"""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from joulefleet import Engine, Failure, Kind, Meter, MeterReading, Reading, Source, SourceUnavailable, typed
from joulefleet.units import j_to_uj, ms_to_ns, ns_to_s, s_to_ns, w_to_mw
from joulefleet_plugins.interfaces.kept_file import KeptFile, failure, number_in, said

TRIED = "faithful fake"
ROOT = "/sys/cray/pm_counters"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
CPUS = "/sys/devices/system/cpu"

NODE = "cray-node"
REFRESH_NS = ms_to_ns(100)
"""`raw_scan_hz` is 10."""
RESOLUTION_UJ = j_to_uj(1)
STALE_S = 10
DEADLINE_NS = s_to_ns(5)
TEXT = re.compile(r"(\d+) ([JW])(?: (\d+) us)?")
PERMISSION = "let the agent's user read /sys/cray/pm_counters; HPE's software lets everybody"

NowNs = Callable[[], int]


class CrayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The source's part of the agent's config."""

    root: str = ROOT
    boot_id: str = BOOT_ID
    cpus: str = CPUS
    """Folder that tells how many sockets there are."""
    period_s: Annotated[float, msgspec.Meta(ge=0.1)] = 1.0
    accelerators: tuple[str, ...] = ()
    """Identity of the board behind `accel0`, `accel1`, ...: as another source of it tells (a GPU's UUID, a PCI
    address), or any name where there is no other."""


class Domain(msgspec.Struct, frozen=True, kw_only=True):
    """What a pair of files measures."""

    file: str
    """Before `energy` and `power`."""
    kind: Kind
    max_mw: int
    device: str = ""
    contains: tuple[Kind, ...] = ()

    @property
    def id(self) -> str:
        """Of its meter."""
        return f"cray-{self.file.removesuffix('_')}" if self.file else NODE


def domains(there: set[str], sockets: int, accelerators: tuple[str, ...]) -> Iterator[Domain]:
    """What the files measure that are there.

    CPUs or memory in one figure for several sockets are a cross-check (`psys`), since other sources know each socket
    for itself, and the two must not be counted together.
    """
    yield Domain(file="", kind="server", max_mw=w_to_mw(12_000))
    each = sorted(file for file in there if re.fullmatch(r"cpu\d+_", file))
    for file in each or sorted(there & {"cpu_"}):
        yield _part(file, "cpu_package", w_to_mw(800), f"package-{file[3:-1] or 0}", sockets if file == "cpu_" else 1)
    if "memory_" in there:
        yield _part("memory_", "dram", w_to_mw(500), "package-0/dram", sockets)
    for number, device in enumerate(accelerators):
        yield Domain(file=f"accel{number}_", kind="accelerator", max_mw=w_to_mw(2_500), device=device)


def _part(file: str, kind: Kind, max_mw: int, device: str, sockets: int) -> Domain:
    if sockets == 1:
        return Domain(file=file, kind=kind, max_mw=max_mw, device=device)
    contains: tuple[Kind, ...] = ("cpu_package", "cpu_core") if kind == "cpu_package" else (kind,)
    return Domain(file=file, kind="psys", max_mw=max_mw * max(sockets, 1), contains=contains)


class Value(msgspec.Struct, frozen=True):
    """What a file said."""

    number: int
    stamp_us: int | None
    """The controller's clock, in microseconds; None where it is not told."""


def value_of(text: str, unit: str) -> Value:
    """The number in a text such as `451 W 1734094386309238 us`. Raises ValueError where it is none of this unit."""
    found = TEXT.fullmatch(text)
    if found is None or found[2] != unit:
        raise ValueError(f"{text!r} is no number of {unit}")
    return Value(int(found[1]), int(found[3]) if found[3] else None)


class Probe:
    """One meter: its counter, and the gauge beside it where there is one."""

    def __init__(self, meter: Meter, energy: Path, power: Path | None, now_ns: NowNs) -> None:
        self.meter = meter
        self._energy = KeptFile(lambda: energy)
        self._power = None if power is None else KeptFile(lambda: power)
        self._now_ns = now_ns
        self._stamp_us: int | None = None
        self._since_ns = 0
        """When the stamp was first seen."""

    def reading(self, epoch: str) -> Reading:
        """What it says now; a Failure where that is nothing, or too old."""
        try:
            energy = value_of(self._energy.text(), "J")
        except (OSError, ValueError) as error:
            return failure(self.meter.id, error)
        age_ns = self._age_ns(energy.stamp_us)
        if age_ns > s_to_ns(STALE_S):
            detail = f"the controller's clock has stood still for {ns_to_s(age_ns):.0f} s"
            return Failure(subject=self.meter.id, code="stale", detail=detail)
        power_mw = self._power_mw()
        return MeterReading(
            meter=self.meter.id, age_ns=age_ns, counter_uj=j_to_uj(energy.number), power_mw=power_mw, epoch=epoch
        )

    def _age_ns(self, stamp_us: int | None) -> int:
        """For how long the stamp has been what it is; the controller's clock is not compared with the server's."""
        now_ns = self._now_ns()
        if stamp_us is None or stamp_us != self._stamp_us:
            self._stamp_us, self._since_ns = stamp_us, now_ns
        return now_ns - self._since_ns

    def _power_mw(self) -> int | None:
        """The gauge; None where it tells nothing: it stands beside the counter."""
        try:
            return w_to_mw(value_of(self._power.text(), "W").number) or None if self._power else None
        except (OSError, ValueError):
            return None


class CraySource:
    """All counters of one node."""

    def __init__(self, config: CrayConfig, now_ns: NowNs) -> None:
        """Raises SourceUnavailable where this is no such node."""
        self.period_ns = s_to_ns(config.period_s)
        self.deadline_ns = DEADLINE_NS
        self._root = Path(config.root)
        self._boot_id = said(Path(config.boot_id))
        self._startup = ""
        there = self._there(config)
        found = list(domains(there, _sockets(Path(config.cpus)), config.accelerators))
        self._probes = [self._probe(domain, now_ns) for domain in found]
        self.declares: tuple[Meter | Engine, ...] = tuple(probe.meter for probe in self._probes)

    def read(self) -> list[Reading]:
        """Every counter once; one that cannot be read gives a Failure."""
        # Only the first word: a stamp that goes on may follow it.
        self._startup = next(iter(said(self._root / "startup").split()), self._startup)
        epoch = f"{self._boot_id}/{self._startup}"
        return [probe.reading(epoch) for probe in self._probes]

    def _there(self, config: CrayConfig) -> set[str]:
        """What stands before `energy` in the names of files. Raises SourceUnavailable."""
        try:
            (self._root / "energy").read_bytes()
            files = [path.name for path in self._root.iterdir() if path.name.endswith("_energy")]
        except PermissionError as error:
            raise SourceUnavailable("permission", f"{self._root} may not be read: {error}", PERMISSION) from error
        except OSError as error:
            raise SourceUnavailable("absent", f"no counters in {self._root}", "needs an HPE Cray EX or XC") from error
        there = {name.removesuffix("energy") for name in files}
        missing = [one for number in range(len(config.accelerators)) if (one := f"accel{number}_") not in there]
        if missing:
            detail = f"`accelerators` names {len(config.accelerators)} and there is no {self._root}/{missing[0]}energy"
            raise SourceUnavailable("absent", detail, "name as many as there are")
        return there

    def _probe(self, domain: Domain, now_ns: NowNs) -> Probe:
        power = self._root / f"{domain.file}power"
        meter = Meter(
            id=domain.id,
            kind=domain.kind,
            grade="counter",
            sensor_class="platform",
            contains=domain.contains,
            device=domain.device,
            resolution_uj=RESOLUTION_UJ,
            refresh_ns=REFRESH_NS,
            period_ns=self.period_ns,
            max_power_mw=domain.max_mw,
            power_limit_mw=_limit_mw(self._root / f"{domain.file}power_cap"),
        )
        return Probe(meter, self._root / f"{domain.file}energy", power if power.exists() else None, now_ns)


def _limit_mw(file: Path) -> int:
    """The power cap; 0 where there is none."""
    try:
        return w_to_mw(value_of(said(file), "W").number)
    except ValueError:
        return 0


def _sockets(cpus: Path) -> int:
    """How many CPU packages there are; 0 where that is not told."""
    numbers = {number_in(file) for file in cpus.glob("cpu[0-9]*/topology/physical_package_id")}
    return len(numbers - {None})


def open(table: dict[str, Any]) -> Source:
    """The counters of this node.

    Raises ConfigError, and SourceUnavailable where this is no HPE Cray or they may not be read.
    """
    return CraySource(typed(table, CrayConfig, "cray_pm_counters"), time.monotonic_ns)
