"""The rails of NVIDIA's Grace processors, and the input of servers whose firmware has an ACPI power meter.

Reads `/sys/class/hwmon/hwmonN/device/power1_average` where the hwmon's name is `power_meter`, or the same file beside
the name. What a meter measures is told by `power1_oem_info`, such as `Grace Power Socket 0`. The rails of a socket lie
in one another: module > grace > cpu, sysio, dram. A meter that stands alone and names no rail is the server's input.

The rail of the module is a cross-check, of kind `psys`: it holds accelerators whose own meters know them better, and
the firmware does not tell which they are. For the same reason a socket names no module in which it lies: another
source may tell of that module too, and holds the socket by its kind.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from joulefleet import Engine, Failure, Kind, Meter, MeterReading, Reading, Source, SourceUnavailable, typed
from joulefleet.units import ms_to_ns, s_to_ns, uw_to_mw, w_to_mw
from joulefleet_plugins.interfaces.kept_file import KeptFile, failure, number_in, said

TRIED = "faithful fake"
ROOT = "/sys/class/hwmon"
NAME = "power_meter"
VALUE = "power1_average"
DEADLINE_NS = s_to_ns(5)
"""The firmware answers, at some servers through their BMC."""
USUAL_INTERVAL_NS = s_to_ns(1)
"""Time over which the firmware takes the mean, where it does not tell."""
ALL_ONES_UW = 4_294_967_295_000
"""32 bits of ones in milliwatts, which is no power but firmware without a value."""

ABSENT = (
    "load the module acpi_power_meter; on Grace its kernel needs CONFIG_SENSORS_ACPI_POWER and the boot option "
    "acpi_power_meter.force_cap_on=y"
)


class Rail(msgspec.Struct, frozen=True, kw_only=True):
    """What the meters with a word in their label measure."""

    name: str
    words: str
    kind: Kind
    max_mw: int
    """Most power that it can have, used where the firmware tells no limit, or a higher one."""
    device: str
    """Its identity; `{}` is the socket."""
    contains: tuple[Kind, ...] = ()
    inside: str = ""
    """The rail of which it is a part, where the socket has that."""
    alone: str = ""
    """Its identity where the socket has no such rail."""


RAILS = (
    Rail(
        name="module",
        words="module",
        kind="psys",
        max_mw=w_to_mw(3_500),
        device="module-{}",
        contains=("accelerator", "cpu_package", "cpu_core", "dram"),
    ),
    # The whole socket with its memory; firmware of other makers calls it the total.
    Rail(
        name="grace",
        words="grace|total",
        kind="cpu_package",
        max_mw=w_to_mw(700),
        device="package-{}",
        contains=("cpu_core", "dram"),
    ),
    Rail(name="dram", words="dram", kind="dram", max_mw=w_to_mw(300), device="package-{}/dram", inside="grace"),
    Rail(
        name="sysio", words="sysio|soc", kind="cpu_core", max_mw=w_to_mw(300), device="package-{}/sysio", inside="grace"
    ),
    Rail(
        name="cpu",
        words="cpu",
        kind="cpu_package",
        max_mw=w_to_mw(700),
        device="package-{}/cpu",
        inside="grace",
        alone="package-{}",
    ),
)
"""The first whose word is in the label."""
NO_RAIL = re.compile(r"(?!.*\bpower\b)|.*\b(output|energy)\b", re.IGNORECASE)
"""Some firmware shows other numbers of a socket as power meters, too: `Total CPU Energy In uJ socket 0`, what a
converter gives out, throttling."""
SERVER = Rail(name="server", words="", kind="server", max_mw=w_to_mw(30_000), device="")


class AcpiPowerMeterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The source's part of the agent's config."""

    root: str = ROOT
    period_s: Annotated[float, msgspec.Meta(ge=0.05)] = 1.0
    server: str = ""
    """The ACPI device (`ACPI000D:00`) that measures the server's input, where there are several without a rail."""


class Place(msgspec.Struct, frozen=True):
    """One power meter in the tree."""

    folder: Path
    """Of its files."""
    device: str
    """Its ACPI name."""
    label: str

    def number(self, file: str) -> int:
        """The number in one of its files; 0 where there is none."""
        return number_in(self.folder / file) or 0

    @property
    def rail(self) -> tuple[Rail, int] | None:
        """What it measures, and of which socket; None where its label names no input power of a socket's rail."""
        if NO_RAIL.match(self.label):
            return None
        socket = re.search(r"\bsocket\s*(\d+)", self.label, re.IGNORECASE)
        rails = (rail for rail in RAILS if re.search(rf"\b({rail.words})\b", self.label, re.IGNORECASE))
        rail = next(rails, None)
        return (rail, int(socket[1])) if rail and socket else None


class AcpiPowerMeterSource:
    """The rails of all sockets, or the server's input."""

    def __init__(self, config: AcpiPowerMeterConfig) -> None:
        """Raises SourceUnavailable where there is no meter, or none of which it is known what it measures."""
        self.period_ns = s_to_ns(config.period_s)
        self.deadline_ns = DEADLINE_NS
        root = Path(config.root)
        found = {meter.id: (meter, place) for meter, place in _found(list(places(root)), config, self.period_ns)}
        self._files = {name: KeptFile(_finder(root, place)) for name, (_, place) in found.items()}
        self.declares: tuple[Meter | Engine, ...] = tuple(meter for meter, _ in found.values())

    def read(self) -> list[Reading]:
        """Every meter once; one that cannot be read gives a Failure."""
        return [_reading(meter, file) for meter, file in self._files.items()]


def _reading(meter: str, file: KeptFile) -> Reading:
    try:
        power_uw = file.number()
    except (OSError, ValueError) as error:
        return failure(meter, error)
    if power_uw in (0, ALL_ONES_UW):
        return Failure(subject=meter, code="no_value", detail=f"the firmware answers {power_uw} uW")
    return MeterReading(meter=meter, power_mw=uw_to_mw(power_uw))


def places(root: Path) -> Iterator[Place]:
    """All ACPI power meters under this folder that are no battery's, in the order of their ACPI names."""
    folders = [folder for folder in root.glob("hwmon*") if said(folder / "name") == NAME]
    found = [(_device(folder), files) for folder in folders if (files := _files(folder)) is not None]
    for device, files in sorted(found):
        if number_in(files / "power1_is_battery") != 1:
            yield Place(files, device, said(files / "power1_oem_info"))


def _files(folder: Path) -> Path | None:
    """Where the files are: most kernels have them at the device."""
    return next((one for one in (folder, folder / "device") if (one / VALUE).exists()), None)


def _device(folder: Path) -> str:
    device = folder / "device"
    return device.resolve().name if device.exists() else ""


def _finder(root: Path, place: Place) -> Callable[[], Path]:
    """Where the meter's file is now, whatever number its hwmon has."""

    def find() -> Path:
        for now in places(root):
            if (now.device, now.label) == (place.device, place.label):
                return now.folder / VALUE
        raise FileNotFoundError(f"no ACPI power meter {place.device} {place.label}".rstrip())

    return find


def _found(there: list[Place], config: AcpiPowerMeterConfig, period_ns: int) -> Iterator[tuple[Meter, Place]]:
    """What is measured, and where. Raises SourceUnavailable where that is nothing, or not known."""
    if not there:
        raise SourceUnavailable("absent", f"no ACPI power meter in {config.root}", ABSENT)
    rails = [(rail, socket, place) for place in there if place.rail for rail, socket in [place.rail]]
    sockets = {(rail.name, socket) for rail, socket, _ in rails}
    for rail, socket, place in rails:
        yield _rail_meter(rail, socket, sockets, place, period_ns), place
    others = [place for place in there if place.rail is None]
    named = [place for place in others if place.device == config.server]
    if config.server and not named:
        raise SourceUnavailable("absent", f"no ACPI power meter {config.server}", f"there are {_names(others)}")
    if not rails and not named and len(others) > 1:
        detail = f"several ACPI power meters, none of which tells what it measures: {_names(others)}"
        mend = f'name the one of the whole server: server = "{others[0].device}"'
        raise SourceUnavailable("ambiguous", detail, mend)
    for place in named or ([] if rails else others):
        yield _meter(place, SERVER, period_ns, id="acpi-server", current="ac", sensor_class="platform"), place


def _names(there: list[Place]) -> str:
    return ", ".join(f"{place.device} {place.label}".rstrip() for place in there) or "none without a rail"


def _rail_meter(rail: Rail, socket: int, there: set[tuple[str, int]], place: Place, period_ns: int) -> Meter:
    is_part = (rail.inside, socket) in there
    # Of several modules none holds all accelerators or all sockets.
    several = len({number for _, number in there}) > 1
    device = rail.device if is_part else rail.alone or rail.device
    return _meter(
        place,
        rail,
        period_ns,
        id=f"acpi-{rail.name}-{socket}",
        contains=() if several and rail.kind == "psys" else rail.contains,
        inside=f"acpi-{rail.inside}-{socket}" if is_part else "",
        device=device.format(socket),
        sensor_class="onboard",
    )


def _meter(place: Place, rail: Rail, period_ns: int, **more: Any) -> Meter:
    told_mw = uw_to_mw(place.number("power1_cap_max"))
    return Meter(
        kind=rail.kind,
        grade="integrated",
        hw_model=said(place.folder / "power1_model_number"),
        refresh_ns=ms_to_ns(place.number("power1_average_interval")) or USUAL_INTERVAL_NS,
        period_ns=period_ns,
        max_power_mw=told_mw if 0 < told_mw < rail.max_mw else rail.max_mw,
        power_limit_mw=uw_to_mw(place.number("power1_cap")),
        **more,
    )


def open(table: dict[str, Any]) -> Source:
    """All ACPI power meters of this server of which it is known what they measure.

    Raises ConfigError, and SourceUnavailable where there are none.
    """
    return AcpiPowerMeterSource(typed(table, AcpiPowerMeterConfig, "acpi_power_meter"))
