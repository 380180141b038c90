"""A small HTTP door for programs of this machine: one path takes a body by POST, and its answer is told as JSON.

It listens at a Unix socket that only its owner and group may write to, or at a loopback address. A thread for each
connection, MOST_AT_ONCE of them at most, each for PATIENCE_S at most, however slowly its peer speaks.
"""

import json
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, NamedTuple

from joulefleet.config import is_loopback

LOG = logging.getLogger(__name__)
MOST_AT_ONCE = 8
PATIENCE_S = 10.0
MAX_BODY_BYTES = 64 * 1024
LOOK_EVERY_S = 0.5
JSON = "application/json"
"""A page in a browser cannot send it to another site without being asked first."""
OWNER_AND_GROUP = 0o660

Address = Path | tuple[str, int]


class Reply(NamedTuple):
    """What is answered."""

    status: int
    told: dict[str, Any]


class InUse(OSError):
    """Another program listens there."""


class LocalDoor(ThreadingMixIn, TCPServer):
    """Listens once it is made, and answers in threads of its own until `close`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(
        self, address: Address, path: str, answer: Callable[[bytes], Reply], patience_s: float = PATIENCE_S
    ) -> None:
        """`answer` is called by many threads. Raises OSError where it cannot listen, InUse where another one does."""
        self.path, self.answer = path, answer
        self._patience_s = patience_s
        self._free = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._until_s: dict[socket.socket, float] = {}
        self._file = address if isinstance(address, Path) else None
        self.address_family = _family(address)
        super().__init__(str(address) if isinstance(address, Path) else address, Answering)  # type: ignore[arg-type] # typeshed knows no Unix socket here
        threading.Thread(target=self.serve_forever, args=(LOOK_EVERY_S,), name=f"door {address}", daemon=True).start()

    def server_bind(self) -> None:
        """Nobody can connect before it listens, and it listens when only those who may can."""
        if self._file is not None:
            _clear(self._file)
        super().server_bind()
        if self._file is not None:
            self._file.chmod(OWNER_AND_GROUP)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, or close it where there are too many."""
        if not self._free.acquire(blocking=False):
            LOG.warning("more than %d programs speak at once at %s: one is sent away", MOST_AT_ONCE, self.path)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # No thread could be started.
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread."""
        try:
            request.settimeout(self._patience_s)
            self._until_s[request] = time.monotonic() + self._patience_s
            super().process_request_thread(request, client_address)
        finally:
            self._until_s.pop(request, None)
            self._free.release()

    def service_actions(self) -> None:
        """Called twice a second: end connections that take too long."""
        now_s = time.monotonic()
        for connection, until_s in list(self._until_s.items()):
            if now_s > until_s:
                # The peer may have gone by itself.
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that went away or speaks something else is no trouble of ours."""
        LOG.debug("no answer at %s", self.path, exc_info=True)

    def close(self) -> None:
        """Listen no more."""
        self.shutdown()
        self.server_close()
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def _family(address: Address) -> socket.AddressFamily:
    if isinstance(address, Path):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _clear(file: Path) -> None:
    """Remove a socket that a program left behind. Raises InUse where it is still listened at, or is no socket."""
    if not os.path.lexists(file):
        return
    if not stat.S_ISSOCK(file.lstat().st_mode):
        raise InUse(f"{file} is there and is no socket")
    with socket.socket(socket.AF_UNIX) as trial, suppress(ConnectionRefusedError):
        trial.settimeout(1.0)
        trial.connect(str(file))
        raise InUse(f"another program listens at {file}")
    file.unlink()


class Answering(BaseHTTPRequestHandler):
    """One connection."""

    server: LocalDoor
    server_version = "joulefleet"
    sys_version = ""

    def do_POST(self) -> None:
        """Hand the body on."""
        reply = self._refused()
        if reply is None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:
                return
            reply = self.server.answer(body)
        self._tell(reply)

    def do_GET(self) -> None:
        """Nothing is read here."""
        self._tell(_refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"POST to {self.server.path}"))

    def _refused(self) -> Reply | None:
        """Why nothing is read of the body."""
        if self.path != self.server.path:
            return _refusal(HTTPStatus.NOT_FOUND, f"there is {self.server.path} and nothing else")
        if not self._is_meant(self.headers.get("Host", "")):
            return _refusal(HTTPStatus.MISDIRECTED_REQUEST, "the Host of the request is not this machine")
        if self.headers.get_content_type() != JSON:
            return _refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected Content-Type: {JSON}")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            return _refusal(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if int(length[:18]) > MAX_BODY_BYTES:
            return _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BODY_BYTES} bytes; send less at once")
        return None

    def _is_meant(self, host: str) -> bool:
        """Whether the request names this machine. A page of another site whose name leads here does not."""
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return self.server.address_family == socket.AF_UNIX or is_loopback(name)

    def _tell(self, reply: Reply) -> None:
        body = json.dumps({"status": int(reply.status), **reply.told}).encode() + b"\n"
        self.send_response(reply.status)
        self.send_header("Content-Type", JSON)
        self.send_header("Content-Length", str(len(body)))
        if reply.status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.send_header("Retry-After", "10")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """No line for each question."""


def _refusal(status: HTTPStatus, sentence: str) -> Reply:
    return Reply(status, {"error": sentence})
