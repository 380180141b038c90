"""A server with one Grace processor whose four rails are ACPI power meters."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fixtures.acpi_power import GRACE, AcpiPower
from fixtures.sysfs import faults_of
from joulefleet.source import Source
from joulefleet.units import j_to_uj
from rigs.rig import Rig


class AcpiPowerMeterRig:
    """Four gauges."""

    def __init__(self, folder: Path) -> None:
        self._tree = AcpiPower(folder)
        self._rails = [
            self._tree.add(number, f"{rail} Power Socket 0", 50_000_000, average_interval=1_000)
            for number, rail in enumerate(GRACE)
        ]
        self.faults = faults_of(self._rails, "fails gone rubbish empty negative nan huge zero")

    def open(self) -> Source:
        return self._tree.open()

    def run(self, seconds: float, power_w: float) -> None:
        for rail in self._rails:
            # Microwatts are microjoules a second.
            rail.show(j_to_uj(power_w))

    def mend(self) -> None:
        for rail in self._rails:
            rail.mend()


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[Rig]:
    """ACPI power meters in this folder."""
    yield AcpiPowerMeterRig(folder)


def absent(folder: Path) -> dict[str, Any]:
    """No hwmon."""
    return {"root": str(folder / "none")}
