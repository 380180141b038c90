"""A server of two packages whose counters (RAPL) are events of perf."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fixtures.perf_pmu import GONE, REFUSED, Pmu
from joulefleet.source import Source
from rigs.rig import Rig


class RaplPerfRig:
    """Packages and cores, each a faked event."""

    def __init__(self, folder: Path) -> None:
        self._pmu = Pmu(folder, events="energy-pkg energy-cores")
        self.faults: Mapping[str, Callable[[], None]] = {
            "fails": partial(self._pmu.break_with, REFUSED),
            "gone": partial(self._pmu.break_with, GONE),
            "huge": self._pmu.huge,
            "stuck": self._pmu.stick,
        }

    def open(self) -> Source:
        return self._pmu.open()

    def run(self, seconds: float, power_w: float) -> None:
        self._pmu.use(seconds * power_w)

    def mend(self) -> None:
        self._pmu.mend()


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[Rig]:
    """A PMU in this folder."""
    yield RaplPerfRig(folder)


def absent(folder: Path) -> dict[str, Any]:
    """No PMU."""
    return {"pmu": str(folder / "none")}
