"""A vendor's tool that prints JSON: a real process for each reading."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fixtures.vendor_output import BROKEN, TABLES, WRONG, VendorOutput
from joulefleet.source import Source
from joulefleet_plugins.meters import command
from joulefleet_plugins.meters.command import Samples


class VendorTool:
    """An executable that prints a file."""

    def __init__(self, folder: Path) -> None:
        self._path, self._file = folder / "vendor-smi", folder / "told.json"
        self._output = VendorOutput(self._write)
        self.faults: Mapping[str, Callable[[], None]] = {
            "fails": self._file.unlink,
            "gone": self._path.unlink,
            "hangs": self._hang,
            "stuck": self._output.fault("stuck"),
            **{name: self._output.fault(name) for name in (*BROKEN, *WRONG)},
        }
        self.mend()

    def open(self) -> Source:
        # Long enough for a busy machine to start a process, and no longer, as one fault is to hang.
        keys = {"period_s": 1, "timeout_s": 2, "meters": TABLES}
        opened = command.open({"command": [str(self._path), str(self._file)], **keys})
        assert isinstance(opened, Samples)
        return Samples(opened._tool, opened._bound, opened.period_ns, lambda: self._output.now_ns)

    def run(self, seconds: float, power_w: float) -> None:
        self._output.run(seconds, power_w)

    def mend(self) -> None:
        self._file.unlink(missing_ok=True)
        self._file.touch()
        self._path.unlink(missing_ok=True)
        self._path.symlink_to(shutil.which("cat") or "/bin/cat")
        self._output.mend()

    def _hang(self) -> None:
        self._file.unlink()
        os.mkfifo(self._file)

    def _write(self) -> None:
        # Not there or a pipe that nobody writes to: the tool fails or hangs.
        if self._file.is_file():
            self._file.write_bytes(self._output.told())


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[VendorTool]:
    """A tool that tells of two cards."""
    yield VendorTool(folder)


def absent(folder: Path) -> dict[str, Any]:
    """A tool that is not installed."""
    return {"command": [str(folder / "vendor-smi")], "meters": TABLES}
