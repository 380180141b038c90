"""The stream as a collector serves it: hello, an answer to each batch after the commit, goodbye."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import WSCloseCode, WSMsgType, web

from joulefleet.delivery import GOODBYE, MAX_WIRE_BYTES, STREAM_PATH, Answer, Hello, pack
from joulefleet.window import Window
from joulefleet_collector import stream as module
from joulefleet_collector.ingest import Ingest
from joulefleet_collector.rows import Row
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import StoreUnavailable
from joulefleet_collector.stream import Streams

Account = Callable[[Window], list[Row]]
AWindow = Callable[..., Window]


@pytest.fixture
def store(tmp_path: Path) -> Any:
    opened = EmbeddedStore(tmp_path, lambda: "epoch-1")
    yield opened
    opened.close()


class Held:
    """Accounting that has begun and goes on when it may."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, window: Window) -> list[Row]:
        self.begun.set()
        assert self.may_go_on.wait(30)
        return self._account(window)


@asynccontextmanager
async def streaming(store: Any, account: Account, now_ns: int) -> AsyncIterator[tuple[str, web.AppRunner]]:
    ingest = Ingest(store, account, lambda: now_ns)
    streams = Streams(ingest, lambda: "epoch-1", lambda: now_ns, random.Random(1))
    app = web.Application()
    app.router.add_get(STREAM_PATH, streams.serve)
    app.on_shutdown.append(streams.end)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", runner
    finally:
        await runner.cleanup()


async def hello_of(ws: aiohttp.ClientWebSocketResponse) -> Hello:
    return msgspec.json.decode(await ws.receive_bytes(timeout=10), type=Hello)


async def answer_of(ws: aiohttp.ClientWebSocketResponse, body: bytes) -> Answer:
    await ws.send_bytes(body)
    return msgspec.json.decode(await ws.receive_bytes(timeout=10), type=Answer)


async def test_batches_are_answered_in_order_after_the_commit(
    store: EmbeddedStore, account: Account, a_window: AWindow, start_ns: int
) -> None:
    async with (
        streaming(store, account, start_ns) as (url, _),
        aiohttp.ClientSession() as client,
        client.ws_connect(url + STREAM_PATH) as ws,
    ):
        hello = await hello_of(ws)
        assert (hello.store_epoch, hello.now_ns, hello.credit > 0) == ("epoch-1", start_ns, True)
        answer = await answer_of(ws, pack([a_window("a").encode(), b"\x80"], batch_id=9))
        assert (answer.id, answer.status, answer.store_epoch) == (9, 200, "epoch-1")
        assert [(one.index, one.code) for one in answer.rejected] == [(1, "malformed")]
        assert [one.server for one in store.windows(None, 0, 2**62)] == ["a"]
        assert (await answer_of(ws, pack([a_window("b").encode()], batch_id=10))).id == 10


async def test_what_is_no_batch_is_answered_and_the_stream_goes_on(
    store: EmbeddedStore, account: Account, a_window: AWindow, start_ns: int
) -> None:
    async with (
        streaming(store, account, start_ns) as (url, _),
        aiohttp.ClientSession() as client,
        client.ws_connect(url + STREAM_PATH) as ws,
    ):
        await hello_of(ws)
        assert (await answer_of(ws, b"nonsense")).status == 400
        assert (await answer_of(ws, pack([a_window().encode()], batch_id=2))).status == 200


async def test_a_store_that_is_down_is_503_and_nothing_is_kept(
    account: Account, a_window: AWindow, start_ns: int
) -> None:
    class Down:
        epoch = "e"

        def write(self, *_: object) -> int:
            raise StoreUnavailable("db", "gone", "bring it back")

    async with (
        streaming(Down(), account, start_ns) as (url, _),
        aiohttp.ClientSession() as client,
        client.ws_connect(url + STREAM_PATH) as ws,
    ):
        await hello_of(ws)
        answer = await answer_of(ws, pack([a_window().encode()], batch_id=5))
        assert (answer.id, answer.status) == (5, 503)


async def test_a_message_that_is_too_large_ends_the_stream(
    store: EmbeddedStore, account: Account, start_ns: int
) -> None:
    async with (
        streaming(store, account, start_ns) as (url, _),
        aiohttp.ClientSession() as client,
        client.ws_connect(url + STREAM_PATH) as ws,
    ):
        await hello_of(ws)
        await ws.send_bytes(b"x" * (MAX_WIRE_BYTES + 1))
        ended = await ws.receive(timeout=10)
        assert ended.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING)
        assert ws.close_code == WSCloseCode.MESSAGE_TOO_BIG


async def test_a_collector_that_ends_says_goodbye_with_a_spread(
    store: EmbeddedStore, account: Account, start_ns: int
) -> None:
    async with streaming(store, account, start_ns) as (url, runner), aiohttp.ClientSession() as client:
        async with client.ws_connect(url + STREAM_PATH) as ws:
            await hello_of(ws)
            ending = asyncio.ensure_future(runner.shutdown())
            closed = await ws.receive(timeout=10)
            await ending
        assert closed.data == WSCloseCode.GOING_AWAY
        assert closed.extra == f"{GOODBYE}1"


async def test_a_stream_ends_with_a_goodbye_when_it_has_lived_long_enough(
    store: EmbeddedStore, account: Account, start_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIFE_S", 0.01)
    async with (
        streaming(store, account, start_ns) as (url, _),
        aiohttp.ClientSession() as client,
        client.ws_connect(url + STREAM_PATH) as ws,
    ):
        await hello_of(ws)
        closed = await ws.receive(timeout=10)
        assert str(closed.extra).startswith(GOODBYE)


async def test_a_batch_that_is_under_way_is_answered_before_the_goodbye(
    store: EmbeddedStore, account: Account, start_ns: int, a_window: AWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(account)
    loop = asyncio.get_running_loop()
    lives: list[Callable[[], object]] = []
    real = loop.call_later

    def watched(delay: float, act: Callable[..., object], *args: Any, **context: Any) -> asyncio.TimerHandle:
        if delay > module.LIFE_S / 4:
            lives.append(lambda: act(*args))
        return real(delay, act, *args, **context)

    monkeypatch.setattr(loop, "call_later", watched)
    async with (
        streaming(store, held, start_ns) as (url, _),
        aiohttp.ClientSession() as client,
        client.ws_connect(url + STREAM_PATH) as ws,
    ):
        await hello_of(ws)
        await ws.send_bytes(pack([a_window().encode()], batch_id=3))
        assert await asyncio.to_thread(held.begun.wait, 30)
        (end_of_life,) = lives
        end_of_life()
        held.may_go_on.set()
        assert msgspec.json.decode(await ws.receive_bytes(timeout=10), type=Answer).id == 3
        assert str((await ws.receive(timeout=10)).extra).startswith(GOODBYE)


async def test_an_agent_that_goes_before_its_answer_is_no_fault(
    store: EmbeddedStore, account: Account, start_ns: int, a_window: AWindow, caplog: pytest.LogCaptureFixture
) -> None:
    held = Held(account)
    async with streaming(store, held, start_ns) as (url, _), aiohttp.ClientSession() as client:
        ws = await client.ws_connect(url + STREAM_PATH)
        await hello_of(ws)
        await ws.send_bytes(pack([a_window().encode()]))
        assert await asyncio.to_thread(held.begun.wait, 30)
        assert ws._response.connection is not None and ws._response.connection.transport is not None
        ws._response.connection.transport.abort()
        held.may_go_on.set()
        async with asyncio.timeout(30):
            while not list(store.windows(None, 0, 2**62)):
                await asyncio.sleep(0.01)
    assert not [one for one in caplog.records if one.exc_info]
