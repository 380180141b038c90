"""Asks one HTTP server for a page, over a connection that is kept open between two questions."""

import http.client
import ssl
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

MAX_PAGE_BYTES = 8 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
PAGE = {"Accept": "text/plain;version=0.0.4, */*;q=0.1"}
DEFAULT_PORTS = {"http": 80, "https": 443}
# A server closes a connection that was idle (uvicorn: after 5 s), just when it is asked again.
STALE = (http.client.RemoteDisconnected, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


class Body(NamedTuple):
    """An answer's content and what it says it is."""

    content: bytes
    content_type: str


class NoAnswer(Exception):
    """A server that did not give the page."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        """`scrape_failed`, `timeout`, `http_status`, `too_large` or `truncated`."""
        self.detail = detail
        super().__init__(code, detail)

    def __str__(self) -> str:
        return self.detail


class BadUrl(ValueError):
    """A URL that cannot be asked."""


class Endpoint:
    """The server at one scheme, host and port. For one thread only."""

    def __init__(
        self,
        origin: tuple[str, str, int],
        timeout_s: float,
        now_s: Callable[[], float] = time.monotonic,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls` says which certificates are trusted; those of the system if it is None."""
        scheme, host, port = origin
        self.origin = origin
        self._timeout_s = timeout_s
        self._now_s = now_s
        self._connection = (
            http.client.HTTPSConnection(host, port, timeout=timeout_s, context=tls)
            if scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=timeout_s)
        )

    def get(self, target: str, headers: Mapping[str, str] = PAGE) -> Body:
        """What the server has under a path; takes at most twice the timeout. Raises NoAnswer."""
        until_s = self._now_s() + self._timeout_s
        try:
            with self._ask(target, headers, until_s) as response:
                return self._read(response, until_s)
        except BaseException as error:
            # Half an answer may still be on its way: this connection must not be used again.
            self._connection.close()
            if isinstance(error, TimeoutError):
                raise self._too_slow() from error
            if isinstance(error, http.client.IncompleteRead):
                raise NoAnswer("truncated", "the answer ends in the middle") from error
            if isinstance(error, OSError | http.client.HTTPException):
                raise NoAnswer("scrape_failed", f"{host_and_port(self.origin)}: {_words(error)}") from error
            raise

    def _ask(self, target: str, headers: Mapping[str, str], until_s: float) -> http.client.HTTPResponse:
        was_open = self._connection.sock is not None
        try:
            return self._ask_once(target, headers, until_s)
        except STALE:
            if not was_open:
                raise
            self._connection.close()
            return self._ask_once(target, headers, until_s)

    def _ask_once(self, target: str, headers: Mapping[str, str], until_s: float) -> http.client.HTTPResponse:
        self._connection.request("GET", target, headers=dict(headers))
        self._connection.sock.settimeout(self._left_s(until_s))
        return self._connection.getresponse()

    def _read(self, response: http.client.HTTPResponse, until_s: float) -> Body:
        _check_head(response)
        stated, content = response.length, bytearray()
        while (stated is None or len(content) < stated) and (some := response.read1(CHUNK_BYTES)):
            content += some
            if len(content) > MAX_PAGE_BYTES:
                raise _too_large()
            self._left_s(until_s)
        if stated is not None and len(content) < stated:
            raise NoAnswer("truncated", f"the answer ends after {len(content)} of {stated} bytes")
        return Body(bytes(content), response.headers.get("Content-Type", ""))

    def _left_s(self, until_s: float) -> float:
        left_s = until_s - self._now_s()
        if left_s <= 0:
            raise self._too_slow()
        return left_s

    def _too_slow(self) -> NoAnswer:
        return NoAnswer("timeout", f"{host_and_port(self.origin)} gave no whole answer in {self._timeout_s:g} s")


def split(url: str) -> tuple[tuple[str, str, int], str]:
    """Scheme, host and port of a URL, and its path with its query. Raises BadUrl."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadUrl(f"{url!r}: {error}") from error
    if parts.username is not None:
        # It is not told: there may be a password in it.
        raise BadUrl("a URL here holds no user and no password")
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise BadUrl(f"{url!r} is not like http://127.0.0.1:8000/metrics")
    if not url.isascii() or not url.isprintable() or " " in url or not _is_host(parts.hostname):
        raise BadUrl(f"{url!r} has characters or a name that no URL may have")
    return (parts.scheme, parts.hostname, DEFAULT_PORTS[parts.scheme] if port is None else port), _target(parts)


def host_and_port(origin: tuple[str, str, int]) -> str:
    """As written in a URL: `127.0.0.1:8000`, `[::1]:8000`."""
    _, host, port = origin
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_host(name: str) -> bool:
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


def _target(parts: SplitResult) -> str:
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _check_head(response: http.client.HTTPResponse) -> None:
    if response.status != 200:
        raise NoAnswer("http_status", _refusal(response))
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise NoAnswer("http_status", f"compressed as {encoding}, which was not asked for")
    if response.length is not None and response.length > MAX_PAGE_BYTES:
        raise _too_large()


def _refusal(response: http.client.HTTPResponse) -> str:
    to = response.headers.get("Location")
    return f"status {response.status} {response.reason}" + (f", to {to}: use that URL" if to else "")


def _too_large() -> NoAnswer:
    return NoAnswer("too_large", f"more than {MAX_PAGE_BYTES} bytes")


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
