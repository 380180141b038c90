"""Meters of this server that only the management network reaches, as `joulefleet agent relay` there reads them.

Asks the relay's `GET /v1/readings` once a period for all that was read since. What is declared is declared there; each
reading comes with its age, so that no wall clock is compared. An agent that is away for up to 15 minutes loses nothing.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

import msgspec

from joulefleet import ConfigError, Engine, Failure, Meter, MeterReading, Reading, Source, SourceUnavailable, typed
from joulefleet.config import is_loopback
from joulefleet.relaying import MAX_BYTES, PATH, Answer, Bearing, WrongAnswer, decode
from joulefleet.secret import read_token
from joulefleet.units import s_to_ns

TRIED = "faithful fake"
TIMEOUT_S = 5.0
DEADLINE_NS = s_to_ns(12)
LEAST_PERIOD_NS = s_to_ns(1)
PORT = 8766
TOO_LARGE = 2**63
"""What a window cannot hold."""


class RelayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The source's part of the agent's config."""

    url: str
    """Of the relay: `https://relay.example:8766`."""
    server: str = ""
    """The name under which the relay serves this server; the host's name if empty."""
    token_file: str = ""
    """This server's token, as `joulefleet collector token` makes it."""
    ca: str = ""
    """PEM file with the authority of the relay's certificate; those of the system if empty."""


Ask = Callable[[str, int], Answer]
"""Asks the relay, with its life and the last number that is known. Raises SourceUnavailable."""


def boot_ns() -> int:
    """Nanoseconds since boot, time asleep included, as the agent counts them."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class RelaySource:
    """The meters that a relay has for this server."""

    deadline_ns = DEADLINE_NS

    def __init__(self, ask: Ask, now_ns: Callable[[], int] = boot_ns) -> None:
        """Raises SourceUnavailable where the relay does not answer, or has no meter for this server yet."""
        self._ask = ask
        self._now_ns = now_ns
        self._bearing = Bearing()
        self._life, self._number = "", 0
        answer = ask("", 0)
        if not answer.meters:
            code, detail = next(((one.code, one.detail) for one in answer.failures), ("absent", "its sources open"))
            raise SourceUnavailable(code, f"the relay has no meter for this server yet: {detail}")
        self.declares: tuple[Meter | Engine, ...] = answer.meters
        self.period_ns = _period_ns(answer.meters)

    def read(self) -> Sequence[Reading]:
        """All that was read since the last time, then what cannot be read now. Raises SourceUnavailable."""
        asked_ns = self._now_ns()
        answer = self._ask(self._life, self._number)
        came_ns = self._now_ns()
        if answer.life != self._life:
            self._bearing = Bearing()
        self._life, self._number = answer.life, answer.number
        ahead_ns = self._bearing.ahead_ns(asked_ns, came_ns, answer.at_ns)
        # Ages are told to the sampler from the middle of the read, which is where it puts it.
        later_ns = (asked_ns + came_ns) // 2 - (answer.at_ns + ahead_ns)
        # A relay that was started again has no meters until its sources are open: they are missed, not forgotten.
        if answer.meters:
            self.declares, self.period_ns = answer.meters, _period_ns(answer.meters)
        return [*(_judged(one, later_ns) for one in answer.readings), *answer.failures]


def _judged(one: MeterReading, later_ns: int) -> MeterReading | Failure:
    """A reading whose age is so much more, if it can be one."""
    told = [value for value in (one.counter_uj, one.power_mw) if value is not None]
    if not all(0 <= value < TOO_LARGE for value in told):
        return Failure(subject=one.meter, code="not_a_number", detail=f"the relay tells {told}")
    return msgspec.structs.replace(one, age_ns=one.age_ns + later_ns)


def _period_ns(meters: Sequence[Meter]) -> int:
    """As often as the most frequent of them is read there."""
    return max(min(one.period_ns for one in meters), LEAST_PERIOD_NS)


class Line:
    """The way to one relay; a connection for each question."""

    def __init__(self, parts: SplitResult, server: str, token: str, trust: ssl.SSLContext | None) -> None:
        self._place = parts.hostname or "", parts.port or PORT
        self._path = f"{parts.path.rstrip('/')}{PATH}"
        self._server = server
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._trust = trust

    def ask(self, life: str, since: int) -> Answer:
        """Ask for all after this number. Raises SourceUnavailable."""
        query = urlencode({"server": self._server, "life": life, "since": since})
        try:
            status, body = self._get(f"{self._path}?{query}")
        except (OSError, http.client.HTTPException) as error:
            host, port = self._place
            detail = f"{host}:{port}: {_why(error)}"
            raise SourceUnavailable("relay_unreachable", detail, _mend(error)) from error
        if status in (401, 403):
            mend = f"joulefleet collector token {self._server} --keys FILE, with the keys that the relay has"
            raise SourceUnavailable("permission", f"the relay refuses: {_reason(body)}", mend)
        if status != 200:
            raise SourceUnavailable("relay_failed", f"the relay answers {status}: {_reason(body)}")
        try:
            return decode(body)
        except WrongAnswer as error:
            raise SourceUnavailable("relay_failed", str(error)) from error

    def _get(self, target: str) -> tuple[int, bytes]:
        host, port = self._place
        connection = (
            http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=self._trust)
            if self._trust
            else http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        )
        try:
            connection.request("GET", target, headers=self._headers)
            response = connection.getresponse()
            body = response.read(MAX_BYTES + 1)
        finally:
            connection.close()
        if len(body) > MAX_BYTES:
            raise OSError(f"more than {MAX_BYTES} bytes")
        return response.status, body


def _why(error: Exception) -> str:
    """The reason alone: neither the system's number nor a line of somebody's source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _mend(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "name the file of the relay's certificate as `ca`, and the relay in `url` as its certificate does"
    if isinstance(error, ssl.SSLError | http.client.HTTPException):
        return "begin `url` with https:// where the relay has a certificate, with http:// where it has none"
    return "start `joulefleet agent relay` there, or correct `url`"


def _reason(body: bytes) -> str:
    return body[:200].decode(errors="replace").strip()


def _trust(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(ca, "", f"no certificates can be read there: {error}") from error


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named or parts.scheme not in ("http", "https") or parts.username is not None or parts.query:
        raise ConfigError("relay", "url", "expected a URL such as https://relay.example:8766")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ConfigError("relay", "url", "expected https: a token is not sent in clear text to another machine")
    return parts


def opened(config: RelayConfig, now_ns: Callable[[], int] = boot_ns) -> Source:
    """The source, with its way to the relay. Raises ConfigError and SourceUnavailable."""
    parts = _parts(config.url)
    token = read_token(config.token_file) if config.token_file else ""
    trust = _trust(config.ca) if parts.scheme == "https" else None
    return RelaySource(Line(parts, config.server or socket.gethostname(), token, trust).ask, now_ns)


def open(table: dict[str, Any]) -> Source:
    """The meters that a relay has for this server.

    Raises ConfigError, and SourceUnavailable where it does not answer or has none yet.
    """
    return opened(typed(table, RelayConfig, "relay"))
