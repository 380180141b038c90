"""Asks a BMC for its Redfish resources: one connection, one question at a time, logged in, and patient.

BMCs are slow, have room for a few sessions only, and lock accounts. So one connection is kept open; a session is made
once and given back at the end; where it has expired, the login is done once more, and a refused login is not repeated
for LOCKED_OUT_S. Where the BMC says when to come again, it is left alone until then. The password is read when it is
needed and kept nowhere; a connection is trusted before anything is sent over it.
"""

import base64
import contextlib
import hashlib
import http.client
import ssl
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import msgspec

from joulefleet import ConfigError

MAX_BODY_BYTES = 2 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
LOCKED_OUT_S = 600.0
"""Between two logins of which the first was refused: BMCs lock an account after a handful within minutes."""
LONGEST_PAUSE_S = 600.0
GOODBYE_S = 3.0
REDIRECTS = (301, 302, 303, 307, 308)
ROOT = "/redfish/v1/"
SESSIONS = "/redfish/v1/SessionService/Sessions"
# A BMC closes a connection that was idle just when it is asked again.
STALE = (
    *(http.client.RemoteDisconnected, ConnectionResetError, ConnectionAbortedError, BrokenPipeError),
    *(ssl.SSLEOFError, ssl.SSLZeroReturnError),
)

Origin = tuple[str, str, int]
"""Scheme, host and port."""


class NoAnswer(Exception):
    """The BMC did not give the resource. The text never holds the password or the session."""

    def __init__(self, code: str, detail: str, again_s: float = 0.0) -> None:
        self.code = code
        """`unreachable`, `timeout`, `tls`, `permission`, `busy`, `not_found`, `http_status`, `redirect`, `malformed`,
        `too_large` or `truncated`."""
        self.detail = detail
        self.again_s = again_s
        """Seconds before which it is of no use, or does harm, to ask again."""
        super().__init__(code, detail)

    def __str__(self) -> str:
        return self.detail


class Answer(NamedTuple):
    """A resource, and when the BMC gave it by its own clock, where that tells."""

    document: dict[str, Any]
    at: datetime | None


class Trust(NamedTuple):
    """What makes a BMC's certificate be believed: an authority, its own fingerprint, or nothing."""

    ca_file: str = ""
    fingerprint: str = ""
    """SHA-256 of the certificate, in hexadecimal small letters."""
    verify: bool = True


class Login(NamedTuple):
    """As whom to log in. The password is asked for each time."""

    user: str
    password: Callable[[], str]
    basic: bool = False
    """Whether the password goes with every question, for BMCs without sessions."""


class Link(msgspec.Struct, frozen=True):
    """A link to a resource."""

    path: str = msgspec.field(default=SESSIONS, name="@odata.id")


class Links(msgspec.Struct, frozen=True):
    """The links of the root."""

    sessions: Link = msgspec.field(default=Link(), name="Sessions")


class Root(msgspec.Struct, frozen=True):
    """What is needed of the service root."""

    links: Links = msgspec.field(default=Links(), name="Links")


class _Session:
    """What has to be given back to the BMC at the end."""

    token = ""
    path = ""


class Bmc:
    """The BMC at one address. For one thread only."""

    def __init__(
        self,
        origin: Origin,
        trust: Trust,
        login: Login | None,
        timeout_s: float,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timeout_s` bounds everything from one `begin` to the next. Raises ConfigError for a CA file that is none."""
        self.origin = origin
        self._login = login
        self._timeout_s = timeout_s
        self._now_s = now_s
        self._connection = _connection(origin, trust, timeout_s)
        self._session = _Session()
        self._until_s = now_s() + timeout_s
        self._not_before_s = now_s()
        self._pause = NoAnswer("busy", "")
        self._goodbye = weakref.finalize(self, _log_out, origin, trust, self._session)

    def begin(self) -> None:
        """One more poll: from now on it may take `timeout_s`. Raises NoAnswer where the BMC is to be left alone."""
        self._until_s = self._now_s() + self._timeout_s
        left_s = self._not_before_s - self._now_s()
        if left_s > 0:
            raise NoAnswer(self._pause.code, self._pause.detail, left_s)

    def get(self, path: str) -> Answer:
        """The resource at this path. Raises NoAnswer, and ConfigError where the password cannot be had."""
        self._log_in_if_needed()
        try:
            return self._get(path)
        except _LoginNeeded:
            expired, self._session.token = self._session.token, ""
        if not expired:
            raise self._locked_out(f"{path}: the BMC does not accept the login")
        self._log_in_if_needed()
        try:
            return self._get(path)
        except _LoginNeeded:
            raise self._locked_out(f"{path}: the BMC does not accept the login") from None

    def close(self) -> None:
        """Log out and close the connection."""
        self._connection.close()
        self._goodbye()

    def _get(self, path: str) -> Answer:
        response, body = self._exchange("GET", path, self._headers(), None)
        if response.status in REDIRECTS:
            response, body = self._exchange("GET", self._redirected(path, response), self._headers(), None)
        if response.status == 401:
            raise _LoginNeeded
        self._check(path, response)
        try:
            document = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            raise NoAnswer("malformed", f"{path}: {error or 'nested too deep'}") from None
        return Answer(document, _date(response))

    def _headers(self) -> dict[str, str]:
        if self._login is None:
            return {}
        if not self._login.basic:
            return {"X-Auth-Token": self._session.token}
        pair = f"{self._login.user}:{self._login.password()}".encode()
        return {"Authorization": "Basic " + base64.b64encode(pair).decode("ascii")}

    def _log_in_if_needed(self) -> None:
        if self._login is None or self._login.basic or self._session.token:
            return
        path = self._sessions()
        words = {"UserName": self._login.user, "Password": self._login.password()}
        headers = {"Content-Type": "application/json"}
        response, _ = self._exchange("POST", path, headers, msgspec.json.encode(words))
        if response.status in (400, 401, 403):
            raise self._locked_out(f"the BMC refuses the login of {self._login.user!r} with status {response.status}")
        self._check(path, response)
        token = response.headers.get("X-Auth-Token")
        if not token:
            raise NoAnswer("malformed", 'the BMC gave no session; for one without sessions: auth = "basic"')
        self._session.token = token
        self._session.path = urlsplit(response.headers.get("Location") or "").path

    def _sessions(self) -> str:
        """Where sessions are made, as the root says, which everybody may read."""
        response, body = self._exchange("GET", ROOT, {}, None)
        try:
            root = msgspec.json.decode(body, type=Root) if response.status == 200 else Root()
        except (msgspec.DecodeError, RecursionError):
            return SESSIONS
        path = root.links.sessions.path
        return path if path.startswith("/") and not path.startswith("//") else SESSIONS

    def _locked_out(self, detail: str) -> NoAnswer:
        return self._leave_alone("permission", detail, LOCKED_OUT_S)

    def _leave_alone(self, code: str, detail: str, for_s: float) -> NoAnswer:
        self._not_before_s = self._now_s() + for_s
        self._pause = NoAnswer(code, detail, for_s)
        return self._pause

    def _check(self, path: str, response: http.client.HTTPResponse) -> None:
        if response.status in (200, 201):
            return
        words = f"{path}: status {response.status} {response.reason}"
        if response.status in (429, 503):
            raise self._leave_alone("busy", words, _retry_after_s(response))
        if response.status == 403:
            raise NoAnswer("permission", f"{words}: the account may not read it")
        raise NoAnswer("not_found" if response.status in (404, 410) else "http_status", words)

    def _redirected(self, path: str, response: http.client.HTTPResponse) -> str:
        scheme, host, port = self.origin
        parts = urlsplit(urljoin(f"{scheme}://{host_and_port(self.origin)}{path}", response.headers.get("Location")))
        if (parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)) != (scheme, host, port):
            to = f"{parts.scheme}://{parts.netloc}"
            raise NoAnswer("redirect", f"{path}: the BMC sends to {to}, which is not followed")
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def _exchange(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """An answer and its content. Raises NoAnswer."""
        with self._translated():
            was_open = self._connection.sock is not None
            try:
                return self._exchange_once(method, path, headers, body)
            except STALE:
                if not was_open or method != "GET":
                    raise
                self._connection.close()
                return self._exchange_once(method, path, headers, body)

    def _exchange_once(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        self._connection.timeout = self._left_s()
        if self._connection.sock is None:
            self._connection.connect()
        self._connection.sock.settimeout(self._left_s())
        accepted = {"Accept": "application/json", "OData-Version": "4.0", **headers}
        self._connection.request(method, path, body, accepted)
        with self._connection.getresponse() as response:
            return response, self._content(path, response)

    def _content(self, path: str, response: http.client.HTTPResponse) -> bytes:
        content = bytearray()
        while some := response.read1(CHUNK_BYTES):
            content += some
            if len(content) > MAX_BODY_BYTES:
                raise NoAnswer("too_large", f"{path}: more than {MAX_BODY_BYTES} bytes")
            left_s = self._left_s()
            if self._connection.sock is not None:
                self._connection.sock.settimeout(left_s)
        if response.length:
            raise NoAnswer("truncated", f"{path}: the answer ends {response.length} bytes too soon")
        return bytes(content)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Every error of the connection as NoAnswer; after one the connection is not used again."""
        where = host_and_port(self.origin)
        try:
            yield
        except NoAnswer:
            self._connection.close()
            raise
        except TimeoutError:
            self._connection.close()
            raise NoAnswer("timeout", f"{where} gave no whole answer in {self._timeout_s:g} s") from None
        except STALE:
            self._connection.close()
            raise NoAnswer("unreachable", f"{where} closed the connection") from None
        except ssl.SSLError as error:
            self._connection.close()
            words = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
            raise NoAnswer("tls", f"{where}: {words}") from None
        except http.client.IncompleteRead:
            self._connection.close()
            raise NoAnswer("truncated", f"{where}: the answer ends in the middle") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            words = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoAnswer("unreachable", f"{where}: {words}") from None

    def _left_s(self) -> float:
        left_s = self._until_s - self._now_s()
        if left_s <= 0:
            raise TimeoutError
        return left_s


DEFAULT_PORTS = {"http": 80, "https": 443}


class _LoginNeeded(Exception):
    """Status 401: the session has expired, or the login does not hold."""


class _PinnedConnection(http.client.HTTPSConnection):
    """A connection that is trusted for its certificate's fingerprint, before anything is sent over it."""

    def __init__(self, host: str, port: int, timeout: float, fingerprint: str) -> None:
        super().__init__(host, port, timeout=timeout, context=_any_certificate())
        self._fingerprint = fingerprint

    def connect(self) -> None:
        super().connect()
        shown = hashlib.sha256(self.sock.getpeercert(binary_form=True) or b"").hexdigest()
        if shown != self._fingerprint:
            self.close()
            raise ssl.SSLError(0, f"the certificate has another fingerprint: {shown}")


def host_and_port(origin: Origin) -> str:
    """As written in a URL: `192.0.2.1:443`, `[::1]:443`."""
    _, host, port = origin
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def shown_fingerprint(origin: Origin, timeout_s: float) -> str:
    """SHA-256 of the certificate that is shown there now; empty where none is."""
    try:
        pem = ssl.get_server_certificate(origin[1:], timeout=timeout_s)
    except OSError:
        return ""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def _connection(origin: Origin, trust: Trust, timeout_s: float) -> http.client.HTTPConnection:
    scheme, host, port = origin
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    if trust.fingerprint:
        return _PinnedConnection(host, port, timeout_s, trust.fingerprint)
    try:
        context = ssl.create_default_context(cafile=trust.ca_file or None) if trust.verify else _any_certificate()
    except OSError as error:
        raise ConfigError("redfish", "ca_file", f"{trust.ca_file} cannot be used: {error.strerror or error}") from error
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _log_out(origin: Origin, trust: Trust, session: _Session) -> None:
    """Give the session back, over a connection of its own: the other may be in the middle of an answer."""
    if not session.token or not session.path.startswith("/"):
        return
    with contextlib.suppress(OSError, http.client.HTTPException, ConfigError):
        connection = _connection(origin, trust, GOODBYE_S)
        with contextlib.closing(connection):
            connection.request("DELETE", session.path, headers={"X-Auth-Token": session.token})
            connection.getresponse().read(CHUNK_BYTES)
    session.token = ""


def _date(response: http.client.HTTPResponse) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers.get("Date", ""))
    except (TypeError, ValueError):
        return None


def _retry_after_s(response: http.client.HTTPResponse) -> float:
    """Seconds for which the BMC wants to be left alone: as a number, or as a date by its own clock."""
    told = response.headers.get("Retry-After", "")
    with contextlib.suppress(ValueError):
        return min(max(float(told), 0.0), LONGEST_PAUSE_S)
    now, then = _date(response), None
    with contextlib.suppress(TypeError, ValueError):
        then = parsedate_to_datetime(told)
    return min(max((then - now).total_seconds(), 0.0), LONGEST_PAUSE_S) if now and then else 0.0
