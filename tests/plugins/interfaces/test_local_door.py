"""The door for programs of this machine: who may speak, what is refused before it is read, and what never blocks it."""

import http.client
import json
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fixtures.unix_http import post
from joulefleet_plugins.interfaces.local_door import MAX_BODY_BYTES, MOST_AT_ONCE, InUse, LocalDoor, Reply

PATH = "/v1/work"
DEADLINE_S = 20.0


def echo(body: bytes) -> Reply:
    return Reply(200, {"bytes": len(body)})


@pytest.fixture
def opening() -> Iterator[Callable[..., LocalDoor]]:
    doors: list[LocalDoor] = []

    def make(address: Any, answer: Callable[[bytes], Reply] = echo, patience_s: float = DEADLINE_S) -> LocalDoor:
        doors.append(LocalDoor(address, PATH, answer, patience_s))
        return doors[-1]

    yield make
    for door in doors:
        door.close()


def test_a_body_is_answered_at_a_unix_socket_of_owner_and_group(opening: Any, tmp_path: Path) -> None:
    at = tmp_path / "work.sock"
    opening(at)
    assert stat.S_IMODE(at.stat().st_mode) == 0o660
    assert post(at, PATH, b"12345") == (200, {"status": 200, "bytes": 5})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_body_is_answered_at_loopback(opening: Any, host: str) -> None:
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    door = opening((host, 0))
    with closing(http.client.HTTPConnection(host, door.server_address[1], timeout=DEADLINE_S)) as connection:
        connection.request("POST", PATH, b"[]", {"Content-Type": "application/json"})
        assert json.loads(connection.getresponse().read()) == {"status": 200, "bytes": 2}


@pytest.mark.parametrize("host", ["evil.example", "10.0.0.7:80", "", "[", "localhost.evil.example"])
def test_a_page_of_another_site_whose_name_leads_here_is_refused(opening: Any, host: str) -> None:
    port = opening(("127.0.0.1", 0)).server_address[1]
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)) as connection:
        connection.putrequest("POST", PATH, skip_host=True)
        for name, value in {"Host": host, "Content-Type": "application/json", "Content-Length": "2"}.items():
            connection.putheader(name, value)
        connection.endheaders(b"[]")
        assert connection.getresponse().status == 421


@pytest.mark.parametrize(
    ("status", "method", "path", "headers"),
    [
        (404, "POST", "/v1/other", {}),
        (405, "GET", PATH, {}),
        (415, "POST", PATH, {"Content-Type": "text/plain"}),
        (415, "POST", PATH, {"Content-Type": "application/x-www-form-urlencoded"}),
        (411, "POST", PATH, {"Transfer-Encoding": "chunked"}),
        (411, "POST", PATH, {"Content-Length": "-1"}),
        (413, "POST", PATH, {"Content-Length": str(MAX_BODY_BYTES + 1)}),
        (413, "POST", PATH, {"Content-Length": "9" * 5_000}),
    ],
)
def test_what_is_refused_before_it_is_read(
    opening: Any, tmp_path: Path, status: int, method: str, path: str, headers: dict[str, str]
) -> None:
    def never(body: bytes) -> Reply:
        raise AssertionError("it was read")

    opening(tmp_path / "s", never)
    answered, told = post(tmp_path / "s", path, None, method, **headers)
    assert answered == told["status"] == status
    assert told["error"]


def test_the_largest_body_is_read(opening: Any, tmp_path: Path) -> None:
    opening(tmp_path / "s")
    assert post(tmp_path / "s", PATH, b"x" * MAX_BODY_BYTES)[1]["bytes"] == MAX_BODY_BYTES


def test_half_a_body_is_no_body(opening: Any, tmp_path: Path) -> None:
    bodies: list[bytes] = []

    def note(body: bytes) -> Reply:
        bodies.append(body)
        return Reply(200, {})

    opening(tmp_path / "s", note)
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(DEADLINE_S)
        one.connect(str(tmp_path / "s"))
        one.sendall(b"POST /v1/work HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n12345")
        one.shutdown(socket.SHUT_WR)
        assert one.recv(100) == b""
    assert bodies == []


def test_whoever_speaks_slowly_holds_nobody_up_for_long(opening: Any, tmp_path: Path) -> None:
    """As many as there may be at once, and none of them ever comes to its end."""
    opening(tmp_path / "s", patience_s=0.5)
    slow = []
    for _ in range(MOST_AT_ONCE):
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(DEADLINE_S)
        one.connect(str(tmp_path / "s"))
        one.sendall(b"POST /v1/work HT")
        slow.append(one)
    ended = threading.Event()

    def drip() -> None:
        while not ended.is_set():
            for one in slow:
                try:
                    one.sendall(b"x")
                except OSError:
                    return
            ended.wait(0.05)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        assert [one.recv(1) for one in slow] == [b""] * MOST_AT_ONCE, "they were ended, though each spoke all the time"
        assert post(tmp_path / "s", PATH, b"12", again_for_s=DEADLINE_S) == (200, {"status": 200, "bytes": 2})
    finally:
        ended.set()
        thread.join()
        for one in slow:
            one.close()


def test_a_socket_that_was_left_behind_is_taken_and_one_in_use_is_not(opening: Any, tmp_path: Path) -> None:
    at = tmp_path / "work.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(at))
    opening(at)
    assert post(at, PATH, b"1")[0] == 200
    with pytest.raises(InUse):
        opening(at)
    assert post(at, PATH, b"1")[0] == 200, "the first one still listens there"


def test_a_file_that_is_no_socket_stays(opening: Any, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(InUse, match="no socket"):
        opening(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "mine"


def test_a_closed_door_leaves_no_socket(tmp_path: Path) -> None:
    LocalDoor(tmp_path / "s", PATH, echo).close()
    assert not (tmp_path / "s").exists()
