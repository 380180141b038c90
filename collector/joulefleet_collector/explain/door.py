"""GET /v1/explain: answers in the threads of questions, one explanation at a time."""

import asyncio
from collections.abc import Callable

import msgspec
from aiohttp import web

from joulefleet_collector.answer.totals import Rules
from joulefleet_collector.asking import Asking
from joulefleet_collector.auth import Gate, bearer
from joulefleet_collector.explain.asked import parse_explain
from joulefleet_collector.explain.explanation import explain
from joulefleet_collector.store.store import Store


class Explaining:
    """The handler."""

    def __init__(self, store: Store, rules: Rules, now_ns: Callable[[], int], gate: Gate, asking: Asking) -> None:
        self._store = store
        self._rules = rules
        self._now_ns = now_ns
        self._gate = gate
        self._asking = asking
        # Each goes through many windows: reports must find a free thread beside it.
        self._one = asyncio.Semaphore(1)

    async def explain(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/explain: the windows, counters, methods, versions and policy behind one figure."""
        self._gate.read(bearer(request.headers.get("Authorization")), request.remote or "")
        asked = parse_explain(list(request.query.items()), self._now_ns())
        async with self._one:
            told = await self._asking.done(explain, self._store, self._rules, asked, self._now_ns())
        return web.json_response(body=msgspec.json.encode(told))
