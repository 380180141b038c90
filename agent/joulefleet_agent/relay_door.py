"""The relay's HTTP door: one question, answered to whoever has the server's token.

A thread for each connection, MOST_AT_ONCE of them at most, each for PATIENCE_S at most, however slowly its peer
speaks; one answer for each connection, so that idle agents hold no thread.
"""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from joulefleet.relaying import PATH, TYPE
from joulefleet.token import NOT_KNOWN, Keys, TokenRefused, check

LOG = logging.getLogger(__name__)
MOST_AT_ONCE = 64
PATIENCE_S = 10.0
LONGEST_NUMBER = 18

Tell = Callable[[str, str, int], bytes | None]
"""Answers a server, which says a life and the last number that it knows; None where nothing is relayed for it."""


class Refusal(Exception):
    """A question that is not answered: HTTP status and reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(status, reason)


class Access(NamedTuple):
    """Who may ask: without keys everyone who reaches the door, which is this machine."""

    keys: Keys | None
    now_s: Callable[[], float]

    def admit(self, token: str, server: str) -> None:
        """Let this server ask for itself, or raise Refusal."""
        if self.keys is None:
            return
        try:
            check(token, server, self.keys, self.now_s())
        except TokenRefused as refused:
            status = HTTPStatus.UNAUTHORIZED if refused.code in NOT_KNOWN else HTTPStatus.FORBIDDEN
            raise Refusal(status, str(refused)) from refused


class Door(ThreadingHTTPServer):
    """Listens once it is made; `serve_forever` answers until `shutdown`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        tell: Tell,
        access: Access,
        tls: ssl.SSLContext | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Raises OSError where it cannot listen there."""
        self.tell = tell
        self.access = access
        self._tls = tls
        self._patience_s = patience_s
        self._free = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._open: dict[socket.socket, float] = {}
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Answering)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        name = f"[{host!s}]" if ":" in str(host) else str(host)
        return f"{'https' if self._tls else 'http'}://{name}:{port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, or close it where there are too many."""
        if not self._free.acquire(blocking=False):
            LOG.warning("more than %d agents ask at once: one is sent away", MOST_AT_ONCE)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer; also the handshake is made here, where it holds no one else up."""
        request.settimeout(self._patience_s)
        secured = request
        if self._tls is not None:
            secured = self._tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        self._open[secured] = time.monotonic() + self._patience_s
        try:
            if isinstance(secured, ssl.SSLSocket):
                secured.do_handshake()
            super().finish_request(secured, client_address)
        finally:
            del self._open[secured]
            self.shutdown_request(secured)

    def service_actions(self) -> None:
        """Called about twice a second: end connections that take too long."""
        now_s = time.monotonic()
        for one, until_s in list(self._open.items()):
            if now_s > until_s:
                end(one)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that went away or speaks something else is no trouble of ours."""
        LOG.debug("no answer to %s", client_address, exc_info=True)


def end(connection: socket.socket) -> None:
    """Let whoever waits for this peer go on."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        LOG.debug("the connection had ended by itself")


class Answering(BaseHTTPRequestHandler):
    """One connection."""

    server: Door
    server_version = "joulefleet-relay"
    sys_version = ""

    def do_GET(self) -> None:
        """What this server may have."""
        try:
            status, kind, body = HTTPStatus.OK, TYPE, self._body()
        except Refusal as refusal:
            status, kind, body = refusal.status, "text/plain; charset=utf-8", f"{refusal.reason}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        parts = urlsplit(self.path)
        if parts.path != PATH:
            raise Refusal(HTTPStatus.NOT_FOUND, f"there is {PATH} and nothing else")
        asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        server, since = asked.get("server", ""), asked.get("since", "0")
        if not (since.isascii() and since.isdigit() and len(since) <= LONGEST_NUMBER):
            raise Refusal(HTTPStatus.BAD_REQUEST, "since: expected the number of the last answer")
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        self.server.access.admit(token.strip() if scheme.lower() == "bearer" else "", server)
        body = self.server.tell(server, asked.get("life", ""), int(since))
        if body is None:
            raise Refusal(HTTPStatus.NOT_FOUND, f"nothing is relayed for {server!r}: add it to `serves` of the relay")
        return body

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """No line for each question."""
