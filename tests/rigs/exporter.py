"""dcgm-exporter's page on loopback: two boards, one of them in two MIG slices, whose rows repeat the board's."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fixtures.exporter import ENERGY, POWER, Dcgm
from fixtures.web_service import WebService
from joulefleet.source import Source
from joulefleet_plugins.meters import exporter

WRONG: dict[str, object] = {"negative": -1, "nan": "NaN", "zero": 0, "huge": 4 * 10**12}


class ExporterRig:
    """An exporter that collects whenever time passes."""

    def __init__(self) -> None:
        self._service = WebService()
        self._service.headers = {"Content-Type": "text/plain; version=0.0.4"}
        self._page = Dcgm()
        self._now_s, self._power_w, self._energy_mj = 0.0, 0.0, 126_272_101_025.0
        self._wrong: object = ""
        self._stuck = False
        self.faults: Mapping[str, Callable[[], None]] = {
            "fails": lambda: setattr(self._service, "status", 503),
            "gone": lambda: setattr(self._service, "closed", True),
            "hangs": lambda: setattr(self._service, "hangs", True),
            "rubbish": lambda: self._freeze(b"<html>exporter</html>\n"),
            "stuck": lambda: self._freeze(self._service.content),
            "empty": lambda: self._tell_wrong(None),
            **{name: lambda value=value: self._tell_wrong(value) for name, value in WRONG.items()},
        }
        self._tell()

    def open(self) -> Source:
        # Long enough for a busy machine to answer, and no longer, as one fault is to hang.
        table = {"url": f"http://127.0.0.1:{self._service.port}", "timeout_s": 2}
        return exporter.opened(table, lambda: self._now_s)

    def run(self, seconds: float, power_w: float) -> None:
        self._service.asked.clear()
        self._now_s += seconds
        self._power_w = power_w
        self._energy_mj += power_w * seconds * 1000
        self._tell()

    def mend(self) -> None:
        self._service.mend()
        self._wrong, self._stuck = "", False
        self._tell()

    def end(self) -> None:
        self._service.end()

    def _freeze(self, content: bytes) -> None:
        self._service.content, self._stuck = content, True

    def _tell_wrong(self, value: object) -> None:
        self._wrong = value
        self._tell()

    def _tell(self) -> None:
        good = {ENERGY: round(self._energy_mj), POWER: f"{self._power_w:f}"}
        told = good if self._wrong == "" else dict.fromkeys(good, self._wrong)
        self._page.values = {**told, "DCGM_FI_DEV_GPU_TEMP": 41 + int(self._now_s) % 7}
        if not self._stuck:
            self._service.content = self._page.text().encode()


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[ExporterRig]:
    """An exporter that answers."""
    made = ExporterRig()
    try:
        yield made
    finally:
        made.end()


def absent(folder: Path) -> dict[str, Any]:
    """No exporter listens there."""
    return {"url": "http://127.0.0.1:9/"}
