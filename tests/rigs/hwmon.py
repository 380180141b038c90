"""A server of two AMD boards that tell power, two Intel cards that count energy, and two power supplies."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fixtures.hwmon import Hwmon
from fixtures.sysfs import SysfsFile, faults_of
from joulefleet.source import Source
from joulefleet.units import j_to_uj
from rigs.rig import Rig


class HwmonRig:
    """Gauges and counters; the supplies share their load."""

    def __init__(self, folder: Path) -> None:
        self._tree = tree = Hwmon(folder)
        self._boards = [tree.sensor(n, "amdgpu", f"0000:c{n}:00.0", "power1_average", 90_000_000) for n in (1, 2)]
        self._cards = [tree.sensor(n, "xe", f"0000:0{n}:00.0", "energy1_input", 7_000) for n in (3, 4)]
        self._supplies = [
            tree.sensor(n, "pfe3000", f"3-005{n}", "power1_input", 90_000_000, power1_label="pin") for n in (5, 6)
        ]
        self._files: list[SysfsFile] = [*self._boards, *self._cards, *self._supplies]
        self._gauges = [*self._boards, *self._supplies]
        self.faults: Mapping[str, Callable[[], None]] = {
            **faults_of(self._files, "fails gone rubbish empty negative nan huge"),
            **faults_of(self._cards, "stuck"),
            **faults_of(self._gauges, "zero"),
        }

    def open(self) -> Source:
        return self._tree.open()

    def run(self, seconds: float, power_w: float) -> None:
        # Microwatts are microjoules a second.
        for board in self._boards:
            board.show(j_to_uj(power_w))
        for supply in self._supplies:
            supply.show(j_to_uj(power_w / 2))
        for card in self._cards:
            card.show(card.value + j_to_uj(seconds * power_w))

    def mend(self) -> None:
        for file in self._files:
            file.mend()


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[Rig]:
    """A tree of hwmon in this folder."""
    yield HwmonRig(folder)


def absent(folder: Path) -> dict[str, Any]:
    """No hwmon."""
    return {"root": str(folder / "none")}
