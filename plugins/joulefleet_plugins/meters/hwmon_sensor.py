"""The sensors of energy and power under hwmon: where each is, by what it is known, and what stands beside it.

hwmonN changes when a driver is loaded anew, so that a sensor is known by its driver and the device behind it.
"""

import errno
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from joulefleet.units import uw_to_mw
from joulefleet_plugins.interfaces.kept_file import number_in, said

VALUE = re.compile(r"((?:energy|power)\d+)_(input|average)")
PCI = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
LIMITS = ("cap_max", "rated_max", "max", "cap")
"""Files that tell the most that a card may draw, or was set to."""


class Sensor(msgspec.Struct, frozen=True, kw_only=True):
    """One channel of one hwmon."""

    folder: Path
    driver: str
    place: str
    channel: str
    file: str

    @property
    def label(self) -> str:
        """The text beside it; empty where there is none."""
        return self.beside("label")

    @property
    def is_first(self) -> bool:
        """Whether it is the first channel of its sort at its device."""
        first = self.file.replace(self.channel, re.sub(r"\d+", "1", self.channel))
        return first == self.file or not (self.folder / first).exists()

    @property
    def id(self) -> str:
        """Stable over restarts and renumbering."""
        name = f"{self.driver}-{self.place}" if self.place else self.driver
        return name if self.is_first else f"{name}/{self.channel}"

    @property
    def identity(self) -> str:
        """The card by its PCI address, function 0; a further channel of it is another thing. Empty for no card."""
        card = re.sub(r"\d$", "0", self.place) if PCI.fullmatch(self.place) else ""
        return card if self.is_first or not card else f"{card}/{self.channel}"

    @property
    def pci(self) -> str:
        """Vendor and device of the card."""
        return f"{said(self.folder / 'device' / 'vendor')}:{said(self.folder / 'device' / 'device')}"

    @property
    def hw_model(self) -> str:
        """Name of the card, or its driver and numbers."""
        return said(self.folder / "device" / "product_name") or f"{self.driver} {self.pci}".removesuffix(" :")

    @property
    def counts(self) -> bool:
        """Whether it is a counter."""
        return self.channel.startswith("energy")

    @property
    def told_mw(self) -> int:
        """The most that files beside it tell; 0 where there is none."""
        number = self.channel.removeprefix("energy").removeprefix("power")
        files = [self.folder / f"power{number}_{limit}" for limit in LIMITS]
        return max(uw_to_mw(number_in(file) or 0) for file in files)

    def beside(self, attribute: str) -> str:
        """What an attribute of its channel says."""
        return said(self.folder / f"{self.channel}_{attribute}")

    @property
    def error(self) -> int:
        """The number of the error with which it cannot be read now; 0 where it can."""
        try:
            (self.folder / self.file).read_bytes()
        except OSError as error:
            return error.errno or errno.EIO
        return 0


def sensors(root: Path) -> Iterator[Sensor]:
    """All channels of energy and power under this folder, in the order of devices."""
    found = [(said(folder / "name"), _place(folder), folder) for folder in root.glob("hwmon*")]
    for driver, place, folder in sorted(found):
        channels = {match[1] for file in folder.iterdir() if (match := VALUE.fullmatch(file.name))}
        for channel in sorted(channels):
            forms = [f"{channel}_{form}" for form in ("average", "input")]
            file = next(form for form in forms if (folder / form).exists())
            yield Sensor(folder=folder, driver=driver, place=place, channel=channel, file=file)


def _place(folder: Path) -> str:
    """PCI address of the device behind this hwmon, or its name; empty where there is none."""
    device = folder / "device"
    if not device.exists():
        return ""
    path = device.resolve()
    return next((part for part in reversed(path.parts) if PCI.fullmatch(part)), path.name)


def finder(root: Path, sensor: Sensor) -> Callable[[], Path]:
    """Where the sensor's file is now, whatever number its hwmon has."""

    def find() -> Path:
        for folder in root.glob("hwmon*"):
            if said(folder / "name") == sensor.driver and _place(folder) == sensor.place:
                return folder / sensor.file
        raise FileNotFoundError(errno.ENOENT, f"no hwmon of {sensor.driver} {sensor.place}", str(root))

    return find
