"""The proxy as one process: builds its parts in order, listens, and ends when told to, with the answers in hand."""

import asyncio
import errno
import gc
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

from aiohttp import AddrInfoType, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from aiohttp.http_exceptions import HttpProcessingError

from joulefleet.config import ConfigError
from joulefleet.notify import ALIVE, READY, STOPPING, notify
from joulefleet.secret import read_secret
from joulefleet_agent.proxy.config import Place, ProxyConfig, place
from joulefleet_agent.proxy.energy import Energy
from joulefleet_agent.proxy.page import page
from joulefleet_agent.proxy.passing import Books, Bounds, Proxy, drop_added
from joulefleet_agent.proxy.tally import Tally
from joulefleet_agent.proxy.tenants import Tenants, kept_salt, load_tenants
from joulefleet_agent.proxy.upstream import Upstream

LOG = logging.getLogger(__name__)
ALIVE_EVERY_S = 10.0
BACKLOG = 4_096
GC_THRESHOLDS = (200_000, 50, 100)
"""Thousands of streams are many objects that live long; looking through them often makes each part wait."""
LOOK_EVERY_S, LOOK_SOON_S = 300.0, 5.0
"""Between two looks for a metrics page of the server behind; the shorter one while it does not answer."""
IDLE_S = 4.0
"""After which an unused connection to the server is closed: most servers close theirs after 5 s, and a request that
is sent just then would be lost."""
IDLE_CLIENT_S = 120.0
"""After which a client's connection without a whole head of a request is closed: there are only so many of them. Most
clients close theirs sooner, after 5 to 90 s."""
LINGER_S = 1.0
"""For how long the rest of a refused request is read, so that its client sees the answer."""
MOST_HEADERS = 256
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3))
"""A server that is silent may be thinking; one whose machine is gone is noticed after two minutes."""
AUTOMATIC = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
"""Headers that aiohttp adds to a request that has none."""


class Urls(NamedTuple):
    """Where the proxy is reached."""

    clients: str
    metrics: str


def run(main: Coroutine[None, None, None]) -> None:
    """Run this to its end, on uvloop where there is one."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(main)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        uvloop = import_module("uvloop")
    except ImportError:
        return asyncio.new_event_loop()
    return cast("asyncio.AbstractEventLoop", uvloop.new_event_loop())


async def serve(config: ProxyConfig, where: str, announce: Callable[[Urls], None]) -> None:
    """Run until SIGTERM or SIGINT; `announce` is told once it listens. Raises ConfigError."""
    told_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_end.set)
    async with proxying(config, where) as urls:
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        announce(urls)
        notify(READY)
        while not told_to_end.is_set():
            notify(ALIVE)
            with suppress(TimeoutError):
                await asyncio.wait_for(told_to_end.wait(), ALIVE_EVERY_S)
        notify(STOPPING)


@asynccontextmanager
async def proxying(config: ProxyConfig, where: str) -> AsyncIterator[Urls]:
    """The proxy, open while inside. With the block answers in hand may go on for a while. Raises ConfigError."""
    books = Books(Tally(), tenants_of(config), energy_of(config), time.monotonic_ns)
    bounds = Bounds(config.max_connections, config.max_body_bytes, config.max_looked_bytes)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(upstream_session(config))
        upstream = Upstream(config.to, session, books.now_ns)
        await stack.enter_async_context(beside(watch(upstream, books.tally)))
        if books.energy is not None:
            asking = await stack.enter_async_context(ClientSession())
            await stack.enter_async_context(beside(books.energy.keep(asking)))
        metrics = metrics_of(books.tally, time.time())  # noqa: TID251 - the page says when its counts began
        page_url = await stack.enter_async_context(listening(metrics, place(config.metrics, where, "metrics")))
        runner = runner_of(Proxy(upstream, books, bounds), config)
        url = await stack.enter_async_context(listening(runner, place(config.listen, where, "listen")))
        bounds.server = runner.server
        yield Urls(url, f"{page_url}/metrics")


@asynccontextmanager
async def beside(what: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """This runs on while inside."""
    task = asyncio.create_task(what)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def watch(upstream: Upstream, tally: Tally) -> None:
    """Note again and again whether the server behind counts its work itself, so that nobody counts it twice."""
    while True:
        shows = await upstream.shows_metrics()
        if shows is not None:
            tally.alone = not shows
        await asyncio.sleep(LOOK_SOON_S if shows is None else LOOK_EVERY_S)


def tenants_of(config: ProxyConfig) -> Tenants:
    """Who is who under this configuration. Raises ConfigError."""
    named = load_tenants(Path(config.tenants_file)) if config.tenants_file else {}
    return Tenants(kept_salt(config.salt_path), named, config.tenant_header)


def energy_of(config: ProxyConfig) -> Energy | None:
    """The collector's figures, where they are to be told. Raises ConfigError."""
    if not config.energy_from:
        return None
    token = read_secret(config.energy_token_file) if config.energy_token_file else ""
    return Energy(config.energy_from, config.energy_server, token, time.monotonic_ns)


def upstream_session(config: ProxyConfig) -> ClientSession:
    """Connections to the server: no bound but that of clients, no cookies, nothing unpacked, no limit of time."""
    connector = TCPConnector(limit=0, keepalive_timeout=IDLE_S, socket_factory=_kept_alive)
    return ClientSession(
        connector=connector,
        cookie_jar=DummyCookieJar(),
        timeout=ClientTimeout(total=None, sock_connect=config.connect_s),
        auto_decompress=False,
        skip_auto_headers=AUTOMATIC,
        max_line_size=config.max_header_bytes,
        max_field_size=config.max_header_bytes,
        max_headers=MOST_HEADERS,
    )


def _kept_alive(address: AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def runner_of(proxy: Proxy, config: ProxyConfig) -> web.AppRunner:
    """What clients speak to. What they send is told in no log."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    app.on_response_prepare.append(drop_added)
    logger = logging.getLogger(f"{__name__}.clients")
    logger.addFilter(_is_fault)
    settings: dict[str, Any] = {"max_line_size": config.max_header_bytes, "max_field_size": config.max_header_bytes}
    return web.AppRunner(
        app,
        handle_signals=False,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        logger=logger,
        max_headers=MOST_HEADERS,
        keepalive_timeout=IDLE_CLIENT_S,
        lingering_time=LINGER_S,
        shutdown_timeout=config.stop_s,
        **settings,
    )


def _is_fault(record: logging.LogRecord) -> bool:
    """Whether a record is of a fault of ours; what a client sent wrongly stands in the others, with its keys."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | ConnectionError)


def metrics_of(tally: Tally, began_s: float) -> web.AppRunner:
    """What the agent reads."""

    async def told(request: web.Request) -> web.Response:
        body, content_type = page(tally, began_s, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/metrics", told)
    return web.AppRunner(app, handle_signals=False, access_log=None)


@asynccontextmanager
async def listening(runner: web.AppRunner, at: Place) -> AsyncIterator[str]:
    """A server, open while inside; its URL. Raises ConfigError where the place is not to be had."""
    await runner.setup()
    try:
        await _start(runner, at)
        host, port = runner.addresses[0][:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def _start(runner: web.AppRunner, at: Place) -> None:
    try:
        await web.TCPSite(runner, at.host, at.port, backlog=BACKLOG).start()
    except OSError as error:
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise ConfigError(f"{at.host}:{at.port}", "", f"cannot listen there: {reason}") from error
