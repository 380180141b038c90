"""A BMC on loopback, over HTTPS, for the conformance suite."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fixtures.redfish.fake_bmc import PASSWORD, USER, Certificate, FakeBmc, has_openssl, running
from fixtures.redfish.trees import V1
from joulefleet.source import Source
from joulefleet_plugins.meters.redfish import RedfishConfig, opened

SENSORS = tuple(f"{V1}/Chassis/1U/Sensors/{name}" for name in ("TotalPower", "TotalEnergyJoules"))
METRICS = f"{V1}/Chassis/1U/EnvironmentMetrics"


class RedfishRig:
    """One server and its BMC."""

    def __init__(self, fake: FakeBmc, config: RedfishConfig, ends: contextlib.ExitStack) -> None:
        self._fake = fake
        self._config = config
        self._ends = ends
        self.faults: Mapping[str, Callable[[], None]] = {
            "fails": lambda: self._break(status=503),
            "gone": lambda: self._break(status=404),
            "hangs": lambda: self._break(waits=threading.Event()),
            "rubbish": lambda: self._break(body=b"<html>Service starting</html>"),
            "empty": lambda: self._tell(None),
            "negative": lambda: self._tell(-500),
            "nan": lambda: self._break(body=b'{"Reading": NaN}'),
            "huge": lambda: self._tell(9_000_000),
            "stuck": lambda: self._break(patch={path: fake.tree[path] for path in SENSORS}),
            "zero": lambda: self._tell(0),
        }

    def open(self) -> Source:
        source = opened(self._config, self._fake.now_s)
        self._ends.callback(source.close)
        return source

    def run(self, seconds: float, power_w: float) -> None:
        self._fake.asked.clear()
        self._fake.run(seconds, power_w)

    def mend(self) -> None:
        if self._fake.waits is not None:
            self._fake.waits.set()
        self._break(status=200, body=None, patch={}, waits=None)

    def _tell(self, reading: float | None) -> None:
        metrics = {key: {"Reading": reading} for key in ("PowerWatts", "EnergyJoules")}
        readings = {path: self._fake.tree[path] | {"Reading": reading} for path in SENSORS}
        self._break(patch={**readings, METRICS: metrics})

    def _break(self, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self._fake, name, value)


@contextlib.contextmanager
def rig(folder: Path) -> Iterator[RedfishRig]:
    """A server whose BMC counts joules and tells watts; skips where no certificate can be made."""
    if not has_openssl():
        pytest.skip("openssl is not on this machine: no certificate can be made")
    certificate, password = Certificate.made(folder / "tls"), folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    with contextlib.ExitStack() as ends:
        fake = ends.enter_context(running(FakeBmc(), certificate))
        config = RedfishConfig(
            url=fake.url,
            user=USER,
            password_file=str(password),
            fingerprint_sha256=certificate.fingerprint,
            timeout_s=0.5,
        )
        yield RedfishRig(fake, config, ends)


def absent(folder: Path) -> dict[str, Any]:
    """A table of a BMC that is not there."""
    return {"url": "http://127.0.0.1:1", "timeout_s": 2}
