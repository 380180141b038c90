"""Any web service that tells power or energy as JSON: one page, asked once a period, as the config describes it.

Where the values stand in it is told as output.py describes. The connection is kept between two questions. A redirect
is not followed, an answer is bounded in size and time, and a secret header is read from its file for each question, so
that a new one needs no restart.
"""

import ssl
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec

from joulefleet import ConfigError, Engine, Failure, Meter, Reading, Source, SourceUnavailable, typed
from joulefleet.secret import read_secret
from joulefleet.units import s_to_ns
from joulefleet_plugins.interfaces.endpoint import BadUrl, Endpoint, NoAnswer, split
from joulefleet_plugins.interfaces.output import Bound, MeterTable, Output, asks, bind, check, meters_of, read_all
from joulefleet_plugins.interfaces.quantity import BadOutput

TRIED = "faithful fake"
WHERE = "source http_json"
HEADERS = {"Accept": "application/json"}
DEADLINE_TIMEOUTS = 3
"""An answer takes at most two timeouts."""


class HttpJsonConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page and what it tells."""

    url: str
    meters: tuple[MeterTable, ...]
    headers: dict[str, str] = {}
    secret_headers: dict[str, str] = {}
    """Headers of which the file holds the value: `Authorization = "/etc/joulefleet/vendor.token"`."""
    ca_file: str = ""
    """Certificates to trust for `https`, the server's own among them if it signed itself; the system's if empty."""
    period_s: Annotated[float, msgspec.Meta(ge=0.1)] = 5.0
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 3.0


class Page:
    """One page of a server."""

    def __init__(self, config: HttpJsonConfig) -> None:
        """Raises ConfigError."""
        try:
            origin, self._path = split(config.url)
        except BadUrl as error:
            raise ConfigError(WHERE, "url", str(error)) from None
        self._config = config
        self._server = Endpoint(origin, config.timeout_s, tls=_trusted(config.ca_file))
        self._headers()

    def ask(self) -> Output:
        """What it tells now. Raises NoAnswer."""
        try:
            headers = self._headers()
        except ConfigError as error:
            raise NoAnswer("permission", str(error)) from error
        return Output(self._server.get(self._path or "/", headers).content)

    def _headers(self) -> dict[str, str]:
        secrets = {name: read_secret(path) for name, path in self._config.secret_headers.items()}
        return {**HEADERS, **self._config.headers, **secrets}


class HttpJsonSource:
    """The meters of one page."""

    def __init__(self, page: Page, bound: Sequence[Bound], config: HttpJsonConfig, now_ns: Callable[[], int]) -> None:
        """`now_ns` is the wall clock, to which times in the page are compared."""
        self.declares: tuple[Meter | Engine, ...] = meters_of(bound)
        self.period_ns = s_to_ns(config.period_s)
        self.deadline_ns = DEADLINE_TIMEOUTS * s_to_ns(config.timeout_s)
        self._page = page
        self._bound = bound
        self._now_ns = now_ns

    def read(self) -> list[Reading]:
        """Every meter once; a page that was not given is a failure of all of them."""
        try:
            return read_all(self._bound, self._page.ask(), self._now_ns())
        except NoAnswer as error:
            return [Failure(subject="", code=error.code, detail=error.detail)]


def _trusted(ca_file: str) -> ssl.SSLContext | None:
    if not ca_file:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(WHERE, "ca_file", f"{ca_file} cannot be used: {error.strerror or error}") from error


def opened(table: dict[str, Any], now_ns: Callable[[], int] = time.time_ns) -> HttpJsonSource:
    """The meters of a page, by a wall clock. Raises as `open`."""
    config = typed(table, HttpJsonConfig, WHERE)
    check(config.meters, WHERE)
    page = Page(config)
    try:
        first = page.ask() if asks(config.meters) else None
        bound = bind(config.meters, first, s_to_ns(config.period_s))
    except (NoAnswer, BadOutput) as error:
        mend = "ask it yourself; or name `ids` and `max_power_w` of each table, and it need not answer yet"
        # Behind the question mark there may be a key.
        raise SourceUnavailable(error.code, f"{config.url.partition('?')[0]}: {error.detail}", mend) from None
    return HttpJsonSource(page, bound, config, now_ns)


def open(table: dict[str, Any]) -> Source:
    """A page as a source.

    Raises ConfigError, and SourceUnavailable where it has to say which meters there are and does not answer.
    """
    return opened(table)
