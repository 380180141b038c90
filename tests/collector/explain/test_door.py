"""GET /v1/explain on a real socket: who may ask, one at a time, and what is refused."""

import asyncio
import json
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


class Watched(Asking):
    """Threads of questions that count how many are asked at once, and answer when they are let."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once = 0
        self.let = asyncio.Event()

    async def done(self, work: Callable[..., Any], *_: object) -> Any:
        self.at_once += 1
        await self.let.wait()
        self.at_once -= 1
        return {}


async def test_one_explanation_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asking, came, all_came = Watched(), 0, asyncio.Event()

    def parsed(*_: Any) -> None:
        nonlocal came
        came += 1
        if came == 3:
            all_came.set()

    monkeypatch.setattr(door, "parse_explain", parsed)
    app = aiohttp.web.Application()
    app.router.add_get("/v1/explain", Explaining(NO_STORE, Rules(), lambda: 0, OPEN, asking).explain)
    async for client in serving(app):
        asked = [asyncio.ensure_future(client.get("/v1/explain")) for _ in range(3)]
        async with asyncio.timeout(DEADLINE_S):
            await all_came.wait()
        # Nothing is awaited between the parsing of a question and its turn.
        assert asking.at_once == 1
        asking.let.set()
        assert [(await one).status for one in asked] == [200] * 3


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
