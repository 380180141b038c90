"""The HTTP door on a real socket, as agents and people use it."""

import asyncio
import json
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import aiohttp.web
import msgspec
import pytest
import zstandard
from aiohttp.test_utils import make_mocked_request

from joulefleet.delivery import JSON_TYPE, MAX_BATCH_BYTES, MAX_WIRE_BYTES, MSGPACK_TYPE, Answer, pack
from joulefleet.units import NS_PER_S
from joulefleet.window import Window, decode_json
from joulefleet_collector.app import make_app
from joulefleet_collector.config import Role, configure
from joulefleet_collector.ingest import Ingest
from joulefleet_collector.rows import Row
from joulefleet_collector.service import listening
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import Question, Total

AWindow = Callable[..., Window]
Account = Callable[[Window], list[Row]]
PACKED = {"Content-Type": MSGPACK_TYPE, "Content-Encoding": "zstd"}
PLAIN = {"Content-Type": JSON_TYPE}


class Collector:
    """A collector that listens, and a client beside it."""

    def __init__(self, address: str, client: aiohttp.ClientSession, store: EmbeddedStore) -> None:
        self.address = address
        self.client = client
        self.store = store

    async def post(self, body: Any, **headers: str) -> tuple[int, Any]:
        async with self.client.post("/v1/windows", data=body, headers=headers) as response:
            return response.status, json.loads(await response.read())

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.client.get(path) as response:
            return response.status, json.loads(await response.read())


@pytest.fixture
async def collector(tmp_path: Path, account: Account, start_ns: int) -> AsyncIterator[Collector]:
    config = configure(None, str(tmp_path), 0)
    with closing(EmbeddedStore(tmp_path, lambda: "epoch-1")) as store:
        async with (
            listening(config, store, account, lambda: start_ns + 30 * NS_PER_S) as address,
            aiohttp.ClientSession(address) as client,
        ):
            yield Collector(address, client, store)


def plain(*windows: Window) -> bytes:
    return b'{"id":4,"windows":[' + b",".join(window.encode_json() for window in windows) + b"]}"


async def test_packed_and_plain_batches_give_the_same_sums(collector: Collector, a_window: AWindow) -> None:
    status, answer = await collector.post(pack([a_window("a").encode()], batch_id=3), **PACKED)
    assert (status, answer["id"], answer["store_epoch"], "rejected" in answer) == (200, 3, "epoch-1", False)
    status, answer = await collector.post(plain(a_window("b")), **PLAIN)
    assert (status, answer["id"]) == (200, 4)
    _, usage = await collector.get("/v1/usage?by=server")
    assert [(row["server"], row["joules_per_request"]) for row in usage["rows"]] == [("a", 60.0), ("b", 60.0)]


async def test_the_meters_of_one_server_are_told(collector: Collector, a_window: AWindow) -> None:
    await collector.post(plain(a_window("a")), **PLAIN)
    status, told = await collector.get("/v1/meters?server=a")
    assert (status, told["boundaries"][0]["boundary"], told["left_out"]) == (200, "server", [])
    status, told = await collector.get("/v1/meters")
    assert status == 400 and "/v1/meters?server=NAME" in told["error"]


async def test_a_batch_sent_again_counts_once(collector: Collector, a_window: AWindow) -> None:
    for _ in range(3):
        assert (await collector.post(pack([a_window().encode()] * 2), **PACKED))[0] == 200
    assert (await collector.get("/v1/usage"))[1]["rows"][0]["energy_j"] == 600.0


async def test_refused_windows_are_named_beside_the_others(collector: Collector, a_window: AWindow) -> None:
    newer = msgspec.structs.replace(a_window("b"), schema=2)
    bodies = [b"\x01", a_window(minute=2).encode(), a_window().encode(), newer.encode()]
    status, answer = await collector.post(pack(bodies), **PACKED)
    assert status == 200
    assert {one["index"]: one["code"] for one in answer["rejected"]} == {
        0: "malformed",
        1: "too_early",
        3: "wrong_schema",
    }


async def test_the_answer_is_msgpack_where_that_is_asked_for(collector: Collector, a_window: AWindow) -> None:
    headers = {**PACKED, "Accept": MSGPACK_TYPE}
    body = pack([a_window().encode()], batch_id=8)
    async with collector.client.post("/v1/windows", data=body, headers=headers) as response:
        assert response.content_type == MSGPACK_TYPE
        assert msgspec.msgpack.decode(await response.read(), type=Answer).id == 8


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", PACKED),
        (b"nothing like zstd", PACKED),
        (zstandard.compress(b"no msgpack"), PACKED),
        (zstandard.compress(msgspec.msgpack.encode({"windows": 5})), PACKED),
        (zstandard.ZstdCompressor(write_content_size=False).compress(b"\x80"), PACKED),
        (b"{", PLAIN),
        (b"[]", PLAIN),
        (b'{"windows": 5}', PLAIN),
        (b"[" * 100_000, PLAIN),
    ],
)
async def test_what_is_no_batch_is_400_with_the_reason(
    collector: Collector, body: bytes, headers: dict[str, str]
) -> None:
    status, answer = await collector.post(body, **headers)
    assert (status, answer["status"]) == (400, 400)
    assert "batch" in answer["error"] or "size" in answer["error"]


async def test_a_truncated_frame_is_400_at_every_cut(collector: Collector, a_window: AWindow) -> None:
    whole = pack([a_window().encode()])
    for cut in range(0, len(whole) - 1, 29):
        assert (await collector.post(whole[:cut], **PACKED))[0] == 400
    assert list(collector.store.windows(None, 0, 2**62)) == []


async def test_a_bomb_is_refused_before_it_is_opened(collector: Collector) -> None:
    bomb = zstandard.compress(bytes(MAX_BATCH_BYTES + 1))
    assert len(bomb) < 10_000
    status, answer = await collector.post(bomb, **PACKED)
    assert status == 413 and "after decompression" in answer["error"]


async def test_too_many_bytes_are_413(collector: Collector) -> None:
    assert (await collector.post(bytes(MAX_WIRE_BYTES + 1), **PACKED))[0] == 413
    assert (await collector.post(bytes(MAX_BATCH_BYTES + 1), **PLAIN))[0] == 413


async def test_other_types_are_415(collector: Collector) -> None:
    for headers in (
        {"Content-Type": "text/plain"},
        {**PACKED, "Content-Encoding": "br"},
        {**PLAIN, "Content-Encoding": "gzip"},
        {**PLAIN, "Content-Encoding": "zstd"},
    ):
        status, answer = await collector.post(b"{}", **headers)
        assert status == 415 and JSON_TYPE in answer["error"]


async def test_chunked_bodies_are_411(collector: Collector) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"{}"

    status, answer = await collector.post(chunks(), **PLAIN)
    assert status == 411 and "Content-Length" in answer["error"]


async def test_a_connection_cut_in_the_body_stores_nothing_and_hurts_nobody(
    collector: Collector, a_window: AWindow
) -> None:
    address = urlsplit(collector.address)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        b"POST /v1/windows HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{"
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await collector.post(plain(a_window()), **PLAIN))[0] == 200


async def test_a_full_store_is_503_with_a_time_to_wait_and_nothing_is_kept(
    collector: Collector, a_window: AWindow
) -> None:
    pages = collector.store._writer.execute("PRAGMA page_count").fetchone()[0]
    collector.store._writer.execute(f"PRAGMA max_page_count = {pages}")
    body = pack([a_window(f"s{number}").encode() for number in range(300)])
    async with collector.client.post("/v1/windows", data=body, headers=PACKED) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert "no space is left" in (await response.json())["error"]
    assert list(collector.store.windows(None, 0, 2**62)) == []
    collector.store._writer.execute("PRAGMA max_page_count = 100000")
    assert (await collector.post(body, **PACKED))[0] == 200


async def test_healthy_and_ready(collector: Collector) -> None:
    assert await collector.get("/-/healthy") == (200, {"healthy": True})
    assert await collector.get("/-/ready") == (200, {"ready": True})
    collector.store.path.unlink()
    assert (await collector.get("/-/healthy"))[0] == 200
    status, answer = await collector.get("/-/ready")
    assert status == 503 and answer["error"]


async def test_windows_are_exported_as_they_came(collector: Collector, a_window: AWindow) -> None:
    sent = [a_window(name, -minute) for minute in range(150) for name in "ab"]
    await collector.post(pack([one.encode() for one in sent]), **PACKED)
    async with collector.client.get("/v1/windows?since=all&server=b") as response:
        lines = (await response.read()).splitlines()
    back = [decode_json(line) for line in lines]
    assert sorted(back, key=lambda one: -one.start_ns) == [one for one in sent if one.server == "b"]
    async with collector.client.get("/v1/windows?server=nobody") as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_an_export_that_breaks_is_cut_off_and_never_looks_whole(collector: Collector, a_window: AWindow) -> None:
    bodies = [a_window("a", -minute).encode() for minute in range(250)]
    await collector.post(pack(bodies), **PACKED)
    collector.store._writer.execute(
        "UPDATE windows SET body = x'00' WHERE start_ns = (SELECT max(start_ns) FROM windows)"
    )
    with pytest.raises(aiohttp.ClientError):
        async with collector.client.get("/v1/windows?since=all") as response:
            await response.read()


async def test_whoever_leaves_in_the_midst_of_an_export_is_no_fault(
    collector: Collector, a_window: AWindow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(collector.store, "windows", lambda *_: repeat(a_window("a")))
    async with collector.client.get("/v1/windows?since=all") as response:
        await response.content.readline()
    async with asyncio.timeout(20):
        while "went away" not in caplog.text:
            await asyncio.sleep(0.01)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_bad_questions_are_400_and_unknown_paths_404_as_json(collector: Collector) -> None:
    assert (await collector.get("/v1/usage?by=modle"))[0] == 400
    assert "no time" in (await collector.get("/v1/usage?since=soon"))[1]["error"]
    assert (await collector.get("/v1/windows?x=1"))[0] == 400
    for path in ("/nowhere", "/v1/agents/retire"):
        _, answer = await collector.get(path)
        assert answer["status"] == (404 if path == "/nowhere" else 405)
        assert answer["error"].startswith(f"GET {path} is none of")
    async with collector.client.delete("/v1/windows") as response:
        assert (response.status, (await response.json())["status"]) == (405, 405)


async def test_a_fault_is_500_and_logged_and_never_a_traceback(
    tmp_path: Path, account: Account, a_window: AWindow, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> int:
        raise ZeroDivisionError("secret detail")

    config = configure(None, str(tmp_path), 0)
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as store, caplog.at_level(logging.ERROR):
        async with (
            listening(config, store, account, broken) as address,
            aiohttp.ClientSession(address) as client,
            client.post("/v1/windows", data=plain(a_window()), headers=PLAIN) as response,
        ):
            text = await response.text()
    assert (response.status, json.loads(text)["status"]) == (500, 500)
    assert "secret" not in text and "Traceback" not in text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("role", ["ingest", "watch"])
async def test_a_role_does_its_part_and_names_the_other_for_the_rest(
    tmp_path: Path, account: Account, a_window: AWindow, start_ns: int, role: Role
) -> None:
    config = msgspec.structs.replace(configure(None, str(tmp_path), 0), role=role)
    takes, answers = (role == "ingest", role == "watch")
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as store:
        async with (
            listening(config, store, account, lambda: start_ns) as address,
            aiohttp.ClientSession(address) as client,
        ):
            collector = Collector(address, client, store)
            status, answer = await collector.post(pack([a_window().encode()]), **PACKED)
            assert (status, "role ingest" in answer.get("error", "")) == ((200, False) if takes else (421, True))
            async with client.get("/v1/stream", headers={"Upgrade": "websocket"}) as response:
                assert (response.status == 421) is not takes
            for path in ("/v1/usage", "/v1/agents"):
                status, answer = await collector.get(path)
                assert (status, "role watch" in answer.get("error", "")) == ((200, False) if answers else (404, True))
            # The watch has no window of its own to tell of.
            assert (await collector.get("/v1/meters?server=a"))[0] == (404 if not answers else 200 if takes else 400)
            async with client.get("/v1/windows") as response:
                assert response.status == (200 if answers else 404)
            for path in ("/-/healthy", "/-/ready"):
                assert (await collector.get(path))[0] == 200
        assert len(list(store.windows(None, 0, 2**62))) == takes


async def test_questions_that_hang_hold_up_neither_windows_nor_the_answer_whether_it_is_ready(
    collector: Collector, a_window: AWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, asked = threading.Event(), threading.Semaphore(0)

    def hang(question: Question) -> list[Total]:
        asked.release()
        over.wait()
        return []

    monkeypatch.setattr(collector.store, "ask", hang)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        try:
            # More than asyncio's own pool has threads on any machine.
            for _ in range(50):
                group.create_task(collector.get("/v1/usage"))
            assert await asyncio.to_thread(asked.acquire, timeout=30)
            assert (await collector.get("/-/ready"))[0] == 200
            noise = {"noise": random.Random(1).randbytes(100_000).hex()}
            large = b'{"id":1,"windows":[%b,%b]}' % (a_window().encode_json(), json.dumps(noise).encode())
            assert (await collector.post(large, **PLAIN))[0] == 200
        finally:
            over.set()


async def test_a_peer_that_is_gone_before_its_answer_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def ends(_: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    with closing(EmbeddedStore(tmp_path, lambda: "e")) as store:
        app = make_app(store, Ingest(store, lambda _: [], lambda: 0), lambda: 0)
        (told,) = app.middlewares
        answer = await told(make_mocked_request("GET", "/v1/stream"), ends)
    assert answer.status == 503
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
