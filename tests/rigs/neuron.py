"""The rig of `neuron`: a tree of the Neuron driver with two devices and a wall clock of its own."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fixtures.neuron.neuron_tree import NS_PER_S, NeuronTree, line
from joulefleet.config import typed
from joulefleet.source import Source
from joulefleet_plugins.meters.neuron import NeuronConfig, NeuronSource

VALID = "POWER_STATUS_VALID"


class NeuronRig:
    """What the driver tells, replaced by a fault until `mend`."""

    def __init__(self, tree: NeuronTree) -> None:
        self.tree = tree
        self.faults: Mapping[str, Callable[[], None]] = {
            "fails": partial(self._tell, "POWER_STATUS_INVALID,{end},0.00,0.00,0.00"),
            "gone": self._remove,
            "rubbish": partial(self._tell, "\x1b[31mno such thing"),
            "empty": partial(self._tell, ""),
            "negative": partial(self._tell, VALID + ",{end},-5.00,-5.00,-5.00"),
            "nan": partial(self._tell, VALID + ",{end},nan,nan,nan"),
            "huge": partial(self._tell, VALID + ",{end},655.35,655.35,655.35"),
            "stuck": self._freeze,
            "zero": partial(self._tell, "POWER_STATUS_NO_DATA,{end},0.00,0.00,0.00"),
        }
        self._text: str | None = None
        self._kept = tree.root.with_suffix(".kept")

    def open(self) -> Source:
        table = {"root": str(self.tree.root), "max_w": self.tree.max_w}
        return NeuronSource(typed(table, NeuronConfig, "neuron"), lambda: self.tree.now_ns)

    def run(self, seconds: float, power_w: float) -> None:
        self.tree.run(seconds, power_w)
        self._write()

    def mend(self) -> None:
        if self._kept.exists():
            self._kept.rename(self.tree.root)
        self._text, self.tree.mute = None, False
        # As long as no minute is full, the driver tells that it has none.
        self.tree.write_all(line("POWER_STATUS_NO_DATA", self.tree.now_ns // NS_PER_S, 0.0))

    def _tell(self, text: str) -> None:
        self._text, self.tree.mute = text, True
        self._write()

    def _write(self) -> None:
        if self._text is not None:
            end_s = self.tree.now_ns // NS_PER_S
            self.tree.write_all(self._text.format(end=end_s - end_s % 60))

    def _freeze(self) -> None:
        self.tree.mute = True

    def _remove(self) -> None:
        self.tree.mute = True
        self.tree.root.rename(self._kept)


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[NeuronRig]:
    """Two devices of up to 1,000 W."""
    tree = NeuronTree(folder)
    try:
        yield NeuronRig(tree)
    finally:
        shutil.rmtree(tree.root, ignore_errors=True)


def absent(folder: Path) -> dict[str, Any]:
    """A tree that is not there."""
    return {"root": str(folder / "nothing")}
