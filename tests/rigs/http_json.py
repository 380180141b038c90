"""A web service of a vendor on loopback."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fixtures.vendor_output import BROKEN, TABLES, WRONG, VendorOutput
from fixtures.web_service import WebService
from joulefleet.source import Source
from joulefleet_plugins.meters import http_json


class VendorService:
    """A service that tells of two cards."""

    def __init__(self) -> None:
        self._service = WebService()
        self._output = VendorOutput(self._write)
        self.faults: Mapping[str, Callable[[], None]] = {
            "fails": lambda: setattr(self._service, "status", 503),
            "gone": lambda: setattr(self._service, "closed", True),
            "hangs": lambda: setattr(self._service, "hangs", True),
            "stuck": self._output.fault("stuck"),
            **{name: self._output.fault(name) for name in (*BROKEN, *WRONG)},
        }

    def open(self) -> Source:
        url = f"http://127.0.0.1:{self._service.port}/power"
        # Long enough for a busy machine to answer, and no longer, as one fault is to hang.
        table = {"url": url, "period_s": 1, "timeout_s": 2, "meters": TABLES}
        return http_json.opened(table, lambda: self._output.now_ns)

    def run(self, seconds: float, power_w: float) -> None:
        self._service.asked.clear()
        self._output.run(seconds, power_w)

    def mend(self) -> None:
        self._service.mend()
        self._output.mend()

    def end(self) -> None:
        self._service.end()

    def _write(self) -> None:
        self._service.content = self._output.told()


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[VendorService]:
    """A service that answers."""
    made = VendorService()
    try:
        yield made
    finally:
        made.end()


def absent(folder: Path) -> dict[str, Any]:
    """A service that is not there, and should say which cards there are."""
    return {
        "url": "http://127.0.0.1:9/",
        "meters": [{"id": "card", "json": {"id": "/id", "power_w": "/power"}, "max_power_w": 9}],
    }
