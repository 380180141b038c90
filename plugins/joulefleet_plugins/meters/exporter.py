"""Meters that an exporter shows already: dcgm-exporter, node_exporter, AMD's device-metrics-exporter, Kepler, others.

Reads the exporter's Prometheus page over HTTP, so that nothing here needs the driver or a right. What is on the page
tells which exporter it is and what there is; a board that comes later is declared then, and one that goes away stays
declared and fails. A board has the same identity here as with the driver's own source, which is the better one where
both are there: it is counted once.

Exporters collect at their own pace (dcgm-exporter every 30 s) and pages tell no times. So a page on which no value of
any meter has moved for long is `stale`.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from joulefleet import ConfigError, Engine, Failure, Meter, MeterReading, Reading, Source, SourceUnavailable, typed
from joulefleet.config import is_loopback
from joulefleet.units import ns_to_s, s_to_ns
from joulefleet_plugins.interfaces.endpoint import BadUrl, Endpoint, NoAnswer, split
from joulefleet_plugins.interfaces.exposition import BadPage, Page, Parser
from joulefleet_plugins.interfaces.kept_file import number_in, said
from joulefleet_plugins.interfaces.still import Still
from joulefleet_plugins.meters.exporter_pages import BOARDS, Told, meter_id
from joulefleet_plugins.meters.exporter_zones import Range, kepler, node_exporter

TRIED = "faithful fake"
WHERE = "source exporter"
POWERCAP = "/sys/class/powercap"
AMDGPU = "/sys/bus/pci/drivers/amdgpu"
SERIALS = ("serial_number", "unique_id")
"""Files of a board from which AMD's libraries take its serial number."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
METRICS = "/metrics"
EXPORTERS = ("all-smi", "amd", "dcgm", "habana", "kepler", "node", "triton")
BEGAN = ("node_boot_time_seconds", "process_start_time_seconds")
"""When the counters on the page may have begun anew, the first there is."""
SAME_START_S = 60
"""A boot's time is told anew each second by a clock that is being set: within this it is the same boot."""
STALE_S, STALE_REFRESHES = 300.0, 10
"""So long may all values of all meters stand still; real ones do not, however idle."""
DEADLINE_TIMEOUTS = 3
"""An answer takes at most two timeouts."""


class ExporterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One exporter's page."""

    url: str
    """Or only scheme, host and port: then its `/metrics`."""
    only: tuple[str, ...] = ()
    """Exporters whose rows count, where the page has those of several; all that are known if empty."""
    hostname: str = ""
    """The server whose rows count, where the page has those of several."""
    devices: dict[str, str] = {}
    """Identity of a board by its name on the page, where that is not its UUID: `{ SN-0 = "0000:c1:00.0" }`."""
    refresh_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """How often the exporter itself collects; its usual pace if left out."""
    amdgpu: str = AMDGPU
    """Folder that tells the PCI address of a board by its serial number, for an exporter on this server."""
    powercap: str = POWERCAP
    """Folder that tells at which value the counters of an exporter on this server wrap."""
    period_s: Annotated[float, msgspec.Meta(ge=1, le=30)] = 5.0
    """At most 30 s: the smallest counter of a processor can wrap in 68 s."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 3.0


class NotThese(Exception):
    """A page that is no page of this server's meters."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        """`unrecognised` or `several_servers`."""
        super().__init__(code, detail)
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


class Server(msgspec.Struct, frozen=True):
    """What this machine itself tells of the meters on the page of an exporter that runs on it."""

    boot_id: str = ""
    range_uj: Range = lambda folder: 0
    devices: dict[str, str] = {}
    """Identity of boards by serial number."""


class Life:
    """The life of the counters on a page, as far as the page tells it."""

    def __init__(self, boot_id: str) -> None:
        self._boot_id = boot_id
        self._began_s = 0.0

    def of(self, page: Page) -> str:
        """Changes when the exporter says that it, or its server, began anew."""
        rows = next((page.samples[name] for name in BEGAN if name in page.samples), [])
        if len(rows) == 1 and abs(rows[0].value - self._began_s) > SAME_START_S:
            self._began_s = rows[0].value
        return f"{self._boot_id}/{self._began_s:.0f}"


class ExporterSource:
    """The meters on one page."""

    def __init__(self, config: ExporterConfig, server: "Server", now_s: Callable[[], float]) -> None:
        """`now_s` is any clock that only rises. Raises BadUrl, NoAnswer, BadPage, NotThese."""
        origin, path = split(config.url)
        self._path = path if path.strip("/") else METRICS
        self._exporter = Endpoint(origin, config.timeout_s)
        self._parser = Parser()
        self._config, self._range_uj, self._now_s = config, server.range_uj, now_s
        self._devices = {**server.devices, **config.devices}
        self._life = Life(server.boot_id)
        self._meters: dict[str, Meter] = {}
        self.declares: tuple[Meter | Engine, ...] = ()
        self.period_ns = s_to_ns(config.period_s)
        self.deadline_ns = DEADLINE_TIMEOUTS * s_to_ns(config.timeout_s)
        _, told = self._ask()
        self._declare(told)
        slowest_s = max(ns_to_s(meter.refresh_ns) for meter in self._meters.values())
        self._still = Still(stale_s=max(STALE_S, STALE_REFRESHES * slowest_s))

    def read(self) -> list[Reading]:
        """Every meter once; a page that was not given, or is another's, is a failure of all of them."""
        try:
            page, told = self._ask()
        except (NoAnswer, BadPage, NotThese) as error:
            return [Failure(subject="", code=error.code, detail=str(error))]
        self._declare(told)
        if self._is_stale(told):
            return [Failure(subject="", code="stale", detail="no value on the page has moved for long")]
        life, by_id = self._life.of(page), {one.meter.id: one for one in told}
        return [_reading(meter, by_id.get(meter.id), life) for meter in self._meters.values()]

    def _ask(self) -> tuple[Page, list[Told]]:
        page = self._parser.read(*self._exporter.get(self._path))
        return page, tell(page, self._config, self._range_uj)

    def _declare(self, told: Sequence[Told]) -> None:
        """Take up what is new. What was declared stays as it is, unless a counter came or the driver is another."""
        for one in told:
            old, new = self._meters.get(one.meter.id), self._finished(one.meter)
            if old is None or (old.grade != "counter" and new.grade == "counter") or _other_driver(old, new):
                self._meters[new.id] = new
        self.declares = tuple(self._meters.values())

    def _finished(self, meter: Meter) -> Meter:
        refresh_s = self._config.refresh_s
        return msgspec.structs.replace(
            meter,
            device=self._devices.get(_name(meter), meter.device),
            refresh_ns=meter.refresh_ns if refresh_s is None else s_to_ns(refresh_s),
            period_ns=self.period_ns,
        )

    def _is_stale(self, told: Sequence[Told]) -> bool:
        digest = hash(tuple((one.counter_uj, one.power_mw, *one.gauges.values()) for one in told))
        return self._still.judge(self._now_s(), digest, stamp=str(digest)) == "stale"


def tell(page: Page, config: ExporterConfig, range_uj: Range) -> list[Told]:
    """What a page says of one server's meters. Raises NotThese."""
    wanted = config.only or EXPORTERS
    told = [one for row in BOARDS if row.exporter in wanted for one in row.tell(page)]
    told += node_exporter(page, range_uj) if "node" in wanted else []
    told += kepler(page, range_uj) if "kepler" in wanted else []
    if not told:
        raise NotThese("unrecognised", f"no meter of {', '.join(wanted)} is on the page")
    return _of_server(told, config.hostname)


def _of_server(told: list[Told], hostname: str) -> list[Told]:
    """Those of one server. Exporters may name it differently, or not at all."""
    mine = [one for one in told if not hostname or one.host in ("", hostname)]
    if not mine:
        raise NotThese("unrecognised", f"no meter of {hostname} is on the page, but of {_hosts(told)}")
    for exporter in EXPORTERS:
        its = [one for one in mine if one.meter.id.startswith(meter_id(exporter, ""))]
        if len({one.host for one in its}) > 1:
            raise NotThese("several_servers", f"the page tells of {_hosts(its)}: name one with `hostname`")
    return mine


def _hosts(told: Iterable[Told]) -> str:
    return ", ".join(sorted({one.host for one in told})[:5])


def _name(meter: Meter) -> str:
    """The name that the page has for it."""
    prefixes = (meter_id(exporter, "") for exporter in EXPORTERS)
    return next(meter.id.removeprefix(one) for one in prefixes if meter.id.startswith(one))


def _other_driver(old: Meter, new: Meter) -> bool:
    return new.driver not in ("", old.driver) and old.grade == new.grade


def _reading(meter: Meter, told: Told | None, life: str) -> Reading:
    if told is None:
        return Failure(subject=meter.id, code="row_missing", detail="it is not on the page any more")
    if (told.counter_uj if meter.grade == "counter" else told.power_mw) is None:
        return Failure(subject=meter.id, code="no_value", detail="the page has no value of it, or 0, NaN or a blank")
    return MeterReading(
        meter=meter.id,
        counter_uj=told.counter_uj,
        power_mw=told.power_mw,
        epoch=f"{life}/{meter.driver}",
        gauges=told.gauges,
    )


def _here(config: ExporterConfig) -> Server:
    powercap = Path(config.powercap)

    def range_uj(folder: str) -> int:
        return (number_in(powercap / folder / "max_energy_range_uj") or 0) if folder else 0

    return Server(said(BOOT_ID), range_uj, amd_boards(Path(config.amdgpu)))


def amd_boards(drivers: Path) -> dict[str, str]:
    """PCI address, function 0, of each AMD board in the folder of its driver, by serial number."""
    found: dict[str, str] = {}
    for folder in sorted(drivers.glob("*:*:*.*")):
        for serial in filter(None, (said(folder / file) for file in SERIALS)):
            found.setdefault(serial, f"{folder.name[:-1]}0")
    return found


def opened(table: dict[str, Any], now_s: Callable[[], float] = time.monotonic) -> ExporterSource:
    """The meters on a page, by a clock. Raises as `open`."""
    config = typed(table, ExporterConfig, WHERE)
    unknown = [name for name in config.only if name not in EXPORTERS]
    if unknown:
        raise ConfigError(WHERE, "only", f"'{unknown[0]}' is not known; there are {', '.join(EXPORTERS)}")
    try:
        server = _here(config) if is_loopback(split(config.url)[0][1]) else Server()
        return ExporterSource(config, server, now_s)
    except BadUrl as error:
        raise ConfigError(WHERE, "url", str(error)) from None
    except (NoAnswer, BadPage, NotThese) as error:
        mend = "start the exporter, or correct `url`; look at the page with curl"
        raise SourceUnavailable(error.code, f"{config.url}: {error}", mend) from error


def open(table: dict[str, Any]) -> Source:
    """The meters on an exporter's page.

    Raises ConfigError, and SourceUnavailable where it does not answer or the page shows no meter that is known.
    """
    return opened(table)
