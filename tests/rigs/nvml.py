"""NVIDIA boards on the fake NVML library, read by the real binding in a process of its own."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fixtures.nvml.fake_nvml import ALL, GPU_IS_LOST, FakeNvml, build, compiler
from fixtures.nvml.nvml_process import NvmlReader
from joulefleet.source import Source

BOARDS = 2
NVML_UNKNOWN = 999
HUGE_MJ = 2**60


class NvmlRig:
    """Two boards that always draw the same power."""

    def __init__(self, fake: FakeNvml, ends: contextlib.ExitStack) -> None:
        self._fake = fake
        self._ends = ends
        self._energy_mj = 0
        self._shown_mj: int | None = None
        """What the counters show instead of the truth."""
        self.faults: Mapping[str, Callable[[], None]] = {
            "fails": lambda: fake.fail("*", NVML_UNKNOWN),
            "gone": lambda: fake.fail("*", GPU_IS_LOST, 0),
            "huge": lambda: self._show(HUGE_MJ),
            "stuck": lambda: self._show(self._energy_mj),
        }
        self._show(None)

    def open(self) -> Source:
        """The source, opened on this interface."""
        reader = NvmlReader(self._fake.environment())
        self._ends.callback(reader.close)
        reader.open()
        return reader

    def run(self, seconds: float, power_w: float) -> None:
        """Let both boards draw this power for so long."""
        self._fake.clock_ms += round(seconds * 1_000)
        self._fake.power_mw = {ALL: round(power_w * 1_000)}
        self._energy_mj += round(power_w * seconds * 1_000)
        self._show(self._shown_mj)

    def mend(self) -> None:
        """End the fault; counters have gone on meanwhile."""
        self._fake.failures.clear()
        self._show(None)

    def _show(self, energy_mj: int | None) -> None:
        self._shown_mj = energy_mj
        self._fake.energy_mj = {ALL: self._energy_mj if energy_mj is None else energy_mj}
        self._fake.write()


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[NvmlRig]:
    """A rig in this folder; skips where there is no C compiler to build the library with."""
    if compiler() is None:
        pytest.skip("no C compiler to build the fake NVML library with")
    fake = FakeNvml(library=build(folder / "library"), control=folder / "control", boards=BOARDS)
    with contextlib.ExitStack() as ends:
        yield NvmlRig(fake, ends)


def absent(folder: Path) -> dict[str, Any]:
    """The binding finds the driver's library by its name alone: a host that has one cannot be without it."""
    with contextlib.suppress(OSError):
        if "nvidia" in Path("/proc/modules").read_text(encoding="ascii"):
            pytest.skip("this host has an NVIDIA driver")
    return {}
