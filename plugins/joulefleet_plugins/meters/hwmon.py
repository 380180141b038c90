"""Accelerators, CPU packages and power supplies whose drivers tell energy or power under hwmon.

Reads `/sys/class/hwmon/hwmonN/energyM_input` (a counter) or `powerM_average` and `powerM_input` (gauges). What a
sensor measures is told by ROWS, by the driver's name and the sensor's label; any other can be named in `sensors`.

hwmonN changes when a driver is loaded anew, so that a sensor is known by its driver and the device behind it: its PCI
address where it has one, which is also its identity. All power supplies are one meter, the server's input, and it is
absent if one of them is.
"""

import errno
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from joulefleet import Engine, Failure, Kind, Meter, MeterReading, Reading, Source, SourceUnavailable, typed
from joulefleet.units import ms_to_ns, s_to_ns, uw_to_mw, w_to_mw
from joulefleet_plugins.interfaces.kept_file import KeptFile, failure, number_in, said
from joulefleet_plugins.meters.hwmon_sensor import Sensor, finder, sensors

TRIED = "faithful fake"
ROOT = "/sys/class/hwmon"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
DEADLINE_NS = s_to_ns(5)
"""Some answers come from the card's own firmware, which may take a second each."""

INPUTS = ("hwmon-input", "hwmon-input-energy")
"""Id of the server's input, from gauges and from counters."""
COUNTER_REFRESH_NS, GAUGE_REFRESH_NS = ms_to_ns(100), s_to_ns(1)
"""No driver tells how often its sensor makes a value; these are the longest that are likely."""
RESOLUTION_UJ = 62
"""The counters' registers have steps of 15 to 61 microjoules."""

SUPPLIES = r"cffps\d?|fsg032|pfe\d+|dps\d+\w*|ipsps1|intel_crps185|crps\d*|y[mh]5?151e"
"""Power supplies that have a PMBus driver in Linux (ibm-cffps, acbel-fsg032, bel-pfe, ...). Other drivers tell a `pin`
too, of converters and of hot-swap controllers of a part."""
CORE_ONLY = "power of the chip's core as its firmware tells it; memory, converters and fans of the card are not in it"
HELD: Mapping[Kind, tuple[Kind, ...]] = {
    "module": ("accelerator", "cpu_package", "cpu_core", "dram"),
    "psys": ("cpu_package", "cpu_core", "dram"),
}
"""Kinds that are inside one of this kind."""

BOUND_MW: Mapping[Kind, int] = {
    "accelerator": w_to_mw(2_500),
    "module": w_to_mw(3_500),
    "cpu_package": w_to_mw(800),
    "cpu_core": w_to_mw(800),
    "dram": w_to_mw(500),
    "psys": w_to_mw(10_000),
    "host": w_to_mw(10_000),
    "server": w_to_mw(30_000),
    "enclosure": w_to_mw(200_000),
}
"""Most power that a thing of this kind can have, used where it tells no limit, or a higher one."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What sensors measure, of the drivers and with the labels that these patterns fit wholly. The first row counts."""

    drivers: str
    channel: str
    kind: Kind | None
    """None for a sensor that is no meter of its own."""
    label: str = ".*"
    pci: str = ".*"
    """Vendor and device."""
    says: Mapping[str, str] = {}
    """What other files beside it say."""
    part_of: bool = False
    """Whether it is inside the device's first channel of its sort, where there is that."""
    device: str = ""
    """Its identity, where that is not the device: `{}` is the number in the label."""
    place: str = ".*"
    max_mw: int = 0
    basis: str = ""

    def fits(self, sensor: Sensor) -> bool:
        """Whether it is about this sensor."""
        told = [(self.drivers, sensor.driver), (self.channel, sensor.channel), (self.place, sensor.place)]
        told += [(self.label, sensor.label), (self.pci, sensor.pci)]
        told += [(pattern, said(sensor.folder / file)) for file, pattern in self.says.items()]
        return all(re.fullmatch(pattern, text) for pattern, text in told)


ROWS = (
    # The second die of an MI250 has a hwmon too, but the card's power is told by the first: there the cap is 0.
    Row(drivers="amdgpu", channel="power1", kind=None, pci="0x1002:0x740[8c]", says={"power1_cap": "0"}),
    Row(drivers="amdgpu", channel="power1", kind="module", pci="0x1002:0x74a0"),
    # Graphics inside a processor: its power is that of the package.
    Row(drivers="amdgpu", channel="power1", kind=None, says={"in1_label": "vddnb"}),
    Row(drivers="amdgpu", channel="power1", kind="accelerator"),
    Row(drivers="i915|xe", channel="energy1", kind="accelerator"),
    Row(drivers="i915|xe", channel="energy2", kind="accelerator", part_of=True),
    Row(drivers="grayskull|wormhole|blackhole", channel=r"power\d+", kind="accelerator", basis=CORE_ONLY),
    Row(drivers="qaic", channel="power1", kind="accelerator"),
    Row(drivers="amd_energy", channel=r"energy\d+", kind="cpu_package", label=r"Esocket(\d+)", device="package-{}"),
    Row(drivers=SUPPLIES, channel=r"power\d+", kind="server", label="pin"),
)


class SensorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sensor that ROWS does not know, named by who has wired it."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    """The driver's, in the file `name`."""
    kind: Kind
    label: str = ""
    """In the file `powerM_label`; any if left out."""
    place: str = ""
    """Address of the device behind it (`0000:c1:00.0`, `3-0058`); any if left out."""
    device: str = ""
    """Its identity, where another source shows it too."""
    max_w: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Most power that it can have."""

    @property
    def row(self) -> Row:
        """As a row of the table."""
        return Row(
            drivers=re.escape(self.name),
            channel=r"(energy|power)\d+",
            kind=self.kind,
            label=re.escape(self.label) or ".*",
            place=re.escape(self.place) or ".*",
            device=self.device,
            max_mw=0 if self.max_w is None else w_to_mw(self.max_w),
        )


class HwmonConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The source's part of the agent's config."""

    root: str = ROOT
    boot_id: str = BOOT_ID
    """File with the id of this boot, which is the life of the counters."""
    period_s: Annotated[float, msgspec.Meta(ge=0.1)] = 1.0
    sensors: tuple[SensorConfig, ...] = ()
    """Sensors beside those that are known; each counts before the table."""


class Probe:
    """One meter: the sensors that make it up, kept open."""

    def __init__(self, meter: Meter, parts: list[Sensor], root: Path, boot_id: str) -> None:
        self.meter = meter
        self._boot_id = boot_id
        self._files = {sensor.id: KeptFile(finder(root, sensor)) for sensor in parts}

    def reading(self) -> Reading:
        """The sum of its sensors; a Failure where one of them gives no value."""
        total = 0
        for sensor, file in self._files.items():
            try:
                value = file.number()
            except (OSError, ValueError) as error:
                failed = failure(self.meter.id, error)
                return msgspec.structs.replace(failed, detail=f"{sensor}: {failed.detail}")
            if value == 0 and self.meter.grade == "integrated":
                # What is switched on draws power; 0 is what drivers say when they have no value.
                return Failure(subject=self.meter.id, code="no_value", detail=f"{sensor} says 0 W")
            total += value
        if self.meter.grade == "integrated":
            return MeterReading(meter=self.meter.id, power_mw=uw_to_mw(total))
        lives = "/".join(str(file.life) for file in self._files.values())
        return MeterReading(meter=self.meter.id, counter_uj=total, epoch=f"{self._boot_id}/{lives}")


class HwmonSource:
    """All sensors of one tree that are meters."""

    def __init__(self, config: HwmonConfig) -> None:
        """Raises SourceUnavailable where there is none, or none that may be read."""
        self.period_ns = s_to_ns(config.period_s)
        self.deadline_ns = DEADLINE_NS
        root, boot_id = Path(config.root), said(Path(config.boot_id))
        there = list(sensors(root))
        found = _known(there, [*(sensor.row for sensor in config.sensors), *ROWS])
        if not found:
            raise _absent(root, there)
        self._probes = [
            Probe(_meter(parts, row, self.period_ns), parts, root, boot_id) for parts, row in _together(found)
        ]
        self.declares: tuple[Meter | Engine, ...] = tuple(probe.meter for probe in self._probes)

    def read(self) -> list[Reading]:
        """Every meter once; one that cannot be read gives a Failure."""
        return [probe.reading() for probe in self._probes]


def _known(there: list[Sensor], rows: list[Row]) -> list[tuple[Sensor, Row]]:
    """The sensors that are meters, with what each is. Raises SourceUnavailable where none may be read."""
    found, errors = [], []
    for sensor in there:
        row = next((row for row in rows if row.fits(sensor)), None)
        if row is None or row.kind is None:
            continue
        error = sensor.error
        # One that fails for now may mend; this error says that the device has no such sensor.
        if error != errno.EOPNOTSUPP:
            found.append((sensor, row))
            errors.append(error)
    if errors and set(errors) == {errno.EACCES}:
        file = found[0][0].folder / found[0][0].file
        raise SourceUnavailable(
            "permission", f"{file} may not be read", f"let the agent's user read it: {_grant(file)}"
        )
    return found


def _grant(file: Path) -> str:
    return f"chgrp joulefleet {file} && chmod g+r {file}, at each boot by a udev rule or /etc/tmpfiles.d"


def _absent(root: Path, there: list[Sensor]) -> SourceUnavailable:
    if not there:
        return SourceUnavailable("absent", f"no sensor of energy or power in {root}", "load the driver of the device")
    names = ", ".join(f"{sensor.driver} {sensor.place} {sensor.label or sensor.channel}" for sensor in there)
    mend = "name those of them that measure one thing whole in `sensors`, each with its kind"
    return SourceUnavailable("absent", f"no sensor in {root} is known; there are {names}", mend)


def _together(found: list[tuple[Sensor, Row]]) -> Iterator[tuple[list[Sensor], Row]]:
    """The sensors of each meter: all inputs of the server are one, every other sensor is its own."""
    inputs: dict[bool, list[Sensor]] = {}
    for sensor, row in found:
        if row.kind == "server":
            inputs.setdefault(sensor.counts, []).append(sensor)
    for sensor, row in found:
        if row.kind != "server":
            yield [sensor], row
        elif sensor is inputs[sensor.counts][0]:
            yield inputs[sensor.counts], row


def _meter(parts: list[Sensor], row: Row, period_ns: int) -> Meter:
    assert row.kind is not None, "such rows make no meter"
    first, is_input = parts[0], row.kind == "server"
    return Meter(
        id=INPUTS[first.counts] if is_input else first.id,
        kind=row.kind,
        grade="counter" if first.counts else "integrated",
        sensor_class="platform" if is_input else "onboard",
        contains=HELD.get(row.kind, ()),
        inside=_container(first, row),
        device=_identity(first, row),
        hw_model="" if is_input else first.hw_model,
        resolution_uj=RESOLUTION_UJ if first.counts else 0,
        refresh_ns=COUNTER_REFRESH_NS if first.counts else GAUGE_REFRESH_NS,
        period_ns=period_ns,
        max_power_mw=_max_power_mw(parts, row.max_mw, BOUND_MW[row.kind]),
        current="ac" if is_input else "dc",
        power_limit_mw=uw_to_mw(number_in(first.folder / "power1_cap") or 0) if first.is_first else 0,
        basis=row.basis,
    )


def _container(sensor: Sensor, row: Row) -> str:
    """Id of the meter of the same device in which this one is."""
    if not row.part_of or sensor.is_first:
        return ""
    return sensor.id.removesuffix(f"/{sensor.channel}")


def _identity(sensor: Sensor, row: Row) -> str:
    if not row.device:
        return "" if row.kind == "server" else sensor.identity
    match = re.fullmatch(row.label, sensor.label)
    number = int(match[1]) if match and match.groups() else 0
    return row.device.replace("{}", str(number))


def _max_power_mw(parts: list[Sensor], given_mw: int, bound_mw: int) -> int:
    """What was configured, or what all parts tell together, at most the bound; the bound where one tells nothing."""
    told = [sensor.told_mw for sensor in parts]
    return given_mw or (min(sum(told), bound_mw) if all(told) else bound_mw)


def open(table: dict[str, Any]) -> Source:
    """All known sensors under hwmon, and those that are named.

    Raises ConfigError, and SourceUnavailable where there are none or they may not be read.
    """
    return HwmonSource(typed(table, HwmonConfig, "hwmon"))
