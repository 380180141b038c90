"""The service manager hears what it is told, and its absence stops nothing."""

import os
import socket
from pathlib import Path

import pytest

from joulefleet.notify import ALIVE, READY, notify


@pytest.mark.parametrize("abstract", [False, True])
def test_a_manager_hears_each_state(tmp_path: Path, abstract: bool) -> None:
    name = f"joulefleet-test-{os.getpid()}"
    address = f"\0{name}" if abstract else str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(5)
        environ = {"NOTIFY_SOCKET": f"@{name}" if abstract else address}
        assert notify(READY, environ)
        assert notify(ALIVE, environ)
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"WATCHDOG=1"]


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    assert not notify(READY, {})
    assert not notify(READY, {"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert not notify(READY, {"NOTIFY_SOCKET": "tcp:elsewhere"})
