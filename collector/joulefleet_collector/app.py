"""The collector's HTTP door: takes windows, answers questions, and says whether it is healthy and ready."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from joulefleet.delivery import (
    BATCH_PATH,
    JSON_TYPE,
    MAX_BATCH_BYTES,
    MAX_WIRE_BYTES,
    MSGPACK_TYPE,
    SMALL_BATCH_BYTES,
    STREAM_PATH,
    Answer,
    Batch,
    Opener,
    TooLarge,
    unpack,
    unpack_json,
)
from joulefleet.window import Window, decode, decode_json
from joulefleet_collector.answer.pipeline import answer_usage
from joulefleet_collector.answer.totals import Rules
from joulefleet_collector.api import BadQuestion, parse_export, parse_usage
from joulefleet_collector.asking import Asking
from joulefleet_collector.auth import OPEN, Gate, Refused, bearer
from joulefleet_collector.config import Role
from joulefleet_collector.explain.door import Explaining
from joulefleet_collector.ingest import Ingest
from joulefleet_collector.meters import answer_meters
from joulefleet_collector.metrics import Meters
from joulefleet_collector.operating import Operating
from joulefleet_collector.sorting import Decode
from joulefleet_collector.store.store import Store, StoreUnavailable
from joulefleet_collector.stream import REFUSALS, Streams

RETRY_AFTER_S = 10
EXPORT_PAGE = 100
"""Windows written to an export at a time."""
JSON_LINES_TYPE = "application/x-ndjson"
STATUSES: dict[type[Exception], int] = {**REFUSALS, BadQuestion: 400}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = logging.getLogger(__name__)


def make_app(  # noqa: PLR0913, PLR0917 # the parts of one door
    store: Store,
    ingest: Ingest,
    now_ns: Callable[[], int],
    gate: Gate = OPEN,
    role: Role = "all",
    rules: Rules = Rules(),  # noqa: B008 nobody changes it
) -> web.Application:
    """The application. Run it with aiohttp's own decompression off: a zstd frame is checked before it is opened."""
    asking = Asking()
    door = Door(store, ingest, now_ns, gate, asking, rules)
    app = web.Application(middlewares=[_answers_counted(ingest.meters)], client_max_size=MAX_BATCH_BYTES)
    streams = Streams(ingest, lambda: store.epoch, now_ns, random.SystemRandom(), gate)
    app.on_shutdown.append(streams.end)
    operating = Operating(store, ingest, now_ns, gate, asking)
    explaining = Explaining(store, rules, now_ns, gate, asking)
    takes, answers = role != "watch", role != "ingest"
    app.router.add_post(BATCH_PATH, door.take if takes else _takes_none)
    app.router.add_get(STREAM_PATH, streams.serve if takes else _takes_none)
    app.router.add_get(BATCH_PATH, door.export if answers else _answers_none)
    app.router.add_get("/v1/usage", door.usage if answers else _answers_none)
    app.router.add_get("/v1/explain", explaining.explain if answers else _answers_none)
    app.router.add_get("/v1/meters", door.meters if answers else _answers_none)
    app.router.add_get("/v1/agents", operating.agents if answers else _answers_none)
    app.router.add_post("/v1/agents/retire", operating.retire if answers else _answers_none)
    app.router.add_get("/metrics", operating.metrics if answers else operating.own_metrics)
    app.router.add_get("/-/healthy", door.healthy)
    app.router.add_get("/-/ready", door.ready)
    return app


async def _takes_none(_: web.Request) -> web.StreamResponse:
    # An agent keeps its windows and turns to its next collector.
    raise web.HTTPMisdirectedRequest(text="this collector has the role watch; send windows to one of the role ingest")


async def _answers_none(_: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound(text="this collector has the role ingest; ask the one of the role watch")


class Door:
    """The handlers of all routes."""

    def __init__(  # noqa: PLR0913, PLR0917 # the parts of one door
        self,
        store: Store,
        ingest: Ingest,
        now_ns: Callable[[], int],
        gate: Gate,
        asking: Asking,
        rules: Rules,
    ) -> None:
        self._store = store
        self._rules = rules
        self._ingest = ingest
        self._now_ns = now_ns
        self._gate = gate
        self._asking = asking
        self._opener = Opener()

    async def take(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/windows: answers after the store has committed."""
        _check_length(request)
        unpacked, reader = await self._read(request)
        self._gate.admit(_token(request), unpacked, reader is decode_json)
        return _answer(request, await self._ingest.take(unpacked, reader))

    async def _read(self, request: web.Request) -> tuple[Batch, Decode]:
        form = (request.content_type, request.headers.get("Content-Encoding", ""))
        body = await request.read()
        if form in ((MSGPACK_TYPE, "zstd"), (MSGPACK_TYPE, "")):
            if len(body) <= SMALL_BATCH_BYTES:
                return unpack(body, self._opener), decode
            return await asyncio.to_thread(unpack, body), decode
        if form in ((JSON_TYPE, "identity"), (JSON_TYPE, "")):
            return await asyncio.to_thread(unpack_json, body), decode_json
        raise web.HTTPUnsupportedMediaType(text=f"send {MSGPACK_TYPE} with Content-Encoding zstd, or plain {JSON_TYPE}")

    async def export(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/windows: JSON lines, one window each."""
        self._gate.read(_token(request), request.remote or "")
        asked = parse_export(request.query, self._now_ns())
        windows = self._store.windows(asked.server, asked.since_ns, asked.until_ns)
        page = await self._asking.done(_page, windows)
        response = web.StreamResponse(headers={"Content-Type": JSON_LINES_TYPE})
        await response.prepare(request)
        try:
            while page:
                await response.write(page)
                page = await self._asking.done(_page, windows)
        except ConnectionResetError:
            log.info("whoever asked for an export went away before its end")
        except StoreUnavailable as error:
            # The head is sent: only a broken connection can still say that the export is not whole.
            log.error("export broken off: %s", error)
            if request.transport:
                request.transport.abort()
        return response

    async def usage(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/usage: figures with their reasons, the ledger and the warnings."""
        self._gate.read(_token(request), request.remote or "")
        usage = await self._asking.done(self._usage, list(request.query.items()))
        return web.json_response(body=msgspec.json.encode(usage))

    def _usage(self, query: list[tuple[str, str]]) -> dict[str, object]:
        return answer_usage(self._store, parse_usage(query, self._now_ns()), self._rules)

    async def meters(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/meters: which meters of one server make up each boundary."""
        self._gate.read(_token(request), request.remote or "")
        found = await self._asking.done(answer_meters, self._store, request.query)
        return web.json_response(body=msgspec.json.encode(found))

    async def healthy(self, _: web.Request) -> web.StreamResponse:
        """GET /-/healthy: the process answers."""
        return web.json_response({"healthy": True})

    async def ready(self, _: web.Request) -> web.StreamResponse:
        """GET /-/ready: a window sent now would be kept."""
        await asyncio.to_thread(self._store.check)
        return web.json_response({"ready": True})


def _token(request: web.Request) -> str:
    return bearer(request.headers.get("Authorization"))


def _check_length(request: web.Request) -> None:
    if request.content_length is None or "Transfer-Encoding" in request.headers:
        raise web.HTTPLengthRequired(text="say the length of the body in Content-Length; chunked bodies are not taken")
    limit = MAX_BATCH_BYTES if request.content_type == JSON_TYPE else MAX_WIRE_BYTES
    if request.content_length > limit:
        raise TooLarge(f"{request.content_length} bytes; at most {limit} are taken")


def _page(windows: Iterator[Window]) -> bytes:
    return b"".join(window.encode_json() + b"\n" for window in islice(windows, EXPORT_PAGE))


def _answer(request: web.Request, answer: Answer, headers: dict[str, str] | None = None) -> web.Response:
    if MSGPACK_TYPE in request.headers.get("Accept", ""):
        body, form = msgspec.msgpack.encode(answer), MSGPACK_TYPE
    else:
        body, form = msgspec.json.encode(answer), JSON_TYPE
    return web.Response(status=answer.status, body=body, content_type=form, headers=headers)


def _answers_counted(meters: Meters) -> Middleware:
    @web.middleware
    async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await _errors_told(request, handler)
        is_batch = request.path == BATCH_PATH and request.method == "POST"
        # A stream that is opened counts each of its batches itself.
        if is_batch or (request.path == STREAM_PATH and response.status >= 400):
            meters.answered(response.status, request.content_length or 0)
        return response

    return answered


async def _errors_told(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as an `Answer`, never a traceback."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        unknown = f"{request.method} {request.path} is none of this collector's requests: see docs/api.md"
        text = unknown if request.match_info.http_exception else error.text
        return _refusal(request, error.status, text or error.reason)
    except Refused as error:
        log.warning("%s %s from %s refused: %s", request.method, request.path, request.remote, error)
        return _refusal(request, error.status, str(error))
    except tuple(STATUSES) as error:
        log.warning("%s %s refused: %s", request.method, request.path, error)
        return _refusal(request, STATUSES[type(error)], str(error))
    except ConnectionError as error:
        # Whoever asked is gone: nobody reads this answer, and nothing is to be mended.
        return _refusal(request, 503, f"the connection ended: {error}")
    except Exception:  # a fault of ours: its sender gets a sentence, the log the rest
        log.exception("%s %s failed", request.method, request.path)
        return _refusal(request, 500, "the collector failed; its log says more")


def _refusal(request: web.Request, status: int, error: str) -> web.Response:
    later = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else None
    return _answer(request, Answer(status=status, error=error), later)
