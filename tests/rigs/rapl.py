"""A server of two packages whose counters (RAPL) are files in a powercap tree."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fixtures.powercap import INTEL_UJ, Tree
from fixtures.sysfs import SysfsFile, faults_of
from joulefleet.source import Source
from joulefleet.units import j_to_uj
from rigs.rig import Rig


class RaplRig:
    """Two packages and the cores of the first."""

    def __init__(self, folder: Path) -> None:
        self._tree = Tree(folder)
        zones = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:1": "package-1"}
        self._counters = [SysfsFile(self._tree.zone(zone, name), 1_000) for zone, name in zones.items()]
        self.faults = faults_of(self._counters, "fails gone rubbish empty negative nan huge stuck")

    def open(self) -> Source:
        return self._tree.open()

    def run(self, seconds: float, power_w: float) -> None:
        for counter in self._counters:
            counter.show((counter.value + j_to_uj(seconds * power_w)) % INTEL_UJ)

    def mend(self) -> None:
        for counter in self._counters:
            counter.mend()


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[Rig]:
    """A powercap tree in this folder."""
    yield RaplRig(folder)


def absent(folder: Path) -> dict[str, Any]:
    """No powercap tree."""
    return {"root": str(folder / "none")}
