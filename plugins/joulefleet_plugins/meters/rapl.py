"""CPU packages, their DRAM and the platform, read from the energy counters (RAPL) in the kernel's powercap tree.

Reads `/sys/class/powercap/intel-rapl*/energy_uj`, on AMD processors too. Only root may read them since Linux 5.10
(CVE-2020-8694), unless a group is given the right.

A zone is known by its name and its parent's (`package-0`, `package-0/dram`), since the numbers in the tree may change
when the module is loaded anew. Cores and uncore are inside their package; DRAM is not; psys holds them all. Where the
same zone is shown twice, by `intel-rapl` and by `intel-rapl-mmio`, the former is read. A zone's name is also its
`device`, by which other interfaces to it are known.

Dies of one Intel package are zones of their own and add up. AMD's and Hygon's packages have one register each, which
Linux 6.9 to 6.11 shows once for each of their dies: the first of these is the package, and the others repeat it.
"""

import contextlib
import os
import re
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Annotated, Any

import msgspec

from joulefleet import Engine, Failure, Kind, Meter, MeterReading, Reading, Source, SourceUnavailable, typed
from joulefleet.units import ms_to_ns, s_to_ns, uj_over_mw_to_ns, uw_to_mw, w_to_mw

TRIED = "faithful fake"
ROOT = "/sys/class/powercap"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
CPUINFO = "/proc/cpuinfo"

ZONE = re.compile(r"(intel-rapl(?:-mmio)?)((?::[0-9a-f]+)+)")
"""Linux numbers the zones in hexadecimal."""
DUPLICATES = "intel-rapl-mmio"
PACKAGE = re.compile(r"package-\d+(-die-\d+)?")
DIE = re.compile(r"-die-\d+")
ONE_REGISTER = re.compile(rb"^vendor_id\s*:\s*(AuthenticAMD|HygonGenuine)\s*$", re.MULTILINE)
FIRST_CPU_BYTES = 1024
"""Of /proc/cpuinfo: enough for the vendor of the first CPU."""

REFRESH_NS = ms_to_ns(1)
"""Intel's manual (volume 3, Running Average Power Limit): the energy registers are updated about every millisecond."""
COUNTER_STEPS = 2**32
"""The energy registers have 32 bits: the range of a zone divided by this is its step."""
USUAL_STEP_UJ = 62
"""2**-14 J, the unit of most Intel processors, rounded up; used where the range is not told."""
DEADLINE_NS = s_to_ns(2)

BOUND_MW: dict[Kind, int] = {
    # The largest server processors are rated 500 W to 600 W.
    "cpu_package": w_to_mw(800),
    "cpu_core": w_to_mw(800),
    # 16 DIMMs of 10 W at one package.
    "dram": w_to_mw(160),
    "psys": w_to_mw(10_000),
}
"""Most power that a zone of this kind can have, used where it tells no limit, or a higher one."""

PSYS_KINDS: tuple[Kind, ...] = ("cpu_package", "dram", "cpu_core")


class RaplConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The source's part of the agent's config."""

    root: str = ROOT
    """Folder of the powercap tree."""
    boot_id: str = BOOT_ID
    """File with the id of this boot, which is the life of the counters."""
    cpuinfo: str = CPUINFO
    """File that tells who made the CPUs."""
    period_s: Annotated[float, msgspec.Meta(ge=0.01)] = 1.0
    """Seconds between two reads; shortened to less than half the time in which a counter can wrap."""


class Zone:
    """One zone of the tree: what it is, and its counter, kept open."""

    def __init__(self, meter: Meter, path: Path, enabled: bool) -> None:
        """Raises OSError or ValueError where the counter cannot be read."""
        self.meter = meter
        self.enabled = enabled
        self.moved = False
        """Whether the counter was ever seen to move."""
        self._file = _opened(path)
        self._first_uj = self.counter_uj()

    def counter_uj(self) -> int:
        """The counter now. Raises OSError or ValueError."""
        value_uj = int(os.pread(self._file.fileno(), 32, 0))
        if value_uj < 0:
            raise ValueError(f"{value_uj} is below 0")
        return value_uj

    def read_uj(self) -> int:
        """The counter now, and `moved` brought up to date. Raises OSError or ValueError."""
        value_uj = self.counter_uj()
        self.moved = self.moved or value_uj != self._first_uj
        return value_uj

    def open_again(self, path: Path) -> None:
        """Give the descriptor up and open the counter at this path. Raises OSError."""
        self._close()
        self._file = _opened(path)

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._close()


class RaplSource:
    """All zones of one powercap tree that are no duplicates."""

    def __init__(self, config: RaplConfig, epoch: str) -> None:
        """Raises SourceUnavailable where there is no zone, or one that cannot be read."""
        self.deadline_ns = DEADLINE_NS
        self._root = Path(config.root)
        self._dies_apart = dies_apart(Path(config.cpuinfo))
        self._epoch = epoch
        found = self._found()
        meters = [_meter(zone, path, found) for zone, path in found.items()]
        self.period_ns = min([s_to_ns(config.period_s), *(_longest_period_ns(m) for m in meters if m.modulus_uj)])
        meters = [msgspec.structs.replace(meter, period_ns=self.period_ns) for meter in meters]
        self.declares: tuple[Meter | Engine, ...] = tuple(meters)
        self._zones = [self._zone(meter, found[meter.id]) for meter in meters]

    def read(self) -> list[Reading]:
        """Every zone once; one that cannot be read gives a Failure."""
        return [self._read(zone) for zone in self._zones]

    def _found(self) -> dict[str, Path]:
        try:
            found = zones(self._root, self._dies_apart)
        except OSError as error:
            raise SourceUnavailable("permission", f"{self._root} may not be listed: {error.strerror}") from error
        if not found:
            mend = "load the module on bare metal: modprobe intel_rapl_msr; virtual machines seldom show RAPL"
            raise SourceUnavailable("absent", f"no RAPL zone in {self._root}", mend)
        return found

    def _read(self, zone: Zone) -> Reading:
        try:
            counter_uj = self._read_or_open_again(zone)
        except PermissionError as error:
            return Failure(subject=zone.meter.id, code="permission", detail=str(error))
        except FileNotFoundError as error:
            return Failure(subject=zone.meter.id, code="zone_gone", detail=str(error))
        except (OSError, ValueError) as error:
            return Failure(subject=zone.meter.id, code="read_failed", detail=str(error))
        if not zone.enabled and not zone.moved:
            # Virtual machines show such zones; a counter that never moves is no 0 W.
            return Failure(subject=zone.meter.id, code="disabled", detail="enabled is 0 and the counter stands still")
        return MeterReading(meter=zone.meter.id, counter_uj=counter_uj, epoch=self._epoch)

    def _read_or_open_again(self, zone: Zone) -> int:
        try:
            return zone.read_uj()
        except (OSError, ValueError):
            zone.open_again(self._path(zone.meter.id) / "energy_uj")
            return zone.read_uj()

    def _path(self, zone: str) -> Path:
        try:
            return zones(self._root, self._dies_apart)[zone]
        except KeyError:
            raise FileNotFoundError(f"no zone {zone} in {self._root}") from None

    def _zone(self, meter: Meter, path: Path) -> Zone:
        counter = path / "energy_uj"
        try:
            return Zone(meter, counter, _number(path / "enabled") != 0)
        except PermissionError as error:
            raise SourceUnavailable("permission", f"{counter} may not be read", self._grant()) from error
        except (OSError, ValueError) as error:
            raise SourceUnavailable("read_failed", f"{counter} cannot be read: {error}") from error

    def _grant(self) -> str:
        return (
            "give the group joulefleet the right: put the line "
            f"`z {self._root}/*/energy_uj 0440 root joulefleet` into /etc/tmpfiles.d/joulefleet.conf, run "
            "`systemd-tmpfiles --create` and let the agent run in that group; or give it CAP_DAC_READ_SEARCH"
        )


def dies_apart(cpuinfo: Path) -> bool:
    """Whether dies of one package have registers of their own; else they all show that of the package."""
    try:
        with cpuinfo.open("rb") as file:
            return ONE_REGISTER.search(file.read(FIRST_CPU_BYTES)) is None
    except OSError:
        return True


def zones(root: Path, dies_apart: bool) -> dict[str, Path]:
    """Folder of each zone by its id, packages before what is inside them; duplicates are left out.

    Two zones of one control type that bear one name are told apart by their folders. Raises OSError where the tree
    may not be listed.
    """
    found: dict[str, Path] = {}
    for match in _zone_folders(root):
        path = root / match[0]
        name, parent = _name(path), _name(root / path.name.rpartition(":")[0])
        shown = f"{parent}/{name}" if parent else name
        zone = shown if dies_apart else DIE.sub("", shown)
        repeats = match[1] == DUPLICATES or zone != shown
        if _kind(name) is None or (zone in found and repeats):
            continue
        found[f"{zone}@{path.name}" if zone in found else zone] = path
    return found


def _zone_folders(root: Path) -> list[re.Match[str]]:
    """Zones of `intel-rapl` before those of `intel-rapl-mmio`, so that the former are found first."""
    try:
        matches = [ZONE.fullmatch(path.name) for path in root.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(filter(None, matches), key=_order)


def _order(match: re.Match[str]) -> tuple[str, list[int]]:
    return match[1], [int(number, 16) for number in match[2].split(":")[1:]]


def _kind(name: str) -> Kind | None:
    if PACKAGE.fullmatch(name):
        return "cpu_package"
    kinds: dict[str, Kind] = {"dram": "dram", "core": "cpu_core", "uncore": "cpu_core", "psys": "psys"}
    return kinds.get(name)


def _meter(zone: str, path: Path, found: Iterable[str]) -> Meter:
    parent = zone.rpartition("/")[0]
    kind = _kind(_name(path))
    assert kind is not None, "zones() leaves out what has no kind"
    range_uj = _number(path / "max_energy_range_uj") or 0
    return Meter(
        id=zone,
        kind=kind,
        grade="counter",
        sensor_class="onboard",
        contains=PSYS_KINDS if kind == "psys" else (),
        inside=parent if kind == "cpu_core" and parent in found else "",
        device=zone,
        resolution_uj=-(-range_uj // COUNTER_STEPS) if range_uj else USUAL_STEP_UJ,
        refresh_ns=REFRESH_NS,
        max_power_mw=_max_power_mw(path, kind),
        modulus_uj=range_uj,
    )


def _max_power_mw(path: Path, kind: Kind) -> int:
    """The highest power that the zone's constraints tell, at most the bound; the bound where no maximum is told.

    A limit may be set above the rated maximum (turbo of client processors), so both are looked at. A limit alone is no
    maximum, since it may be raised at any time. DRAM tells its thermal specification only, and may draw more.
    """
    bound_mw = BOUND_MW[kind]
    if kind == "dram":
        return bound_mw
    rated_mw, limit_mw = (
        max((uw_to_mw(_number(file) or 0) for file in path.glob(f"constraint_*_{name}_uw")), default=0)
        for name in ("max_power", "power_limit")
    )
    return min(max(rated_mw, limit_mw), bound_mw) if rated_mw > 0 else bound_mw


def _longest_period_ns(meter: Meter) -> int:
    """Less than half the time in which the counter can wrap, at 1.2 times its maximum power as accounting allows."""
    return uj_over_mw_to_ns(meter.modulus_uj * 10, meter.max_power_mw * 12) // 2


def _name(path: Path) -> str:
    """Name of the zone in this folder; empty where it is none."""
    try:
        return (path / "name").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _number(file: Path) -> int | None:
    """The number in this file; None where it is not there or holds none."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _opened(path: Path) -> FileIO:
    return path.open("rb", buffering=0)


def open(table: dict[str, Any]) -> Source:
    """All RAPL zones of this server.

    Raises ConfigError, and SourceUnavailable where there are no zones or they may not be read.
    """
    config = typed(table, RaplConfig, "rapl")
    try:
        epoch = Path(config.boot_id).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        detail = f"{config.boot_id} cannot be read: {error}"
        mend = "without it a reboot would look like a wrap of the counters; name the file with `boot_id`"
        raise SourceUnavailable("boot_id", detail, mend) from error
    return RaplSource(config, epoch)
