"""A server on two outlets of a Raritan unit, which tells power, energy and when it measured, by SNMP v2c."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fixtures.snmp_agent import SnmpAgent, Value, serving
from joulefleet.source import Source
from joulefleet.units import NS_PER_S, j_to_wh, s_to_ns
from joulefleet_plugins.meters import snmp

VALUES, SETTINGS = "1.3.6.1.4.1.13742.6.5.4.3.1", "1.3.6.1.4.1.13742.6.3.5.4.1"
OUTLETS = ("1.7", "1.8")
POWER, ENERGY = 5, 8
DIGITS = 1
HUGE_W = 90_000


class PduRig:
    """One unit; each outlet carries half of the server."""

    def __init__(self, folder: Path, agent: SnmpAgent) -> None:
        self._agent = agent
        self._now_ns = NS_PER_S
        self._power_w, self._energy_j = 0.0, 0.0
        self._broken: dict[int, Value] = {}
        self._stuck = self._gone = False
        self._secret = folder / "community"
        self._secret.write_text("public\n")
        self.faults: Mapping[str, Callable[[], None]] = {
            "gone": self._go,
            "hangs": lambda: setattr(agent, "silent", True),
            "fails": lambda: setattr(agent, "garbage", b"\x30\x03\x02\x01\x01"),
            "rubbish": lambda: self._break(b"much"),
            "empty": lambda: self._break(None),
            "negative": lambda: self._break(-1),
            "huge": lambda: self._break(HUGE_W * 10**DIGITS),
            "stuck": lambda: setattr(self, "_stuck", True),
            "zero": lambda: self._break(0),
        }
        self._tell()

    def open(self) -> Source:
        """The source, asking the fake unit, with the rig's clock."""
        table = typed_table(self._agent.port, self._secret)
        config = snmp.typed(table, snmp.SnmpConfig, "snmp")
        return snmp.opened(config, lambda: self._now_ns)

    def run(self, seconds: float, power_w: float) -> None:
        self._now_ns += s_to_ns(seconds)
        self._power_w = power_w
        self._energy_j += power_w * seconds
        if not (self._stuck or self._gone):
            self._tell()

    def mend(self) -> None:
        self._agent.silent, self._agent.garbage = False, None
        self._stuck = self._gone = False
        self._broken.clear()
        self._tell()

    def _break(self, value: Value) -> None:
        self._broken = {POWER: value, ENERGY: value}
        self._tell()

    def _go(self) -> None:
        self._gone = True
        self._agent.values.clear()

    def _tell(self) -> None:
        half_w, half_wh = self._power_w / 2, j_to_wh(self._energy_j / 2)
        for outlet in OUTLETS:
            for kind, value in ((POWER, half_w), (ENERGY, half_wh)):
                index = f"{outlet}.{kind}"
                self._agent.values[f"{VALUES}.4.{index}"] = self._broken.get(kind, int(value * 10**DIGITS))
                self._agent.values[f"{VALUES}.2.{index}"] = 1
                self._agent.values[f"{VALUES}.5.{index}"] = self._now_ns // NS_PER_S
                self._agent.values[f"{SETTINGS}.7.{index}"] = DIGITS


def typed_table(port: int, secret: Path) -> dict[str, Any]:
    feeds = [{"host": "127.0.0.1", "port": port, "outlet": outlet} for outlet in OUTLETS]
    return {"pdu": "raritan_outlet", "community_file": str(secret), "meters": [{"feeds": feeds, "max_w": 3000}]}


@contextmanager
def rig(folder: Path) -> Iterator[PduRig]:
    pytest.importorskip("gufo.snmp", reason="the package gufo-snmp is not installed")
    with serving() as agent:
        yield PduRig(folder, agent)


def absent(folder: Path) -> dict[str, Any]:
    """A unit whose port nobody listens on."""
    secret = folder / "community"
    secret.write_text("public\n")
    with serving() as agent:
        port = agent.port
    return typed_table(port, secret)
