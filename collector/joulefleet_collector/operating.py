"""What an operator asks of the collector and tells it: the agents, which of them are retired, and its own metrics."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Annotated, Generic, TypeVar

import msgspec
from aiohttp import web
from prometheus_client.core import Metric

from joulefleet.delivery import JSON_TYPE
from joulefleet_collector.api import BadQuestion
from joulefleet_collector.asking import Asking
from joulefleet_collector.auth import Gate, bearer
from joulefleet_collector.fleet import Fleet
from joulefleet_collector.ingest import Ingest
from joulefleet_collector.metrics import counted, of_fleet, page, process
from joulefleet_collector.store.store import Store, StoreUnavailable

FRESH_S = 10.0
"""How long a summary of the fleet stands: making one reads the newest row of every agent."""
PATIENCE_S = 2.0
"""How long a scrape waits for it; a store that does not answer must not hide the counts of its failures."""

T = TypeVar("T")
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Retirement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Servers that are gone for good, or with `undo` are not."""

    servers: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=10_000)]
    undo: bool = False


class Lately(Generic[T]):
    """The answer to a slow question of the store, asked at most once in FRESH_S."""

    def __init__(self, asking: Asking, ask: Callable[[], T]) -> None:
        self._threads = asking
        self._ask = ask
        self._asking: asyncio.Task[T] | None = None
        self._asked_s = 0.0

    async def answer(self) -> T | None:
        """The answer; None while the store gives none. Asked by one loop only."""
        loop = asyncio.get_running_loop()
        if self._asking is None or (self._asking.done() and loop.time() - self._asked_s > FRESH_S):
            self._asking, self._asked_s = loop.create_task(self._threads.done(self._ask)), loop.time()
        done, _ = await asyncio.wait([self._asking], timeout=PATIENCE_S)
        try:
            return self._asking.result() if done else None
        except StoreUnavailable:
            return None


class Operating:
    """The handlers."""

    def __init__(self, store: Store, ingest: Ingest, now_ns: Callable[[], int], gate: Gate, asking: Asking) -> None:
        self._store = store
        self._ingest = ingest
        self._now_ns = now_ns
        self._gate = gate
        self._fleet = Fleet(store, now_ns)
        self._asking = asking
        self._summary = Lately(asking, self._fleet.summary)

    async def agents(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/agents: who reports, who is silent; each `expected` names a server that should be there."""
        self._gate.read(_token(request), request.remote or "")
        found = await self._asking.done(self._fleet.listing, request.query.getall("expected", []))
        return web.json_response(body=msgspec.json.encode(found))

    async def retire(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/agents/retire: servers that are gone for good, or are not."""
        self._gate.operate(_token(request))
        # A page in a browser on this machine can send any other type without asking first.
        if request.content_type != JSON_TYPE:
            raise web.HTTPUnsupportedMediaType(text=f"send {JSON_TYPE}")
        try:
            asked = msgspec.json.decode(await request.read(), type=Retirement)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise BadQuestion(f'write {{"servers": ["NAME"], "undo": false}}: {error}') from error
        notes = await self._asking.done(self._fleet.take_back if asked.undo else self._fleet.retire, asked.servers)
        return web.json_response(body=msgspec.json.encode({"servers": asked.servers, "notes": notes}))

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """GET /metrics: what the collector counts, for Prometheus. It answers while the store does not."""
        self._gate.read(_token(request), request.remote or "")
        summary = await self._summary.answer()
        return self._page(request, of_fleet(summary, self._now_ns()) if summary else ())

    async def own_metrics(self, request: web.Request) -> web.StreamResponse:
        """GET /metrics of a collector that answers no questions: nor does it ask its store who reports."""
        self._gate.read(_token(request), request.remote or "")
        return self._page(request, ())

    def _page(self, request: web.Request, of_agents: Iterable[Metric]) -> web.Response:
        meters = self._ingest.meters
        told = [*process(meters.processes), *counted(meters, self._store), *of_agents]
        body, content_type = page(told, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})


def _token(request: web.Request) -> str:
    return bearer(request.headers.get("Authorization"))
