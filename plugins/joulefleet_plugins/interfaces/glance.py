"""Asks a port of this machine for a page, without knowing what listens there, and takes no more than its beginning.

It may be no web server at all: so the question is a plain GET that changes nothing, it names who asks, it has one
second in all, and of the answer 64 kB are taken. The connection is closed after each question.
"""

import http.client
import io
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

TIMEOUT_S = 1.0
MOST_BYTES = 64 * 1024
QUESTION = (
    "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: joulefleet\r\n"
    "Accept: text/plain;version=0.0.4, */*;q=0.1\r\nConnection: close\r\n\r\n"
)


class Glance(NamedTuple):
    """What there was."""

    status: int
    """Of HTTP; 0 where what listens gave no answer in time, -1 where what it gave is no HTTP, and -2 where nobody
    listens at that address."""
    text: str = ""
    """The page as far as it was taken, without a last line that is cut."""


SILENT, STRANGE, REFUSED = Glance(0), Glance(-1), Glance(-2)


def glance(host: str, port: int, path: str, now_s: Callable[[], float] = time.monotonic) -> Glance:
    """What this port of a loopback address shows under a path; takes a second at most, and raises nothing."""
    until_s = now_s() + TIMEOUT_S
    name = f"[{host}]" if ":" in host else host
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
            connection.sendall(QUESTION.format(path=path, host=name, port=port).encode("ascii"))
            return _understood(_taken(connection, until_s, now_s))
    except TimeoutError:
        return SILENT
    except ConnectionRefusedError:
        return REFUSED
    except OSError:
        return STRANGE


def _taken(connection: socket.socket, until_s: float, now_s: Callable[[], float]) -> bytes:
    """What comes until the end, the last moment or the bound. Raises TimeoutError where nothing came."""
    taken = bytearray()
    while len(taken) < MOST_BYTES and (left_s := until_s - now_s()) > 0:
        connection.settimeout(left_s)
        try:
            some = connection.recv(MOST_BYTES - len(taken))
        except TimeoutError:
            break
        if not some:
            return bytes(taken)
        taken += some
    if not taken:
        raise TimeoutError
    return bytes(taken)


def _understood(answer: bytes) -> Glance:
    response = http.client.HTTPResponse(_Answer(answer))  # type: ignore[arg-type] # it asks a socket for its file only
    try:
        response.begin()
        status, text = response.status, _content(response).decode(errors="replace")
    except (http.client.HTTPException, ValueError, OverflowError):
        # A length that is no number, or more than any machine has.
        return STRANGE
    # llama.cpp once sent its page as one JSON string, which has no lines.
    return Glance(status, text if text.startswith('"') else text[: text.rfind("\n") + 1])


def _content(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read()
    except http.client.IncompleteRead as error:
        return error.partial


class _Answer:
    """Bytes that have come, as `http.client` wants to read them."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, _: str) -> io.BytesIO:
        """The file of a socket."""
        return io.BytesIO(self._content)
