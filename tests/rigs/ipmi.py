"""A BMC behind Linux's IPMI driver, faked by a preloaded library, for the conformance suite."""

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fixtures.ipmi.fake_ipmi import FakeIpmi, IpmiReader, build, compiler
from joulefleet.source import Source

WELL = {"code": 0, "length": -1, "silent": 0, "errno": 0, "group": 0xDC, "state": 0x40}


class IpmiRig:
    """One server and its BMC."""

    def __init__(self, fake: FakeIpmi, ends: contextlib.ExitStack) -> None:
        self._fake = fake
        self._ends = ends
        self._fault: dict[str, int] = {}
        self.faults: Mapping[str, Callable[[], None]] = {
            "fails": lambda: self._break(code=0xFF),
            "gone": lambda: self._break(errno=errno.ENODEV),
            "hangs": lambda: self._break(silent=1),
            "rubbish": lambda: self._break(group=0x01),
            "empty": lambda: self._break(length=0),
            "huge": lambda: self._break(watts=0xFFFE),
            "stuck": lambda: self._break(stamp_s=fake.stamp_s, watts=fake.watts),
            "zero": lambda: self._break(watts=0, state=0),
        }

    def open(self) -> Source:
        reader = IpmiReader(self._fake.environment())
        self._ends.callback(reader.close)
        reader.open(**self._fake.table)
        return reader

    def run(self, seconds: float, power_w: float) -> None:
        self._fake.wait(seconds, round(power_w))
        self._fake.set(**self._fault)

    def mend(self) -> None:
        self._fault = {}
        self._fake.set(**WELL)
        self._fake.wait(0)

    def _break(self, **answers: int) -> None:
        self._fault = answers
        self._fake.set(**answers)


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[IpmiRig]:
    """A server with a BMC; skips where there is no C compiler."""
    if compiler() is None:
        pytest.skip("no C compiler to build the fake IPMI driver with")
    with contextlib.ExitStack() as ends:
        yield IpmiRig(FakeIpmi(folder, build(folder / "library")), ends)


def absent(folder: Path) -> dict[str, Any]:
    """A table of a server without a BMC."""
    return {"path": str(folder / "ipmi0")}
