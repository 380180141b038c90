"""PDUs served by a real SNMP agent, net-snmp's, with v2c and with v3."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fixtures.services import free_port, of_debian
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import Source, SourceUnavailable
from joulefleet.units import mw_to_w, wh_to_uj
from joulefleet_plugins.meters import snmp

pytest.importorskip("gufo.snmp", reason="the package gufo-snmp is not installed")

START_S = 30.0
APC = "1.3.6.1.4.1.318.1.1.26.9.4.3.1"
SECRETS = {"community": "only-for-tests", "auth": "auth-for-tests", "priv": "priv-for-tests"}
SERVE = """
import json, pathlib, sys
while line := sys.stdin.readline():
    if line.strip() == "PING":
        print("PONG", flush=True)
        continue
    oid = sys.stdin.readline().strip()
    value = json.loads(pathlib.Path(sys.argv[1]).read_text()).get(oid.lstrip("."))
    print("NONE" if value is None or line.strip() != "get" else f"{oid}\\ninteger\\n{value}", flush=True)
"""


class Snmpd:
    """An agent in a folder of its own, whose outlets are a file."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self._folder = folder
        self._values = folder / "values.json"
        self.tell({})
        script = folder / "serve.py"
        script.write_text(SERVE)
        (folder / "snmpd.conf").write_text(
            f"agentAddress udp:127.0.0.1:{port}\n"
            f"rocommunity {SECRETS['community']}\n"
            f"createUser reader SHA-256 {SECRETS['auth']} AES {SECRETS['priv']}\n"
            "rouser reader priv\n"
            f"pass_persist .1.3.6.1.4.1.318 {sys.executable} {script} {self._values}\n"
        )

    def tell(self, values: dict[str, int]) -> None:
        """Let it have these values from now on."""
        written = self._folder / "values.new"
        written.write_text(str(values).replace("'", '"'))
        written.replace(self._values)

    @contextmanager
    def running(self, program: str) -> Iterator[None]:
        command = [program, "-f", "-C", "-c", str(self._folder / "snmpd.conf"), "-Lf", str(self._folder / "log")]
        environment = {**os.environ, "SNMP_PERSISTENT_DIR": str(self._folder / "persistent")}
        process = subprocess.Popen(command, env=environment)
        try:
            yield
        finally:
            # Asked to end it writes down how often it was started, as a unit does.
            process.terminate()
            process.wait(START_S)


@pytest.fixture
def program() -> str:
    return of_debian(shutil.which("snmpd") or shutil.which("/usr/sbin/snmpd"), "net-snmp's snmpd")


@pytest.fixture
def unit(tmp_path: Path) -> Snmpd:
    return Snmpd(tmp_path, free_port())


@pytest.fixture(params=["v2c", "v3"])
def table(request: pytest.FixtureRequest, tmp_path: Path, unit: Snmpd) -> dict[str, Any]:
    files = {name: str(tmp_path / name) for name in SECRETS}
    for name, secret in SECRETS.items():
        Path(files[name]).write_text(f"{secret}\n")
    feeds = [{"host": "127.0.0.1", "port": unit.port, "outlet": number} for number in ("7", "8")]
    who = {"community_file": files["community"]}
    if request.param == "v3":
        who = {"user": "reader", "auth_file": files["auth"], "priv_file": files["priv"]}
    return {"pdu": "apc_outlet", "meters": [{"feeds": feeds}], **who}


def opened(table: dict[str, Any]) -> Source | None:
    try:
        return snmp.open(table)
    except SourceUnavailable:
        return None


def until(condition: Callable[[], Any], what: str) -> Any:
    end_s = time.monotonic() + START_S
    while not (found := condition()):
        assert time.monotonic() < end_s, f"waited {START_S:g} s for {what}"
        time.sleep(0.05)
    return found


def outlets(watts_7: int, watts_8: int, tenth_kwh: int) -> dict[str, int]:
    return {f"{APC}.7.7": watts_7, f"{APC}.7.8": watts_8, f"{APC}.11.7": tenth_kwh, f"{APC}.11.8": tenth_kwh}


def said(source: Source) -> dict[str, tuple[float, int | None] | str]:
    out: dict[str, tuple[float, int | None] | str] = {}
    for one in source.read():
        if isinstance(one, Failure):
            out[one.subject] = one.code
        elif isinstance(one, MeterReading) and one.power_mw is not None:
            out[one.meter] = mw_to_w(one.power_mw), one.counter_uj
    return out


def test_two_outlets_of_a_real_agent_that_is_restarted(unit: Snmpd, table: dict[str, Any], program: str) -> None:
    unit.tell(outlets(400, 12, 100))
    with unit.running(program):
        source = until(lambda: opened(table), "snmpd to answer")
        assert said(source) == {"pdu": (412.0, None), "pdu/energy": (412.0, wh_to_uj(20_000))}
        unit.tell(outlets(500, 20, 101))
        assert said(source) == {"pdu": (520.0, None), "pdu/energy": (520.0, wh_to_uj(20_200))}
        unit.tell({f"{APC}.7.7": 500})
        assert said(source) == {"pdu": "no_such_outlet", "pdu/energy": "no_such_outlet"}
    assert set(said(source).values()) <= {"timeout", "snmp_failed"}
    unit.tell(outlets(300, 10, 101))
    with unit.running(program):
        until(lambda: said(source)["pdu"] == (310.0, None), "the restarted agent to be read again")


@pytest.mark.parametrize("table", ["v3"], indirect=True)
def test_a_wrong_passphrase_is_told_as_such(unit: Snmpd, table: dict[str, Any], program: str) -> None:
    unit.tell(outlets(400, 12, 100))
    with unit.running(program):
        until(lambda: opened(table), "snmpd to answer")
        Path(table["auth_file"]).write_text("not-the-passphrase\n")
        with pytest.raises(SourceUnavailable) as refused:
            snmp.open(table)
    assert refused.value.code == "permission"
    assert "not-the-passphrase" not in f"{refused.value!r} {refused.value}"
