"""The relay's door over loopback: who is let in, and what a slow or silent peer costs the others."""

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import pytest

from fixtures.certificate import self_signed
from joulefleet.relaying import PATH, TYPE
from joulefleet.token import Keys, mint
from joulefleet_agent import relay_door
from joulefleet_agent.relay_door import Access, Door

KEY = b"k" * 32
KEYS = Keys(keys={"k1": KEY}, least_generation={"old": 2})
WAIT_S = 20


def tell(server: str, life: str, since: int) -> bytes | None:
    return f"{server} {life} {since}".encode() if server != "unknown" else None


@contextlib.contextmanager
def open_door(**more: Any) -> Iterator[Door]:
    door = Door(("127.0.0.1", 0), tell, Access(KEYS, lambda: 1_000), **more)
    thread = threading.Thread(target=door.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield door
    finally:
        door.shutdown()
        door.server_close()
        thread.join(WAIT_S)


@pytest.fixture
def door() -> Iterator[Door]:
    with open_door() as made:
        yield made


def ask(door: Door, target: str, token: str | None = None, trust: ssl.SSLContext | None = None) -> tuple[int, str]:
    parts = urlsplit(door.url)
    host, port = parts.hostname or "", parts.port
    connection = (
        http.client.HTTPSConnection(host, port, timeout=WAIT_S, context=trust)
        if trust
        else http.client.HTTPConnection(host, port, timeout=WAIT_S)
    )
    with contextlib.closing(connection):
        connection.request("GET", target, headers={"Authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        assert answer.status != HTTPStatus.OK or answer.headers["Content-Type"] == TYPE
        return answer.status, answer.read().decode()


def test_a_server_is_answered_with_its_own_token_only(door: Door) -> None:
    own = mint("k1", KEY, "gpu-17")
    target = f"{PATH}?server=gpu-17&life=abc&since=12"
    assert ask(door, target, own) == (200, "gpu-17 abc 12")
    assert ask(door, f"{PATH}?server=gpu-17", own) == (200, "gpu-17  0")
    status, reason = ask(door, target, mint("k1", KEY, "gpu-18"))
    assert (status, reason.strip()) == (403, "the token is not one of server 'gpu-17'")
    assert ask(door, target)[0] == 401
    assert ask(door, target, "nonsense")[0] == 401
    assert ask(door, target, mint("k1", KEY, "gpu-17", expires_s=999))[0] == 401
    assert ask(door, f"{PATH}?server=old", mint("k1", KEY, "old"))[0] == 403
    assert ask(door, PATH, own)[0] == 403


@pytest.mark.parametrize("since", ["-1", "x", "1e3", "1" * 19, "%C2%B2"])
def test_a_number_that_is_none_is_refused(door: Door, since: str) -> None:
    assert ask(door, f"{PATH}?server=a&since={since}", mint("k1", KEY, "a"))[0] == 400


def test_what_is_not_there(door: Door) -> None:
    assert ask(door, "/")[0] == 404
    status, reason = ask(door, f"{PATH}?server=unknown", mint("k1", KEY, "unknown"))
    assert status == 404
    assert "serves" in reason


def test_a_peer_that_says_nothing_or_too_slowly_is_ended_and_holds_no_one_up() -> None:
    with open_door(patience_s=0.2) as door:
        address = door.server_address[:2]
        with socket.create_connection(address, WAIT_S) as silent, socket.create_connection(address, WAIT_S) as slow:
            slow.sendall(b"GET /")
            assert ask(door, f"{PATH}?server=a", mint("k1", KEY, "a"))[0] == 200
            assert silent.recv(1) == b""
            with contextlib.suppress(OSError):
                while True:
                    slow.sendall(b"x")
                    slow.settimeout(0.01)
                    with contextlib.suppress(TimeoutError):
                        assert slow.recv(1) == b""
                        break


def test_more_than_the_bound_are_sent_away_and_later_ones_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_door, "MOST_AT_ONCE", 2)
    token = mint("k1", KEY, "a")
    with open_door() as door:
        address = door.server_address[:2]
        first, second = (socket.create_connection(address, WAIT_S) for _ in range(2))
        with first, second, socket.create_connection(address, WAIT_S) as third:
            assert third.recv(1) == b""
        # The two that were held open have gone: their threads are free again as soon as they have noticed.
        until = threading.Event()
        for _ in range(500):
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ask(door, f"{PATH}?server=a", token)[0] == 200:
                    break
            until.wait(0.02)
        else:
            raise AssertionError("no thread became free")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return self_signed(tmp_path_factory.mktemp("certificate"))


def test_https_and_a_peer_that_does_not_speak_it(certificate: tuple[str, str]) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    trust = ssl.create_default_context(cafile=certificate[0])
    token = mint("k1", KEY, "a")
    with open_door(tls=tls, patience_s=1) as door:
        assert door.url.startswith("https://")
        with socket.create_connection(door.server_address[:2], WAIT_S) as silent:
            assert ask(door, f"{PATH}?server=a", token, trust) == (200, "a  0")
            silent.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(OSError):
                assert b"200" not in silent.recv(100)
        with pytest.raises(ssl.SSLError):
            ask(door, f"{PATH}?server=a", token, ssl.create_default_context())
        assert ask(door, f"{PATH}?server=a", token, trust)[0] == 200


def test_without_keys_everyone_who_reaches_it_may_ask() -> None:
    Access(None, lambda: 0).admit("", "anyone")
