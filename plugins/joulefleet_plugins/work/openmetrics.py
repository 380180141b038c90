"""Reads the requests and tokens of an inference server from its metrics page, over HTTP.

Requirements: the server's metrics page can be reached from here. Nothing is installed for it.
Which software's page it is, its metrics tell; until it was read once, its engine is `unknown`.
"""

import socket
from contextlib import suppress
from typing import Annotated, Any, Literal, NamedTuple
from uuid import uuid4

import msgspec

from joulefleet import (
    ConfigError,
    Engine,
    Failure,
    Meter,
    Reading,
    Source,
    SourceUnavailable,
    WorkKey,
    WorkReading,
    typed,
)
from joulefleet.units import s_to_ns
from joulefleet_plugins.interfaces.endpoint import BadUrl, Endpoint, NoAnswer, host_and_port, split
from joulefleet_plugins.interfaces.exposition import BadPage, Page, Parser
from joulefleet_plugins.work.batch_busy import BatchBusy
from joulefleet_plugins.work.one_process import OneProcess
from joulefleet_plugins.work.place import Place, placed
from joulefleet_plugins.work.recognise import TABLES, NotRecognised, recognise
from joulefleet_plugins.work.rises import Rises
from joulefleet_plugins.work.table import MAX_LABEL_CHARACTERS, Names, Table, Unrecognised, read_batches, read_page

TRIED = "faithful fake"
AUTO = "auto"
UNKNOWN = Table(software="unknown", counters={})
PATHS = tuple(dict.fromkeys(table.metrics_path for table in TABLES.values()))
"""Where the page may be, where only scheme, host and port are given."""
NO_READING = (NoAnswer, BadPage, Unrecognised, NotRecognised)
SEVERAL = "several_processes"
SEVERAL_WORDS = (
    "now one process answers at this address and now another, each with counts of its own: name each server's own"
    " page, or have the workers count together (PROMETHEUS_MULTIPROC_DIR)"
)
NOT_THERE = ("http_status", "malformed", "truncated", "unrecognised")
"""Answers after which it is looked for on another path."""
LOOPBACK = ("localhost", "::1")
"""Hosts whose ports are this server's own, beside 127.0.0.0/8, its name and its addresses; any other may be a container
or another server."""
ASK_VERSION_AGAIN_READS = 12
"""A server that did not tell its version is asked again after so many pages."""
MAX_VERSION_CHARACTERS = 100
DEADLINE_TIMEOUTS = 5
"""A page and a version take at most two timeouts each, and so does the page on each further path."""


class Config(Place, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One inference server, or a gateway before some."""

    url: str
    """Its metrics page, or only scheme, host and port."""
    software: str = AUTO
    """One of the tables that are known, or found out from the page."""
    table: Table | None = None
    """How a server that is not known tells its work."""
    count_at: Literal["", "engine", "gateway"] = ""
    """Whether its work is counted here (`gateway`) or at the engines behind it, of whose work this page tells only who
    it was for (`engine`). Default: a gateway's at the engines, any other's here."""
    id: str = ""
    """Default: software and address."""
    model: str = ""
    """Stands for the names that the page gives."""
    models: dict[str, str] = msgspec.field(default_factory=dict)
    """What the page calls a model, and what the engines call it; two names of one model are added up."""
    leave_out: tuple[str, ...] = ()
    """Models that only pass requests on to others of the same page (Triton's ensembles, Ray's ingress deployments)."""
    version_url: str = ""
    """Default: where this software tells it, on the same host and port."""
    period_s: Annotated[float, msgspec.Meta(ge=1)] = 5.0
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.table is not None and self.software not in (AUTO, self.table.software):
            raise ValueError(f"`software` is '{self.software}' and `table` is of '{self.table.software}'")
        if self.model and self.models:
            raise ValueError("`model` stands for every name, so that `models` would never be asked")


class Told(NamedTuple):
    """What a server says of itself."""

    version: str
    key: WorkKey | None
    """Its model and revision, where not the page but this tells them."""


NOTHING = Told("", None)


class OpenMetricsSource:
    """The metrics page of one inference server, which need not be up yet."""

    def __init__(self, config: Config, table: Table | None, life: str) -> None:
        """Without a table the page is asked whose it is. `life` is another at each start. Raises BadUrl."""
        self._origin, path = split(config.url)
        teller, self._version_path = split(config.version_url) if config.version_url else (self._origin, "")
        given = path if path.strip("/") else table.metrics_path if table else ""
        self._paths = (given,) if given else PATHS
        self._server = Endpoint(self._origin, config.timeout_s)
        self._teller = self._server if teller == self._origin else Endpoint(teller, config.timeout_s)
        self._config, self._table, self._auto = config, table or UNKNOWN, table is None
        self._names = Names(config.model, config.models)
        self._parser = Parser()
        self._busy, self._rises, self._life = BatchBusy(), Rises(), life
        self._one = OneProcess()
        self._told: Told | None = None
        self._recognised: tuple[tuple[str, ...], Table] | None = None
        self._told_of: str | None = None
        self._pages_since_asked = 0
        self.period_ns = s_to_ns(config.period_s)
        self.deadline_ns = s_to_ns(config.timeout_s) * (DEADLINE_TIMEOUTS + 2 * (len(self._paths) - 1))
        self._declare()
        if self._auto:
            with suppress(*NO_READING):
                self._page()

    def _declare(self) -> None:
        self._engine = _engine(self._config, self._table, self._origin)
        self.declares: tuple[Meter | Engine, ...] = (self._engine,)

    def read(self) -> list[Reading]:
        """The counters on the page now, or why they could not be read."""
        try:
            page, table = self._page()
            reading = self._reading(page, table)
        except NO_READING as error:
            # What answers next may be another release.
            self._told_of = None
            return [Failure(subject=self._engine.id, code=error.code, detail=str(error))]
        if not self._one.is_one(reading.epoch, done_in_all(reading)):
            return [Failure(subject=self._engine.id, code=SEVERAL, detail=SEVERAL_WORDS)]
        return [self._named(reading, table)]

    def _reading(self, page: Page, table: Table) -> WorkReading:
        rises = self._rises if table.gathered else None
        reading = read_page(page, table, self._engine.id, self._names, rises)
        if table.gathered:
            reading = msgspec.structs.replace(reading, epoch=self._life)
        if table.batched is not None:
            busy_ns = self._busy.feed(read_batches(page, table, self._names))
            counts = {
                key: msgspec.structs.replace(one, busy_ns=busy_ns.get(key)) for key, one in reading.counts.items()
            }
            reading = msgspec.structs.replace(reading, counts=counts)
        if not self._config.leave_out:
            return reading
        kept = {key: one for key, one in reading.counts.items() if key.model not in self._config.leave_out}
        latency = {key: one for key, one in reading.latency.items() if key in kept}
        return msgspec.structs.replace(reading, counts=kept, latency=latency)

    def _page(self) -> tuple[Page, Table]:
        """The page and whose it is; what is declared follows it."""
        if not self._auto:
            return self._get(self._paths[0]), self._table
        page, table, path = self._find()
        if table is not self._table:
            self._table, self._told_of = table, None
            self._declare()
        # Where it was found it is looked for first.
        self._paths = (path, *(one for one in self._paths if one != path))
        return page, table

    def _find(self) -> tuple[Page, Table, str]:
        """The page on the first path where one is recognised. Raises the first reason for which none was."""
        reasons: list[NoAnswer | BadPage | NotRecognised] = []
        for path in self._paths:
            try:
                page = self._get(path)
                return page, self._whose(page), path
            except (NoAnswer, BadPage, NotRecognised) as error:
                reasons.append(error)
                if error.code not in NOT_THERE:
                    break
        # A page that was there says more than one that was not.
        raise next((error for error in reasons if error.code != "http_status"), reasons[0])

    def _whose(self, page: Page) -> Table:
        """Whose page it is; looked for anew only where it has other metrics than the last one. Raises NotRecognised."""
        metrics = (*page.samples, *page.types)
        if self._recognised is None or self._recognised[0] != metrics:
            self._recognised = metrics, recognise(page)
        return self._recognised[1]

    def _get(self, path: str) -> Page:
        return self._parser.read(*self._server.get(path))

    def _named(self, reading: WorkReading, table: Table) -> Reading:
        """The reading with the version, and the model where the page names none."""
        told = self._tell(reading.epoch, table)
        if not table.model_fields or all(key.model for key in reading.counts):
            return msgspec.structs.replace(reading, version=told.version)
        if told.key is None:
            # Told later, it would seem another model, whose counts all came at once.
            words = f"{table.software} does not say at {self._version_path or table.version_path} which model it serves"
            return Failure(subject=self._engine.id, code="model_unknown", detail=f"{words}; write it as `model`")
        model: WorkKey = told.key
        return msgspec.structs.replace(
            reading,
            version=told.version,
            counts={key if key.model else model: counts for key, counts in reading.counts.items()},
            latency={key if key.model else model: latency for key, latency in reading.latency.items()},
        )

    def _tell(self, epoch: str, table: Table) -> Told:
        """What the process that began then is; asked once in its life, and again while it is not known."""
        self._pages_since_asked += 1
        told = self._told or NOTHING
        wait = 1 if table.model_fields and told.key is None else ASK_VERSION_AGAIN_READS
        if epoch != self._told_of or (not told.version and self._pages_since_asked >= wait):
            again = epoch == self._told_of
            self._told_of, self._pages_since_asked = epoch, 0
            now = self._ask(table)
            told = self._told = now if now.key is not None or not again else told
        return told

    def _ask(self, table: Table) -> Told:
        path = self._version_path or table.version_path
        if not path:
            return NOTHING
        try:
            told = msgspec.json.decode(self._teller.get(path).content, type=dict[str, Any])
        except (NoAnswer, msgspec.DecodeError, RecursionError):
            # A page without a version counts as well; what did not answer is asked again later.
            return NOTHING
        model = next((name for field in table.model_fields if (name := _text(told, field))), "")
        return Told(
            _text(told, table.version_field)[:MAX_VERSION_CHARACTERS],
            WorkKey(self._names.of(model), _text(told, table.revision_field)),
        )


def _text(told: dict[str, Any], field: str) -> str:
    value = told.get(field)
    return value[:MAX_LABEL_CHARACTERS] if isinstance(value, str) else ""


def done_in_all(reading: WorkReading) -> int:
    """The tokens and requests of all keys together, which only rise while a process lives."""
    return sum((one.output_tokens or 0) + (one.requests_ok or 0) for one in reading.counts.values())


def _is_here(host: str) -> bool:
    if host in LOOPBACK or host.startswith("127.") or host == socket.gethostname():
        return True
    import psutil  # noqa: PLC0415 - only who names a server by another address loads it

    return any(host == one.address for several in psutil.net_if_addrs().values() for one in several)


def _engine(config: Config, table: Table, origin: tuple[str, str, int]) -> Engine:
    _, host, port = origin
    return Engine(
        id=config.id or f"{table.software}@{host_and_port(origin)}",
        software=table.software,
        front=config.count_at == "engine" or (table.front and config.count_at != "gateway"),
        port=port if _is_here(host) else 0,
        period_ns=s_to_ns(config.period_s),
        counts_at_finish=table.counts_at_finish,
        **placed(config)._asdict(),
    )


def open(table: dict[str, Any]) -> Source:
    """A metrics page by its part of the config. Raises ConfigError, or SourceUnavailable where the URL is none."""
    config = typed(table, Config, "openmetrics")
    if config.table is None and config.software not in (AUTO, *TABLES):
        names = ", ".join((AUTO, *TABLES))
        raise ConfigError("openmetrics", "software", f"'{config.software}' is not known; one of {names}")
    try:
        return OpenMetricsSource(config, config.table or TABLES.get(config.software), uuid4().hex)
    except BadUrl as error:
        raise SourceUnavailable(
            "bad_url", str(error), "write the server's address, as http://127.0.0.1:8000"
        ) from error
