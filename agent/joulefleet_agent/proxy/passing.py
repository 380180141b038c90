"""Passes requests on to the server and its answers back, and notes what they tell."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple

import msgspec
from aiohttp import ClientConnectionResetError, ClientError, ClientResponse, web

from joulefleet_agent.proxy.asked import Route, asked_of, route_of
from joulefleet_agent.proxy.energy import Energy
from joulefleet_agent.proxy.exchange import Exchange
from joulefleet_agent.proxy.headers import ADDED, OF_ONE_REQUEST, passed
from joulefleet_agent.proxy.look import Look, Room
from joulefleet_agent.proxy.stream import Stream, form_of
from joulefleet_agent.proxy.tally import Tally
from joulefleet_agent.proxy.tenants import Tenants
from joulefleet_agent.proxy.upstream import Refused, Upstream

ENERGY = "X-Joulefleet-Energy-J"
NO_ANSWER = (502, 504)
BODY_S = 120.0
"""Between two parts of a request's body; who sends nothing for longer holds a connection that others need."""
PASSED: web.ResponseKey[frozenset[str]] = web.ResponseKey("passed", frozenset)
"""Names of the headers that an answer came with, in lower case."""


class Books(NamedTuple):
    """With what the proxy counts."""

    tally: Tally
    tenants: Tenants
    energy: Energy | None
    """None where no answer tells its energy."""
    now_ns: Callable[[], int]
    """A clock that no one sets."""


class Bounds:
    """How much the proxy takes on."""

    def __init__(self, max_connections: int, max_body_bytes: int, max_looked_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self.room = Room(max_looked_bytes)
        self.server: web.Server | None = None
        """Whose connections are counted, once it is there."""
        self._max_connections = max_connections

    @property
    def is_full(self) -> bool:
        """Whether there are more connections than there may be."""
        return self.server is not None and len(self.server.connections) > self._max_connections


class Proxy:
    """Handles every request of every client."""

    def __init__(self, upstream: Upstream, books: Books, bounds: Bounds) -> None:
        self._upstream, self._bounds = upstream, bounds
        self._tally, self._tenants, self._energy, self._now_ns = books

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request, from its head to the end of its answer."""
        try:
            self._check(request)
            route = route_of(request.method, request.raw_path.partition("?")[0])
            if route is None:
                return await self._pass(request)
            return await self._count(request, route)
        except Refused as refused:
            (self._tally.upstream if refused.status in NO_ANSWER else self._tally.refused)[refused.reason] += 1
            return _sentence(refused)

    def _check(self, request: web.Request) -> None:
        """Raises Refused."""
        if self._bounds.is_full:
            raise Refused(503, "full", "this proxy has as many connections as it may have; try again")
        if not request.raw_path.startswith("/"):
            raise Refused(400, "target", "this proxy serves one server: the request has to begin with its path")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            raise Refused(501, "upgrade", "this proxy passes no WebSocket")
        if (request.content_length or 0) > self._bounds.max_body_bytes:
            raise Refused(413, "too_large", f"the body has more than {self._bounds.max_body_bytes} bytes")

    async def _body(self, request: web.Request, first: bytes = b"") -> AsyncIterator[bytes]:
        """The body as it comes, after what was read of it. Raises Refused where it is too long."""
        size = len(first)
        if first:
            yield first
        while data := await self._next_of(request):
            size += len(data)
            if size > self._bounds.max_body_bytes:
                raise Refused(413, "too_large", f"the body has more than {self._bounds.max_body_bytes} bytes")
            yield data

    async def _next_of(self, request: web.Request) -> bytes:
        """What comes next of its body, empty at its end. Raises Refused where nothing comes for too long."""
        try:
            async with asyncio.timeout(BODY_S):
                return await request.content.readany()
        except TimeoutError as error:
            raise Refused(408, "slow", f"nothing came of the body for {BODY_S:g} s") from error

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        """A request that is not counted."""
        headers = passed(request.raw_headers, OF_ONE_REQUEST)
        body = self._body(request) if request.body_exists else None
        async with _closing(await self._upstream.ask(request, headers, body)) as response:
            answer = _answer(response)
            await answer.prepare(request)
            with self._whole_or_cut(request):
                await self._unread(response, answer)
            return answer

    async def _count(self, request: web.Request, route: Route) -> web.StreamResponse:
        exchange = Exchange(route, self._tenants.of(request.headers), self._now_ns)
        self._tally.running.add(exchange)
        try:
            return await self._exchange(request, route, exchange)
        except (asyncio.CancelledError, ConnectionError):
            exchange.gone = True
            raise
        finally:
            self._tally.running.discard(exchange)
            self._tally.end(exchange.model, exchange.tenant, exchange.ended())

    async def _exchange(self, request: web.Request, route: Route, exchange: Exchange) -> web.StreamResponse:
        async with _closing(await self._asked(request, route, exchange)) as response:
            exchange.begins(response.status)
            answer = _answer(response)
            form = form_of(response.headers.get("Content-Type", ""))
            with self._whole_or_cut(request, exchange):
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    await answer.prepare(request)
                    await self._unread(response, answer)
                elif form is None:
                    await self._whole(request, response, answer, exchange)
                else:
                    last = self._last(exchange) if form.has_comments else None
                    stream = Stream(form, exchange.heard, hides=exchange.hides, last=last)
                    await self._parts(request, response, answer, exchange, stream)
            return answer

    async def _asked(self, request: web.Request, route: Route, exchange: Exchange) -> ClientResponse:
        """The head of the server's answer. Raises Refused."""
        # What comes packed cannot be read on its way.
        headers = passed(request.raw_headers, OF_ONE_REQUEST | {"accept-encoding"})
        headers["Accept-Encoding"] = "identity"
        with Look(self._bounds.room) as look:
            async for data in self._body(request):
                if not look.add(data):
                    return await self._upstream.ask(request, headers, self._body(request, look.body + data))
            asked = asked_of(route, look.body)
            if not look.hold(len(asked.with_usage)):
                asked = asked._replace(with_usage=b"")
            exchange.asked_model = asked.model
            headers.popall("Content-Length", None)
            # It is kept until the answer begins, which may take as long as the server thinks.
            response, exchange.hides = await self._upstream.ask_for_usage(request, headers, asked)
            return response

    async def _unread(self, response: ClientResponse, answer: web.StreamResponse) -> None:
        async for data in response.content.iter_any():
            await answer.write(data)

    async def _parts(
        self,
        request: web.Request,
        response: ClientResponse,
        answer: web.StreamResponse,
        exchange: Exchange,
        stream: Stream,
    ) -> None:
        """An answer in parts, each of which goes on at once."""
        if exchange.hides or self._energy is not None:
            answer.headers.popall("Content-Length", None)
        await answer.prepare(request)
        async for data in response.content.iter_any():
            goes_on = stream.feed(data)
            exchange.heard_more()
            if goes_on:
                await answer.write(goes_on)
        rest = stream.finish()
        exchange.heard_more()
        if rest:
            await answer.write(rest)

    async def _whole(
        self, request: web.Request, response: ClientResponse, answer: web.StreamResponse, exchange: Exchange
    ) -> None:
        """An answer that is read at its end. It waits for that only where its energy is told before it."""
        waits = self._energy is not None
        with Look(self._bounds.room) as look:
            if not waits:
                await answer.prepare(request)
            async for data in response.content.iter_any():
                kept = look.add(data)
                if waits and not kept:
                    waits = False
                    await answer.prepare(request)
                    await answer.write(look.body)
                if not waits:
                    await answer.write(data)
            if look.is_whole:
                exchange.heard.hear(look.body)
            if waits:
                self._tell_energy(answer, exchange)
                await answer.prepare(request)
                await answer.write(look.body)

    def _tell_energy(self, answer: web.StreamResponse, exchange: Exchange) -> None:
        told = self._energy and self._energy.of(exchange.model, exchange.heard.tokens)
        if told and exchange.served:
            answer.headers[ENERGY] = told.header

    def _last(self, exchange: Exchange) -> Callable[[], bytes] | None:
        """What is put before the end of a stream of events."""
        energy = self._energy
        if energy is None or not exchange.served:
            return None

        def comment() -> bytes:
            told = energy.of(exchange.model, exchange.tokens)
            return told.comment(exchange.model) if told else b""

        return comment

    @contextmanager
    def _whole_or_cut(self, request: web.Request, exchange: Exchange | None = None) -> Iterator[None]:
        """Where the server's answer ends too early so does this one, that nobody takes it for whole."""
        try:
            yield
        except ClientConnectionResetError:
            raise  # it is the client that is gone
        except ClientError:
            self._tally.upstream["broken"] += 1
            if exchange is not None:
                exchange.broken = True
            if request.transport is not None:
                request.transport.close()


@asynccontextmanager
async def _closing(response: ClientResponse) -> AsyncIterator[ClientResponse]:
    """An answer whose connection is closed with the block, unless it was read to its end."""
    try:
        yield response
    finally:
        response.close()


def _answer(response: ClientResponse) -> web.StreamResponse:
    headers = passed(response.raw_headers)
    answer = web.StreamResponse(status=response.status, reason=response.reason, headers=headers)
    answer[PASSED] = frozenset(name.lower() for name in headers)
    return answer


async def drop_added(_request: web.Request, answer: web.StreamResponse) -> None:
    """Leave out of an answer what its server did not tell; called before each head is sent."""
    if PASSED in answer:
        for name in ADDED:
            if name.lower() not in answer[PASSED]:
                answer.headers.popall(name, None)


def _sentence(refused: Refused) -> web.Response:
    """As the API tells errors."""
    error = {"message": str(refused), "type": "joulefleet_proxy", "code": refused.reason}
    headers = {"Retry-After": "1"} if refused.status == 503 else {}
    answer = web.Response(
        status=refused.status,
        body=msgspec.json.encode({"error": error}),
        content_type="application/json",
        headers=headers,
    )
    if refused.status not in NO_ANSWER:
        # What is left of its body is not read.
        answer.force_close()
    return answer
