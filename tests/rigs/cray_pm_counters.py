"""An HPE Cray node of one CPU and one accelerator, whose controller counts for all of them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fixtures.cray import Cray
from fixtures.sysfs import faults_of
from joulefleet.source import Source
from rigs.rig import Rig


class CrayRig:
    """Counters with the controller's stamps, gauges beside them."""

    def __init__(self, folder: Path) -> None:
        self._cray = Cray(folder)
        self._files = [*self._cray.energy.values(), *self._cray.power.values()]
        self.faults = faults_of(self._files, "fails gone rubbish empty negative nan huge stuck")

    def open(self) -> Source:
        return self._cray.open(accelerators=("GPU-0",))

    def run(self, seconds: float, power_w: float) -> None:
        self._cray.run(seconds, power_w)

    def mend(self) -> None:
        for file in self._files:
            file.mend()


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[Rig]:
    """A node's counters in this folder."""
    yield CrayRig(folder)


def absent(folder: Path) -> dict[str, Any]:
    """No counters."""
    return {"root": str(folder / "none")}
