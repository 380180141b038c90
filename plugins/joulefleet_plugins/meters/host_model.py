"""Estimates the power of a server or virtual machine without sensors from its CPU's utilisation and its memory.

P = vCPUs * (idle + u * (full - idle)) + GB * 0.392 W, with the watts per vCPU by CPU family that Cloud Carbon
Footprint publishes (its FootprintEstimationConstants for AWS and Azure). It knows nothing of accelerators, discs,
network and losses; public load sweeps found models of this kind 58 % too low to 88 % too high. It is graded `modelled`.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from joulefleet import Engine, Failure, Meter, MeterReading, Reading, Source, SourceUnavailable, typed
from joulefleet.units import NS_PER_S, w_to_mw

TRIED = "on hardware"
HOST = "host"
MEMORY_W_PER_GB = 0.392
"""Cloud Carbon Footprint: 0.000392 kWh for each gigabyte and hour."""
BYTES_PER_GB = 1_000_000_000

CpuTimes = Callable[[], tuple[float, float]]
"""Cumulative seconds of all CPUs: busy, and altogether."""


class Family(msgspec.Struct, frozen=True):
    """Watts of one vCPU, idle and at full load, for the CPUs whose model name this pattern finds."""

    names: str
    idle_w: float
    full_w: float


# Model numbers: the second digit of a Xeon Scalable and the last of an EPYC tell the generation. Later generations
# have no published coefficients and take the default, rather than those of an older one.
FAMILIES = (
    Family(r"Cascade ?lake|Platinum 82\d\d|Gold [56]2\d\d|Silver 42\d\d|Bronze 32\d\d", 0.64, 3.97),
    Family(r"Skylake|Platinum 81\d\d|Gold [56]1\d\d|Silver 41\d\d|Bronze 31\d\d", 0.65, 4.26),
    Family(r"Broadwell|E[57]-\d{4}\w* v4", 0.71, 3.69),
    Family(r"Haswell|E[57]-\d{4}\w* v3", 1.00, 4.74),
    Family(r"EPYC-Milan|EPYC 7[0-9A-Z]\d3", 0.45, 2.02),
    Family(r"EPYC-Rome|EPYC 7[0-9A-Z]\d2", 0.47, 1.69),
    Family(r"EPYC 7[0-9A-Z]\d1", 0.82, 2.55),
)
DEFAULT = Family("", 0.74, 3.50)


class HostModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the CPU tells its name."""

    cpuinfo: str = "/proc/cpuinfo"


def cpu_name(cpuinfo: str) -> str:
    """The first model name in the text of /proc/cpuinfo; empty on CPUs that give none there, as on Arm."""
    found = re.search(r"^model name\s*: *(.*)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""


def family_of(name: str) -> Family:
    """The coefficients of a CPU by its model name."""
    return next((family for family in FAMILIES if re.search(family.names, name, re.IGNORECASE)), DEFAULT)


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What the model needs to know of a host."""

    name: str
    """Model name of its CPU."""
    vcpus: int
    memory_gb: float

    def power_mw(self, utilisation: float) -> int:
        """Modelled power in milliwatts at a utilisation between 0 and 1."""
        family = family_of(self.name)
        per_vcpu_w = family.idle_w + utilisation * (family.full_w - family.idle_w)
        return w_to_mw(self.vcpus * per_vcpu_w + self.memory_gb * MEMORY_W_PER_GB)


class HostModel:
    """The modelled power of this host, from the busy part of its CPU time between two reads."""

    period_ns = NS_PER_S
    deadline_ns = NS_PER_S

    def __init__(self, host: Host, cpu_times: CpuTimes) -> None:
        self.declares: tuple[Meter | Engine, ...] = (_meter(host),)
        self._host = host
        self._cpu_times = cpu_times
        self._before: tuple[float, float] | None = None

    def read(self) -> Sequence[Reading]:
        """Mean power since the last read; a Failure where there is no time between the two."""
        before, self._before = self._before, self._cpu_times()
        if before is None:
            return [Failure(subject=HOST, code="first_read", detail="utilisation is known from the second read on")]
        busy_s, all_s = self._before[0] - before[0], self._before[1] - before[1]
        if all_s <= 0:
            return [Failure(subject=HOST, code="no_interval", detail="no CPU time has passed since the last read")]
        # Idle time may be corrected backwards by the kernel, which leaves the busy part just outside its bounds.
        utilisation = min(max(busy_s / all_s, 0.0), 1.0)
        gauges = {"utilisation_pct": 100 * utilisation}
        return [MeterReading(meter=HOST, power_mw=self._host.power_mw(utilisation), gauges=gauges)]


def _meter(host: Host) -> Meter:
    return Meter(
        id=HOST,
        kind="host",
        grade="modelled",
        sensor_class="modelled",
        contains=("cpu_package", "cpu_core", "dram", "psys"),
        hw_model=host.name,
        max_power_mw=host.power_mw(1.0),
        current="ac",
        idle_mw=host.power_mw(0.0),
    )


def open(table: dict[str, Any]) -> Source:
    """The model of this host. Raises SourceUnavailable where its CPU cannot be told."""
    import psutil  # noqa: PLC0415 - a server that has sensors does not load it

    config = typed(table, HostModelConfig, "source host_model")

    def cpu_times() -> tuple[float, float]:
        now = psutil.cpu_times()
        # Guests run inside `user` and `nice`; stolen time was another machine's work.
        busy_s = now.user + now.nice + now.system + now.irq + now.softirq
        return busy_s, busy_s + now.idle + now.iowait + now.steal

    try:
        cpuinfo = Path(config.cpuinfo).read_text(encoding="utf-8", errors="replace")
        vcpus, memory_bytes = psutil.cpu_count() or 0, psutil.virtual_memory().total
    except OSError as error:
        raise SourceUnavailable(
            "absent", f"{config.cpuinfo} cannot be read: {error.strerror}", "needs Linux"
        ) from error
    if not vcpus:
        raise SourceUnavailable("absent", "the number of CPUs cannot be told", "needs Linux")
    host = Host(name=cpu_name(cpuinfo), vcpus=vcpus, memory_gb=memory_bytes / BYTES_PER_GB)
    return HostModel(host, cpu_times)
