"""A server's input, told by a web service of its BMC, with nothing but declared cards in the server."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fixtures.vendor_output import BROKEN, TABLES, WRONG, VendorOutput
from fixtures.web_service import WebService
from joulefleet.source import Source
from joulefleet_plugins.meters import declared

COUNTED = TABLES[0]
SERVER = {
    **COUNTED,
    "id": "bmc",
    "kind": "server",
    "json": {"energy_j": "/cards/0/energy", "power_w": "/cards/0/power"},
}


class Bmc:
    """A server whose cards draw all of its power: the host's share is 0, as each meter shows the same power here."""

    def __init__(self) -> None:
        self._service = WebService()
        self._output = VendorOutput(self._write)
        told = [name for name in (*BROKEN, *WRONG) if name != "zero"]
        self.faults: Mapping[str, Callable[[], None]] = {
            "fails": lambda: setattr(self._service, "status", 503),
            "gone": lambda: setattr(self._service, "closed", True),
            "hangs": lambda: setattr(self._service, "hangs", True),
            "stuck": self._output.fault("stuck"),
            **{name: self._output.fault(name) for name in told},
        }

    def open(self) -> Source:
        url = f"http://127.0.0.1:{self._service.port}/power"
        server = {"use": "http_json", "url": url, "period_s": 1, "timeout_s": 2, "meters": [SERVER]}
        table = {"profile": "groq-lpu", "host_w": 0, "server": server}
        return declared.opened(table, lambda: self._output.now_ns)

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
def rig(folder: Path) -> Iterator[Bmc]:
    """A BMC that answers."""
    made = Bmc()
    try:
        yield made
    finally:
        made.end()


def absent(folder: Path) -> dict[str, Any]:
    """A chip whose tool is not installed here."""
    return {"profile": "gaudi-3", "route": {"command": [str(folder / "hl-smi")]}}
