"""The rig of `tpu`: a gRPC server that stands in for the TPU runtime; skips where grpcio is missing."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fixtures.tpu.fake_tpu_runtime import FakeTpuRuntime, Refused, double, metric, response, serving
from joulefleet.config import typed
from joulefleet.source import Source
from joulefleet_plugins.meters import tpu

START_S = 1_700_000_000
IDLE_W, PEAK_W, CHIPS = 10.0, 1000.0, 4


class TpuRig:
    """Four chips with one duty cycle, told with the time of a wall clock of its own."""

    def __init__(self, fake: FakeTpuRuntime, port: int) -> None:
        self.fake = fake
        self._port = port
        self._now_s = self._told_s = START_S * 1.0
        self._percent = 0.0
        self.faults: Mapping[str, Callable[[], None]] = {
            "fails": partial(self._answer, partial(refuse, "INTERNAL")),
            "gone": partial(self._answer, partial(refuse, "UNAVAILABLE")),
            "hangs": fake.open.clear,
            "rubbish": partial(self._answer, lambda: b"\xff\xff\xff\xff"),
            "empty": partial(self._answer, lambda: response([])),
            "negative": partial(self._show, -40.0),
            "nan": partial(self._show, math.nan),
            "huge": partial(self._show, 1e9),
            "stuck": self._freeze,
        }
        self._frozen = False
        self.mend()

    def open(self) -> Source:
        table = {"addresses": [f"127.0.0.1:{self._port}"], "chips": CHIPS, "idle_w": IDLE_W, "peak_w": PEAK_W}
        config = typed(table, tpu.TpuConfig, "tpu")
        return tpu.opened(config, lambda: round(self._now_s * 1e9))

    def run(self, seconds: float, power_w: float) -> None:
        self._now_s += seconds
        if not self._frozen:
            self._told_s = self._now_s
            self._percent = 100 * (power_w - IDLE_W) / (PEAK_W - IDLE_W)

    def mend(self) -> None:
        self._frozen = False
        self.fake.open.set()
        self.fake.answer = lambda: self._told(self._percent)

    def _told(self, percent: float) -> bytes:
        return response([metric(chip, double(1, percent), int(self._told_s)) for chip in range(CHIPS)])

    def _answer(self, answer: Callable[[], bytes]) -> None:
        self.fake.answer = answer

    def _show(self, percent: float) -> None:
        self.fake.answer = lambda: self._told(percent)

    def _freeze(self) -> None:
        self._frozen = True


def refuse(status: str) -> bytes:
    """An answer with this status of gRPC."""
    raise Refused(status)


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[TpuRig]:
    """A service on loopback."""
    del folder
    pytest.importorskip("grpc")
    fake = FakeTpuRuntime()
    with serving(fake) as port:
        yield TpuRig(fake, port)


def absent(folder: Path) -> dict[str, Any]:
    """A PCI bus without a TPU."""
    return {"pci": str(folder)}
