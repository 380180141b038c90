"""AWS Inferentia and Trainium: the share of its maximum power that the Neuron driver tells of each device.

Reads `/sys/devices/virtual/neuron_device/neuron*/stats/power/utilization` (Neuron driver 2.21.37 and later), which any
user may: one line, `status,time,min,max,mean`, made anew at each full minute of the wall clock. No watts are told. The
mean is a percentage of the device's maximum, of the die that draws most, with background power taken off; so a figure
rests on a declared maximum and background, is graded `percent`, and says so in the meter's `basis`.

The mean is of the minute that ended at its time. It is told twice, at both ends of that minute, so that its joules fall
into the minute in which they were used.

`neuron-monitor` tells no power, but how busy the cores are and their memory. Where its output is led into a named pipe
these become gauges.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Annotated, Any

import msgspec

from joulefleet import ConfigError, Engine, Failure, Meter, MeterReading, Reading, Source, SourceUnavailable, typed
from joulefleet.units import ms_to_ns, s_to_ns, w_to_mw

TRIED = "faithful fake"
ROOT = "/sys/devices/virtual/neuron_device"
POWER = Path("stats/power/utilization")
NAME, SERIAL = Path("info/architecture/device_name"), Path("info/serial_number")

MINUTE_NS = s_to_ns(60)
STALE_NS = s_to_ns(150)
"""A value this old was not renewed twice in a row; one so far ahead is of another clock."""
EDGE_NS = ms_to_ns(100)
"""A minute ends, and the next begins, so long after the full second of the driver's stamp, which cuts the rest off: it
is past the edge of a window however long a read takes, and two minutes are told apart."""
DEADLINE_NS = s_to_ns(2)

VALID = "POWER_STATUS_VALID"
STATUSES = {"POWER_STATUS_NO_DATA": "no_data", "POWER_STATUS_INVALID": "invalid"}

APPROXIMATION = "CodeCarbon's approximation; AWS publishes none"
RATED_W: dict[str, tuple[float, str]] = {
    "inferentia": (75, APPROXIMATION),
    "inferentia2": (100, APPROXIMATION),
}
"""Maximum power by the name that the driver has for the device, and where it is from; Trainium has no public figure."""

LONGEST_LINE = 1_000_000
CHUNK = 65_536

Watts = Annotated[float, msgspec.Meta(ge=0, le=100_000)]


class NeuronConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The source's part of the agent's config."""

    root: str = ROOT
    max_w: Watts = 0
    """Maximum power of one device; 0 takes the table's."""
    idle_w: Watts = 0
    """Background power of one device, which the driver takes off; 0 leaves it out."""
    basis: str = ""
    """Where these are from."""
    monitor: str = ""
    """Named pipe into which `neuron-monitor` writes; empty for no gauges."""
    period_s: Annotated[float, msgspec.Meta(ge=1, le=30)] = 5.0
    """Seconds between two looks for a new minute."""


class Share(msgspec.Struct, frozen=True):
    """What the driver tells of one minute."""

    end_s: int
    mean_pct: float


class Absent(Exception):
    """There is no value now."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(code, detail)


class Device:
    """One Neuron device: its meter, its maximum, and the last minute that was told."""

    def __init__(self, folder: Path, meter: Meter) -> None:
        self.folder = folder
        self.meter = meter
        self.end_s = 0

    def share(self, now_ns: int) -> Share:
        """The last minute. Raises Absent."""
        try:
            share = parsed((self.folder / POWER).read_text(encoding="ascii"))
        except FileNotFoundError as error:
            raise Absent("device_gone", str(error)) from error
        except PermissionError as error:
            raise Absent("permission", str(error)) from error
        except (OSError, UnicodeDecodeError) as error:
            raise Absent("read_failed", str(error)) from error
        if abs(now_ns - s_to_ns(share.end_s)) > STALE_NS:
            raise Absent("stale", f"{self.folder / POWER} was made at {share.end_s} s of the wall clock")
        return share

    def power_mw(self, share: Share) -> int:
        """Background, and this share of what lies between it and the maximum."""
        low_mw = self.meter.idle_mw
        return low_mw + round((self.meter.max_power_mw - low_mw) * share.mean_pct / 100)


class NeuronSource:
    """All Neuron devices of this server."""

    def __init__(self, config: NeuronConfig, now_ns: Callable[[], int]) -> None:
        """`now_ns` is the wall clock, by which the driver stamps. Raises SourceUnavailable, ConfigError."""
        self.period_ns = s_to_ns(config.period_s)
        self.deadline_ns = DEADLINE_NS
        self._now_ns = now_ns
        self._devices = [Device(folder, _meter(folder, config)) for folder in _folders(Path(config.root))]
        self._monitor = Monitor(config.monitor) if config.monitor else None
        self.declares: tuple[Meter | Engine, ...] = tuple(device.meter for device in self._devices)

    def read(self) -> list[Reading]:
        """The last minute of every device; both its ends where it is a new one."""
        now_ns = self._now_ns()
        if self._monitor is not None:
            self._monitor.listen(now_ns)
        return [reading for device in self._devices for reading in self._read(device, now_ns)]

    def _read(self, device: Device, now_ns: int) -> list[Reading]:
        try:
            share = device.share(now_ns)
        except Absent as error:
            return [Failure(subject=device.meter.id, code=error.code, detail=error.detail)]
        age_ns = now_ns - s_to_ns(share.end_s) - EDGE_NS
        power_mw = device.power_mw(share)
        known = share.end_s == device.end_s
        device.end_s = share.end_s
        gauges = self._monitor.gauges(device.folder.name) if self._monitor is not None and not known else {}
        end = MeterReading(meter=device.meter.id, power_mw=power_mw, age_ns=max(age_ns, 0), gauges=gauges)
        begin = MeterReading(meter=device.meter.id, power_mw=power_mw, age_ns=max(age_ns + MINUTE_NS - EDGE_NS, 0))
        return [end] if known else [begin, end]


class Core(msgspec.Struct):
    """One core in use."""

    neuroncore_utilization: float


class Cores(msgspec.Struct):
    """The cores that one process uses, by their number on this server."""

    neuroncores_in_use: dict[str, Core] | None = None


class Breakdown(msgspec.Struct):
    """Bytes of device memory by core and use."""

    neuroncore_memory_usage: dict[str, dict[str, int]] | None = None


class Used(msgspec.Struct):
    """The memory of one process."""

    usage_breakdown: Breakdown = msgspec.field(default_factory=Breakdown)


class Memory(msgspec.Struct):
    """The group `memory_used`."""

    neuron_runtime_used_bytes: Used = msgspec.field(default_factory=Used)


class Report(msgspec.Struct):
    """What is told of one process."""

    neuroncore_counters: Cores = msgspec.field(default_factory=Cores)
    memory_used: Memory = msgspec.field(default_factory=Memory)


class Process(msgspec.Struct):
    """One process on Neuron cores."""

    report: Report = msgspec.field(default_factory=Report)


class Hardware(msgspec.Struct):
    """What `neuron-monitor` knows of the devices."""

    neuroncore_per_device_count: int = 0


class Line(msgspec.Struct):
    """One line of `neuron-monitor`."""

    neuron_hardware_info: Hardware
    neuron_runtime_data: list[Process] | None = None

    def by_device(self) -> dict[str, dict[str, float]]:
        """Gauges of each device with a process: the mean of its cores, idle ones included, and their memory."""
        each = self.neuron_hardware_info.neuroncore_per_device_count
        found: dict[str, dict[str, float]] = {}
        for process in (self.neuron_runtime_data or []) if each > 0 else []:
            memory = process.report.memory_used.neuron_runtime_used_bytes.usage_breakdown.neuroncore_memory_usage or {}
            for core, uses in memory.items():
                _add(found, core, each, "memory_used_bytes", sum(uses.values()))
            for core, told in (process.report.neuroncore_counters.neuroncores_in_use or {}).items():
                _add(found, core, each, "utilisation_pct", told.neuroncore_utilization / each)
        return found


class Monitor:
    """The lines of `neuron-monitor` from a named pipe; nothing waits for them."""

    def __init__(self, path: str) -> None:
        """Raises SourceUnavailable where the pipe is not there."""
        mend = f"make it: mkfifo {path}; and let neuron-monitor write into it: neuron-monitor > {path}"
        try:
            if not stat.S_ISFIFO(Path(path).stat().st_mode):
                raise SourceUnavailable("monitor_missing", f"{path} is no named pipe", mend)
            self._pipe = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            raise SourceUnavailable("monitor_missing", f"{path} cannot be read: {error.strerror}", mend) from error
        self._rest = b""
        self._lines: list[tuple[int, dict[str, dict[str, float]]]] = []

    def listen(self, now_ns: int) -> None:
        """Take what was written since, and forget what is older than a minute; what is no such line is left out."""
        self._lines = [line for line in self._lines if now_ns - line[0] <= MINUTE_NS]
        with contextlib.suppress(OSError):
            while chunk := self._pipe.read(CHUNK):
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                self._rest = self._rest[:LONGEST_LINE]
                self._take(lines, now_ns)

    def gauges(self, device: str) -> dict[str, float]:
        """Means over the lines of the last minute; empty where there were none."""
        told = [line.get(device, {"utilisation_pct": 0.0}) for _, line in self._lines]
        names = sorted({name for one in told for name in one})
        return {name: sum(one.get(name, 0.0) for one in told) / len(told) for name in names}

    def _take(self, lines: list[bytes], now_ns: int) -> None:
        for line in lines:
            with contextlib.suppress(msgspec.MsgspecError, ValueError):
                self._lines.append((now_ns, msgspec.json.decode(line, type=Line).by_device()))


def parsed(text: str) -> Share:
    """The last minute of a device in the driver's words. Raises Absent."""
    status, *values = text.strip().split(",")
    if status != VALID:
        raise Absent(STATUSES.get(status, "rubbish"), f"the Neuron driver says {text.strip()[:80]!r}")
    try:
        end_s, low, high, mean = int(values[0]), *map(float, values[1:])
    except (ValueError, IndexError) as error:
        raise Absent("rubbish", f"not the line of a power share: {text.strip()[:80]!r}") from error
    if not 0 <= low <= mean <= high <= 100:
        raise Absent("implausible", f"not a share of 100 %: {text.strip()[:80]!r}")
    return Share(end_s, mean)


def _add(found: dict[str, dict[str, float]], core: str, each: int, name: str, value: float) -> None:
    gauges = found.setdefault(f"neuron{int(core) // each}", {"utilisation_pct": 0.0})
    gauges[name] = gauges.get(name, 0.0) + value


def _folders(root: Path) -> list[Path]:
    """Folders of all devices, in the order of their numbers. Raises SourceUnavailable where there are none."""
    found = [path for path in root.glob("neuron*") if path.name.removeprefix("neuron").isdecimal()]
    if not found:
        raise SourceUnavailable("absent", f"no Neuron device in {root}", "install the Neuron driver: aws-neuronx-dkms")
    if not any((path / POWER).exists() for path in found):
        mend = "install a Neuron driver of 2.21.37 or later"
        raise SourceUnavailable("driver", f"no {POWER} of any Neuron device in {root}", mend)
    return sorted(found, key=lambda path: int(path.name.removeprefix("neuron")))


def _meter(folder: Path, config: NeuronConfig) -> Meter:
    name = _text(folder / NAME)
    rated_w, source = _rating(name, config)
    if config.idle_w >= rated_w:
        raise ConfigError("neuron", "idle_w", f"less than the maximum of {rated_w:g} W")
    background = (
        f"a background of {config.idle_w:g} W" if config.idle_w else "no background, which the driver takes off"
    )
    return Meter(
        id=folder.name,
        kind="accelerator",
        grade="percent",
        sensor_class="modelled",
        device=_text(folder / SERIAL),
        hw_model=f"AWS {name}" if name else "AWS Neuron device",
        refresh_ns=MINUTE_NS,
        period_ns=s_to_ns(config.period_s),
        max_power_mw=w_to_mw(rated_w),
        basis=f"share of {rated_w:g} W ({source}) of the die that draws most, and {background}",
        idle_mw=w_to_mw(config.idle_w),
    )


def _rating(name: str, config: NeuronConfig) -> tuple[float, str]:
    """Maximum power of a device in watts, and where it is from."""
    if config.max_w:
        return config.max_w, config.basis or "max_w of the agent's configuration"
    try:
        return RATED_W[name.lower()]
    except KeyError:
        mend = "set max_w, and where it is from in basis: AWS publishes no maximum"
        raise SourceUnavailable(
            "no_rating", f"the maximum power of {name or 'the device'} is not known", mend
        ) from None


def _text(file: Path) -> str:
    """What the file tells; empty where it does not."""
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def open(table: dict[str, Any]) -> Source:
    """All Neuron devices. Raises ConfigError, and SourceUnavailable where there is none or no maximum is known."""
    return NeuronSource(typed(table, NeuronConfig, "neuron"), time.time_ns)
