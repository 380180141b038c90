"""A first look at a port of which nobody knows what listens: bounded, plain, and never an error."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from fixtures.processes import free_port
from joulefleet_plugins.interfaces.glance import MOST_BYTES, TIMEOUT_S, Glance, glance

HEAD = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def answering(*parts: bytes, ends: bool = True) -> Iterator[tuple[int, list[bytes]]]:
    """A server that gives these bytes to whoever asks, and what it was asked."""
    asked: list[bytes] = []
    done = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with closing(connection):
                asked.append(connection.recv(4096))
                for part in parts:
                    try:
                        connection.sendall(part)
                    except OSError:  # it has heard enough
                        return
                if not ends:
                    done.wait()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1], asked
        finally:
            done.set()
            thread.join()


def seen(*parts: bytes, ends: bool = True) -> Glance:
    with answering(*parts, ends=ends) as (port, _):
        return glance("127.0.0.1", port, "/metrics")


def test_the_question_is_a_plain_get_that_names_who_asks() -> None:
    with answering(HEAD + b"\r\na 1\n") as (port, asked):
        assert glance("127.0.0.1", port, "/metrics") == Glance(200, "a 1\n")
    lines = asked[0].decode().split("\r\n")
    assert lines[:3] == ["GET /metrics HTTP/1.1", f"Host: 127.0.0.1:{port}", "User-Agent: joulefleet"]
    assert lines[-3:] == ["Connection: close", "", ""]


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 8\r\n\r\na 1\nb 2\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n4\r\nb 2\n\r\n0\r\n\r\n",
        HEAD + b"\r\na 1\nb 2\nhalf of a l",
        HEAD + b"Content-Length: 999\r\n\r\na 1\nb 2\nhalf",
    ],
)
def test_a_page_is_taken_as_far_as_its_lines_are_whole(answer: bytes) -> None:
    assert seen(answer) == Glance(200, "a 1\nb 2\n")


def test_a_long_page_is_cut_at_a_line() -> None:
    told = seen(HEAD + b"\r\n", b"name 1\n" * MOST_BYTES)
    assert told.status == 200 and set(told.text.splitlines()) == {"name 1"}
    assert MOST_BYTES - 100 < len(told.text) <= MOST_BYTES


def test_a_page_that_is_one_json_string_is_kept() -> None:
    assert seen(HEAD + b'\r\n"a 1\\n"').text == '"a 1\\n"'


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\x00\x01\xff" * 100,
        b"HTTP/9 x\r\n\r\n",
        b"",
        HEAD + b"Content-Length: 99999999999999999999\r\n\r\na 1\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\na 1\n",
    ],
)
def test_what_is_no_web_server_is_strange(answer: bytes) -> None:
    assert seen(answer) == Glance(-1)


def test_other_states_are_told() -> None:
    assert seen(b"HTTP/1.1 503 Loading\r\n\r\n").status == 503


def test_nobody_there_refuses_and_who_says_nothing_is_silent() -> None:
    assert glance("127.0.0.1", free_port(), "/metrics") == Glance(-2)
    began_s = time.monotonic()
    assert seen(ends=False) == Glance(0)
    print(f"a server that says nothing takes {time.monotonic() - began_s:.2f} s of {TIMEOUT_S}")


def test_an_answer_that_never_ends_is_taken_as_far_as_it_came() -> None:
    times = iter([0.0, 0.1, 2.0])
    with answering(HEAD + b"\r\na 1\n", ends=False) as (port, _):
        assert glance("127.0.0.1", port, "/metrics", lambda: next(times)) == Glance(200, "a 1\n")
