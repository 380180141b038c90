"""GET /v1/explain on a real socket: who may ask, one at a time, and what is refused."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import aiohttp
import aiohttp.web
import pytest

from joulefleet_collector.answer.totals import Rules
from joulefleet_collector.app import make_app
from joulefleet_collector.asking import Asking
from joulefleet_collector.auth import OPEN
from joulefleet_collector.explain import door
from joulefleet_collector.explain.door import Explaining
from joulefleet_collector.ingest import Ingest
from joulefleet_collector.store.store import Store

NO_STORE = cast("Store", None)
DEADLINE_S = 30.0


async def serving(app: aiohttp.web.Application) -> AsyncIterator[aiohttp.ClientSession]:
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        yield client
    await runner.cleanup()


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[aiohttp.ClientSession]:
    app = aiohttp.web.Application()
    explaining = Explaining(NO_STORE, Rules(), lambda: 0, OPEN, Asking())
    app.router.add_get("/v1/explain", explaining.explain)
    async for one in serving(app):
        yield one


async def test_one_explanation_at_a_time(client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most, go_on = 0, 0, threading.Event()
    began = threading.Semaphore(0)

    def slow(*_: Any) -> dict[str, Any]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        began.release()
        assert go_on.wait(DEADLINE_S)
        at_once -= 1
        return {}

    monkeypatch.setattr(door, "explain", slow)
    asked = [asyncio.ensure_future(client.get("/v1/explain?since=0&until=60")) for _ in range(3)]
    assert await asyncio.to_thread(began.acquire, timeout=DEADLINE_S)
    go_on.set()
    assert [(await one).status for one in asked] == [200] * 3
    assert most == 1


@pytest.mark.parametrize(
    ("query", "said"),
    [("figure=x", "'x' is no figure"), ("windows=many", "no whole number"), ("since=x", "'x' is no time")],
)
async def test_a_bad_question_is_400_in_a_sentence(query: str, said: str) -> None:
    ingest = Ingest(NO_STORE, cast("Callable[..., Any]", None), lambda: 0)
    async for client in serving(make_app(NO_STORE, ingest, lambda: 0)):
        async with client.get(f"/v1/explain?{query}") as response:
            assert response.status == 400
            assert said in json.loads(await response.read())["error"]
