"""The model of a host, on CPU times that the test makes."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from joulefleet.source import Source
from joulefleet.units import w_to_mw
from joulefleet_plugins.meters.host_model import Host, HostModel

HOST = Host(name="", vcpus=32, memory_gb=0.0)


class CpuTimes:
    """The busy and all seconds of a host's CPUs, at the utilisation that draws a power by the model."""

    def __init__(self) -> None:
        self.faults: Mapping[str, Callable[[], None]] = {"fails": self._fail, "stuck": self._stick}
        self._busy_s = self._all_s = 0.0
        self._fails = self._stuck = False

    def __call__(self) -> tuple[float, float]:
        if self._fails:
            raise OSError(5, "Input/output error")
        return self._busy_s, self._all_s

    def open(self) -> Source:
        return HostModel(HOST, self)

    def run(self, seconds: float, power_w: float) -> None:
        idle_mw, full_mw = HOST.power_mw(0.0), HOST.power_mw(1.0)
        # A host draws no less than its idle power: the rest of the power is the CPU's.
        utilisation = max(w_to_mw(power_w) - idle_mw, 0) / (full_mw - idle_mw)
        if not self._stuck:
            self._busy_s += HOST.vcpus * seconds * utilisation
            self._all_s += HOST.vcpus * seconds

    def mend(self) -> None:
        self._fails = self._stuck = False

    def _fail(self) -> None:
        self._fails = True

    def _stick(self) -> None:
        self._stuck = True


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[CpuTimes]:
    """A host of 32 vCPUs."""
    yield CpuTimes()


def absent(folder: Path) -> dict[str, Any]:
    """A host that is no Linux."""
    return {"cpuinfo": str(folder / "cpuinfo")}
