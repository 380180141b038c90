"""The rig of `amdsmi`: two boards in a fake library under the real package; skips where one of the two is missing."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.amdsmi import fake_amdsmi
from fixtures.amdsmi.fake_amdsmi import ABSENT, Device, FakeAmdsmi
from joulefleet.source import Source
from joulefleet_plugins.meters import amdsmi

API_FAILED, NOT_FOUND = 7, 31


class AmdsmiRig:
    """Two boards; a fault replaces what they show until `mend`."""

    def __init__(self, fake: FakeAmdsmi) -> None:
        self.fake = fake
        self.faults: Mapping[str, Callable[[], None]] = {
            "fails": lambda: self._fail(API_FAILED),
            "gone": lambda: self._fail(NOT_FOUND),
            "empty": lambda: self._show(counter=2**64 - 1, current_w=ABSENT),
            "nan": lambda: self._show(resolution_uj=math.nan),
            "huge": lambda: self._show(counter=2**60, current_w=60_000),
            "stuck": self._freeze,
            "zero": lambda: self._show(counter=0, current_w=0),
        }
        self._sound: list[Device] = []

    def open(self) -> Source:
        return amdsmi.open({})

    def run(self, seconds: float, power_w: float) -> None:
        for one in self._sound:
            one.energy_j += power_w * seconds
        broken = [(one.current_w, one.stamp_ns) for one in self.fake.devices]
        self.fake.run(seconds, power_w)
        if self._sound:
            for one, (current_w, stamp_ns) in zip(self.fake.devices, broken, strict=True):
                one.current_w = round(power_w) if one.counter and one.counter < 2**60 else current_w
                one.stamp_ns = stamp_ns + round(seconds * 1e9)
            self.fake.write()

    def mend(self) -> None:
        self.fake.failures.clear()
        self.fake.devices = self._sound or self.fake.devices
        self._sound = []
        self.fake.write()

    def _fail(self, code: int) -> None:
        self.fake.failures = {("energy_count", -1): code, ("power_info", -1): code}
        self.fake.write()

    def _show(self, **values: Any) -> None:
        self._sound = self.fake.devices
        self.fake.devices = [replace(one, **values) for one in self._sound]
        self.fake.write()

    def _freeze(self) -> None:
        # A little above what was told last, since the fake adds a step at each read: standing still is no decrease.
        steps = [int((one.energy_j + 0.1) * fake_amdsmi.TICKS_PER_J) for one in self.fake.devices]
        self._show()
        for one, counter in zip(self.fake.devices, steps, strict=True):
            one.counter = counter
        self.fake.write()


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[AmdsmiRig]:
    """Two MI300X, and the library that shows them loaded."""
    if reason := fake_amdsmi.missing():
        pytest.skip(reason)
    fake = FakeAmdsmi(folder / "amdsmi.control", [Device("0000:0c:00.0"), Device("0000:22:00.0")])
    fake.write()
    with fake_amdsmi.loaded(fake_amdsmi.build(folder), fake.control):
        yield AmdsmiRig(fake)


def absent(folder: Path) -> dict[str, Any]:
    """There is nothing to configure: this host has no AMD library."""
    del folder
    return {}
