"""The collector as one process: builds its parts in order, listens, and ends cleanly when told to."""

import asyncio
import errno
import gc
import os
import secrets
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from aiohttp import web

from joulefleet.config import ConfigError
from joulefleet.notify import ALIVE, READY, STOPPING, notify
from joulefleet.secret import read_secret
from joulefleet.token import load_keys
from joulefleet.units import ns_to_s
from joulefleet_collector.account.accounting import Accounting
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.answer.totals import Rules
from joulefleet_collector.app import make_app
from joulefleet_collector.auth import OPEN, SHORTEST_SECRET, Gate
from joulefleet_collector.config import Auth, CollectorConfig, Listen
from joulefleet_collector.ingest import Ingest
from joulefleet_collector.metrics import Meters
from joulefleet_collector.site_files import SiteFiles
from joulefleet_collector.store.embedded import FILE_NAME, EmbeddedStore
from joulefleet_collector.store.freshness import TOKEN_BITS
from joulefleet_collector.store.influx_config import InfluxConfig, from_environment
from joulefleet_collector.store.rolling import rolled_up
from joulefleet_collector.store.store import Account, Store, StoreUnavailable
from joulefleet_collector.store.trouble import told_clearly
from joulefleet_collector.store.upkeep import upkeep

if TYPE_CHECKING:
    from joulefleet_collector.store.influxdb import InfluxStore

ALIVE_EVERY_S = 10.0
SHUTDOWN_S = 5.0
"""How long requests in hand may take to end."""
BACKLOG = 4_096
"""Connections that may wait to be accepted: a fleet comes back at once."""
GC_THRESHOLDS = (200_000, 50, 100)
"""Thousands of connections are many objects that live long; looking through them often costs a third of the speed."""


class Part(NamedTuple):
    """What one of several processes has of a collector."""

    sockets: Sequence[socket.socket]
    """Bound to its address."""
    meters: Meters


class CannotListen(Exception):
    """The address is not to be had."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        self.host = host
        self.port = port
        self.reason = reason
        super().__init__(host, port, reason)

    def __str__(self) -> str:
        mend = "end what listens there or choose another with --port" if "in use" in self.reason else "choose another"
        return f"cannot listen on {self.host} port {self.port}: {self.reason}; {mend}"


def under(policy: Policy) -> Accounting:
    """Accounting under this policy."""
    return Accounting(policy)


def open_store(config: CollectorConfig) -> EmbeddedStore:
    """The store of this configuration. Raises StoreUnavailable."""
    return EmbeddedStore(config.data_dir, lambda: secrets.token_hex(8))


def opened(config: CollectorConfig, environment: Mapping[str, str]) -> tuple[Store, AbstractAsyncContextManager[None]]:
    """The store that is configured, and what has to go on in it while the collector runs.

    Raises StoreUnavailable, or ConfigError where the environment names no InfluxDB or two.
    """
    if config.store.kind == "embedded":
        store = open_store(config)
        return store, upkeep(lambda: store.prune(config.store.keep, time.time_ns()))
    influx = open_influx(config, environment)
    if config.role == "watch" and not influx.readable:
        influx.close()
        raise ConfigError("configuration", "role", "'watch' asks the store, and store.influxdb.read is false")
    makes_sums = influx.readable and config.role != "ingest"
    return influx, rolled_up(influx.roll_up) if makes_sums else nullcontext()


def open_influx(config: CollectorConfig, environment: Mapping[str, str]) -> "InfluxStore":
    """The InfluxDB of this configuration. Raises StoreUnavailable or ConfigError."""
    # influxdb-client costs 0.3 s and 40 MB, which a collector without an InfluxDB does not pay.
    from joulefleet_collector.store.influx_wire import Wire  # noqa: PLC0415 see above
    from joulefleet_collector.store.influxdb import InfluxStore  # noqa: PLC0415 see above

    where = influx_of(config, environment)
    with told_clearly(config.data_dir):
        config.data_dir.mkdir(parents=True, exist_ok=True)
    return InfluxStore(
        Wire(where), config.data_dir, lambda: secrets.token_hex(8), lambda: secrets.randbits(TOKEN_BITS), time.time_ns
    )


def influx_of(config: CollectorConfig, environment: Mapping[str, str]) -> InfluxConfig:
    """How the InfluxDB of this configuration is reached. Raises ConfigError."""
    return from_environment(config.store.influxdb, environment, "configuration and environment")


def check_present(config: CollectorConfig) -> None:
    """Raises StoreUnavailable where this configuration names a folder without a store."""
    if not (config.data_dir / FILE_NAME).exists():
        raise StoreUnavailable(
            str(config.data_dir), "there is no store here", "name the folder of the collector's data"
        )


def run(main: Coroutine[None, None, None]) -> None:
    """Run this to its end, on uvloop where there is one: it serves half as many requests more than asyncio's own."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(main)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        uvloop = import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    return cast("asyncio.AbstractEventLoop", uvloop.new_event_loop())


async def serve(config: CollectorConfig, announce: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT; `announce` is told the address once it listens.

    Raises StoreUnavailable or CannotListen.
    """
    told_to_end = ends_on_signal()
    store, keeping = opened(config, os.environ)
    with closing(store):
        async with keeping, listening(config, store, under(config.policy), time.time_ns) as address:
            collect_seldom()
            announce(address)
            notify(READY)
            await beat(lambda: notify(ALIVE), told_to_end)
            notify(STOPPING)


def rules_of(config: CollectorConfig) -> Rules:
    """What answers rest on under this configuration. Raises ConfigError where one of its files cannot be used."""
    return Rules(config.policy, SiteFiles(config.sites, config.fleet, config.embodied).now)


def ends_on_signal() -> asyncio.Event:
    """Set on SIGTERM or SIGINT."""
    told_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_end.set)
    return told_to_end


def collect_seldom() -> None:
    """What is there now stays, and what comes is seldom looked through for garbage."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def beat(tell: Callable[[], object], told_to_end: asyncio.Event) -> None:
    """Tell now, and again and again, that the loop runs, until told to end."""
    while not told_to_end.is_set():
        tell()
        with suppress(TimeoutError):
            await asyncio.wait_for(told_to_end.wait(), ALIVE_EVERY_S)


@asynccontextmanager
async def listening(
    config: CollectorConfig,
    store: Store,
    account: Account,
    now_ns: Callable[[], int],
    part: Part | None = None,
) -> AsyncIterator[str]:
    """The collector's HTTP door, open while inside; gives its address. Raises CannotListen or ConfigError.

    It opens where the configuration says, or as a part of a collector on what that part has.
    """
    sockets, meters = part or ((), None)
    elsewhere = config.store.kind == "influxdb" or config.workers > 1
    ingest = Ingest(
        store, account, now_ns, config.store.keep.windows_ns, store_works_elsewhere=elsewhere, meters=meters
    )
    app = make_app(store, ingest, now_ns, gate_of(config.auth, now_ns), config.role, rules_of(config))
    runner = web.AppRunner(app, auto_decompress=False, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        yield await _listen(runner, config.listen, sockets)
    finally:
        await runner.cleanup()


def gate_of(auth: Auth, now_ns: Callable[[], int]) -> Gate:
    """Who may write and read under this configuration. Raises ConfigError."""
    if not auth.key_file:
        return OPEN
    reader = read_secret(auth.read_token_file, SHORTEST_SECRET) if auth.read_token_file else ""
    operator = read_secret(auth.operator_token_file, SHORTEST_SECRET) if auth.operator_token_file else ""
    return Gate(load_keys(Path(auth.key_file)), reader, lambda: ns_to_s(now_ns()), operator)


def tls_of(listen: Listen) -> ssl.SSLContext | None:
    """The certificate with which the collector answers. Raises ConfigError."""
    if not listen.has_tls:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(listen.tls_certificate, listen.tls_key)
    except OSError as error:  # ssl.SSLError is one
        reason = f"{listen.tls_certificate} and its key cannot be used: {error.strerror or error}"
        raise ConfigError("configuration", "listen.tls_certificate", reason) from error
    return context


async def _listen(runner: web.AppRunner, listen: Listen, sockets: Sequence[socket.socket]) -> str:
    tls = tls_of(listen)
    for one in sockets:
        await web.SockSite(runner, one, backlog=BACKLOG, ssl_context=tls).start()
    if not sockets:
        try:
            await web.TCPSite(runner, listen.host, listen.port, backlog=BACKLOG, ssl_context=tls).start()
        except OSError as error:
            raise cannot_listen(listen, error) from error
    return url_of(listen, runner.addresses[0][1])


def cannot_listen(listen: Listen, error: OSError) -> CannotListen:
    """Why this address is not to be had."""
    reason = "the port is in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
    return CannotListen(listen.host, listen.port, reason)


def url_of(listen: Listen, port: int) -> str:
    """Where agents reach this collector."""
    name = f"[{listen.host}]" if ":" in listen.host else listen.host
    return f"{'https' if listen.has_tls else 'http'}://{name}:{port}"
