"""The stream: one WebSocket an agent, batches one way and answers the other, each after the store has committed.

A stream ends with a goodbye after a while, so that agents come to rest evenly on several collectors; the close frame
names the seconds over which they shall return, so that they do not come all at once.
"""

import asyncio
import random
from collections.abc import Callable

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from joulefleet.delivery import (
    GOODBYE,
    MAX_WIRE_BYTES,
    SMALL_BATCH_BYTES,
    Answer,
    Hello,
    Malformed,
    Opener,
    StreamOpener,
    TooLarge,
)
from joulefleet.window import decode
from joulefleet_collector.auth import OPEN, Gate, Refused, bearer
from joulefleet_collector.ingest import Busy, Ingest
from joulefleet_collector.store.store import StoreUnavailable

REFUSALS: dict[type[Exception], int] = {Malformed: 400, TooLarge: 413, Busy: 429, StoreUnavailable: 503}
"""The status of an answer to a batch that was not taken."""
CREDIT = 4
PING_S = 20.0
LIFE_S = 1_800.0
LIFE_SPREAD = 0.5
RETURNS_PER_S = 500
"""Agents that may come back in a second: a TLS handshake costs a core more than half a millisecond."""
LONGEST_SPREAD_S = 120
"""A spread for 60,000 agents; more return a little faster."""


_JSON = msgspec.json.Encoder()


class _Life(msgspec.Struct, gc=False):
    """How it stands with a stream: whether it has lived long enough, and whether it waits for a batch."""

    is_over: bool = False
    is_resting: bool = False


class Streams:
    """All open streams of this collector."""

    def __init__(
        self,
        ingest: Ingest,
        store_epoch: Callable[[], str],
        now_ns: Callable[[], int],
        chance: random.Random,
        gate: Gate = OPEN,
    ) -> None:
        self._ingest = ingest
        self._store_epoch = store_epoch
        self._now_ns = now_ns
        self._chance = chance
        self._gate = gate
        self._open: set[web.WebSocketResponse] = set()
        self._goodbyes: set[asyncio.Task[None]] = set()
        self._opener = Opener()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/stream: answer batches until the agent goes or the stream has lived long enough."""
        token = bearer(request.headers.get("Authorization"))
        self._gate.connect(token)
        stream = web.WebSocketResponse(heartbeat=PING_S, max_msg_size=MAX_WIRE_BYTES, compress=False)
        await stream.prepare(request)
        self._open.add(stream)
        self._ingest.meters.stream(1)
        try:
            hello = Hello(credit=CREDIT, store_epoch=self._store_epoch(), now_ns=self._now_ns())
            await stream.send_bytes(msgspec.json.encode(hello))
            await self._answer_all(stream, token)
        except ConnectionResetError:
            pass  # its agent is gone, and sends again what it was not answered
        finally:
            self._open.discard(stream)
            self._ingest.meters.stream(-1)
            await self._say_goodbye(stream)
        return stream

    async def end(self, _: web.Application) -> None:
        """The collector ends: say goodbye to every agent."""
        await asyncio.gather(*(self._say_goodbye(stream) for stream in list(self._open)))

    async def _answer_all(self, stream: web.WebSocketResponse, token: str) -> None:
        batches, life = StreamOpener(), _Life()
        life_s = LIFE_S * self._chance.uniform(1 - LIFE_SPREAD, 1 + LIFE_SPREAD)
        # One timer for the whole stream: to wait for each message with a time limit costs more than to read it.
        end = asyncio.get_running_loop().call_later(life_s, self._end_life, stream, life)
        try:
            while not life.is_over:
                life.is_resting = True
                message = await stream.receive()
                life.is_resting = False
                if message.type != WSMsgType.BINARY:
                    return
                answer = await self._answer(batches, message.data, token)
                self._ingest.meters.answered(answer.status, len(message.data))
                await stream.send_bytes(_JSON.encode(answer))
        finally:
            end.cancel()

    def _end_life(self, stream: web.WebSocketResponse, life: _Life) -> None:
        """The stream has lived long enough; a batch that is on its way is answered before the goodbye."""
        life.is_over = True
        if life.is_resting:
            goodbye = asyncio.get_running_loop().create_task(self._say_goodbye(stream))
            self._goodbyes.add(goodbye)
            goodbye.add_done_callback(self._goodbyes.discard)

    async def _answer(self, batches: StreamOpener, body: bytes, token: str) -> Answer:
        try:
            if len(body) <= SMALL_BATCH_BYTES:
                batch = batches.open(body, self._opener)
            else:
                batch = await asyncio.to_thread(batches.open, body, Opener())
        except (Malformed, TooLarge) as error:
            return Answer(status=REFUSALS[type(error)], error=str(error))
        try:
            self._gate.admit(token, batch, as_json=False)
            return await self._ingest.take(batch, decode)
        except Refused as error:
            return Answer(id=batch.id, status=error.status, error=str(error))
        except (Busy, StoreUnavailable) as error:
            return Answer(id=batch.id, status=REFUSALS[type(error)], error=str(error))

    async def _say_goodbye(self, stream: web.WebSocketResponse) -> None:
        spread_s = min(1 + len(self._open) // RETURNS_PER_S, LONGEST_SPREAD_S)
        await stream.close(code=WSCloseCode.GOING_AWAY, message=f"{GOODBYE}{spread_s}".encode())
