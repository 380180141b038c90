"""Reads the requests and tokens of an inference server from its metrics page, over HTTP.

Requirements: the server's metrics page can be reached from here. Nothing is installed for it.
"""

from typing import Annotated, Any

import msgspec

from joulefleet import (
    WHOLE,
    ConfigError,
    Engine,
    Failure,
    Meter,
    Reading,
    Reservation,
    Source,
    SourceUnavailable,
    typed,
)
from joulefleet.units import s_to_ns
from joulefleet_plugins.work.endpoint import BadUrl, Endpoint, NoAnswer, host_and_port, split
from joulefleet_plugins.work.exposition import BadPage, Parser
from joulefleet_plugins.work.table import Table, Unrecognised, read_page
from joulefleet_plugins.work.vllm import VLLM

TRIED = "faithful fake"
HERE = {"url": "http://127.0.0.1:8000/metrics"}
"""Its config where nobody wrote one: where vLLM's page is by default."""
TABLES: dict[str, Table] = {table.software: table for table in (VLLM,)}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts whose ports are this server's own; by any other name it may be a container or another server."""
ASK_VERSION_AGAIN_READS = 12
"""A server that did not tell its version is asked again after so many pages."""
MAX_VERSION_CHARACTERS = 100
DEADLINE_TIMEOUTS = 5
"""A page and a version take at most two timeouts each."""


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device on which the server runs, by its meter's id, and the part of it that is reserved."""

    meter: str
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One inference server."""

    url: str
    """Its metrics page, or only scheme, host and port."""
    software: str = "vllm"
    id: str = ""
    """Default: software and address."""
    devices: tuple[str | Device, ...] = ()
    """Meters of the devices it runs on; none means the whole server."""
    unit: str = ""
    """The unit of systemd (service or slice) in which it runs: tells its processes from those of other engines."""
    group: str = ""
    model: str = ""
    """Stands for the names that the page gives."""
    version_url: str = ""
    """Default: where this software tells it, on the same host and port."""
    period_s: Annotated[float, msgspec.Meta(ge=1)] = 5.0
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 3.0

    def __post_init__(self) -> None:
        meters = [one if isinstance(one, str) else one.meter for one in self.devices]
        if len(set(meters)) != len(meters):
            raise ValueError("a device is named twice in `devices`")


class OpenMetricsSource:
    """The metrics page of one inference server, which need not be up yet."""

    def __init__(self, config: Config, table: Table) -> None:
        """Raises BadUrl."""
        origin, path = split(config.url)
        version_origin, self._version_path = split(config.version_url) if config.version_url else (origin, "")
        self._version_path = self._version_path or table.version_path
        self._page_path = path if path.strip("/") else table.metrics_path
        self._server = Endpoint(origin, config.timeout_s)
        self._teller = self._server if version_origin == origin else Endpoint(version_origin, config.timeout_s)
        self._engine = _engine(config, table, origin)
        self._table = table
        self._parser = Parser()
        self._model = config.model
        self._version = ""
        self._version_of: str | None = None
        self._pages_since_asked = 0
        self.declares: tuple[Meter | Engine, ...] = (self._engine,)
        self.period_ns = self._engine.period_ns
        self.deadline_ns = s_to_ns(config.timeout_s) * DEADLINE_TIMEOUTS

    def read(self) -> list[Reading]:
        """The counters on the page now, or why they could not be read."""
        try:
            page = self._parser.read(*self._server.get(self._page_path))
            reading = read_page(page, self._table, self._engine.id, self._model)
        except (NoAnswer, BadPage, Unrecognised) as error:
            # What answers next may be another release.
            self._version_of = None
            return [Failure(subject=self._engine.id, code=error.code, detail=str(error))]
        return [msgspec.structs.replace(reading, version=self._told_version(reading.epoch))]

    def _told_version(self, epoch: str) -> str:
        """The version of the process that began then; asked once in its life, and again while it is not known."""
        self._pages_since_asked += 1
        unknown = not self._version and self._pages_since_asked >= ASK_VERSION_AGAIN_READS
        if epoch != self._version_of or unknown:
            self._version_of, self._pages_since_asked = epoch, 0
            self._version = self._ask_version()
        return self._version

    def _ask_version(self) -> str:
        if not self._version_path:
            return ""
        try:
            told = msgspec.json.decode(self._teller.get(self._version_path).content, type=dict[str, Any])
        except (NoAnswer, msgspec.DecodeError, RecursionError):
            # A page without a version counts as well; what did not answer is asked again later.
            return ""
        version = told.get(self._table.version_field)
        return version[:MAX_VERSION_CHARACTERS] if isinstance(version, str) else ""


def _engine(config: Config, table: Table, origin: tuple[str, str, int]) -> Engine:
    _, host, port = origin
    devices = [Device(meter=one) if isinstance(one, str) else one for one in config.devices]
    return Engine(
        id=config.id or f"{table.software}@{host_and_port(origin)}",
        software=table.software,
        group=config.group,
        port=port if host in LOOPBACK else 0,
        unit=config.unit,
        devices=tuple(Reservation(meter=one.meter, share_ppm=round(one.share * WHOLE)) for one in devices),
        period_ns=s_to_ns(config.period_s),
        counts_at_finish=table.counts_at_finish,
    )


def open(table: dict[str, Any]) -> Source:
    """A metrics page by its part of the config. Raises ConfigError, or SourceUnavailable where the URL is none."""
    config = typed(table, Config, "openmetrics")
    if config.software not in TABLES:
        raise ConfigError("openmetrics", "software", f"'{config.software}' is not known; one of {', '.join(TABLES)}")
    try:
        return OpenMetricsSource(config, TABLES[config.software])
    except BadUrl as error:
        raise SourceUnavailable(
            "bad_url", str(error), "write the server's address, as http://127.0.0.1:8000"
        ) from error
