"""The collector as one process: builds its parts in order, listens, and ends cleanly when told to."""

import asyncio
import errno
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

from aiohttp import web

from joulefleet.window import Window
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.app import make_app
from joulefleet_collector.config import CollectorConfig
from joulefleet_collector.ingest import Ingest
from joulefleet_collector.rows import Row
from joulefleet_collector.store.embedded import FILE_NAME, EmbeddedStore
from joulefleet_collector.store.store import DAY_NS, Account, Store, StoreUnavailable

SHUTDOWN_S = 5.0
"""How long requests in hand may take to end."""


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


def under(policy: Policy) -> Account:
    """Accounting under this policy."""

    def accounted(window: Window) -> list[Row]:
        return account(window, policy)

    return accounted


def open_store(config: CollectorConfig) -> EmbeddedStore:
    """The store of this configuration. Raises StoreUnavailable."""
    return EmbeddedStore(config.data_dir, lambda: secrets.token_hex(8))


def check_present(config: CollectorConfig) -> None:
    """Raises StoreUnavailable where this configuration names a folder without a store."""
    if not (config.data_dir / FILE_NAME).exists():
        raise StoreUnavailable(
            str(config.data_dir), "there is no store here", "name the folder of the collector's data"
        )


async def serve(config: CollectorConfig, announce: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT; `announce` is told the address once it listens.

    Raises StoreUnavailable or CannotListen.
    """
    told_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_end.set)
    with closing(open_store(config)) as store:
        async with listening(config, store, under(config.policy), time.time_ns) as address:
            announce(address)
            await told_to_end.wait()


@asynccontextmanager
async def listening(
    config: CollectorConfig, store: Store, account: Account, now_ns: Callable[[], int]
) -> AsyncIterator[str]:
    """The collector's HTTP door, open while inside; gives its address. Raises CannotListen."""
    ingest = Ingest(store, account, now_ns, round(config.store.keep_windows_days * DAY_NS))
    app = make_app(store, ingest, now_ns)
    runner = web.AppRunner(app, auto_decompress=False, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        yield await _listen(runner, config.listen.host, config.listen.port)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> str:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
        raise CannotListen(host, port, reason) from error
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{runner.addresses[0][1]}"
