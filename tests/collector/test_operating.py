"""What an operator asks and tells, on a real socket."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from joulefleet.delivery import JSON_TYPE, MSGPACK_TYPE, STREAM_PATH, pack
from joulefleet.token import Keys, mint
from joulefleet.units import NS_PER_S
from joulefleet.window import Window
from joulefleet_collector import operating as module
from joulefleet_collector.account.accounting import Accounting
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.app import make_app
from joulefleet_collector.asking import Asking
from joulefleet_collector.auth import OPEN, Gate
from joulefleet_collector.config import Role
from joulefleet_collector.ingest import Ingest
from joulefleet_collector.operating import Lately
from joulefleet_collector.rows import Row
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import StoreUnavailable

AWindow = Callable[..., Window]
PACKED = {"Content-Type": MSGPACK_TYPE, "Content-Encoding": "zstd"}
KEY = b"k" * 32
GATED = Gate(Keys(keys={"k1": KEY}, least_generation={}), "a-reader's-token", lambda: 0, "an-operator's-token")


class Asked(EmbeddedStore):
    """The real store; counts what is asked of it, holds answers up, and is down on demand."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, lambda: "e")
        self.asked = 0
        self.down = False
        self.free = threading.Event()
        self.free.set()

    def heard(self) -> list[Row]:
        self.asked += 1
        self.free.wait(20)
        if self.down:
            raise StoreUnavailable("db", "gone", "bring it back")
        return super().heard()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Asked]:
    with closing(Asked(tmp_path)) as opened:
        yield opened


@asynccontextmanager
async def door(
    store: Asked, now_ns: int, gate: Gate = OPEN, role: Role = "all"
) -> AsyncIterator[aiohttp.ClientSession]:
    ingest = Ingest(store, Accounting(Policy()), lambda: now_ns)
    runner = aiohttp.web.AppRunner(make_app(store, ingest, lambda: now_ns, gate, role), auto_decompress=False)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
            yield client
    finally:
        store.free.set()
        await runner.cleanup()


async def scraped(client: aiohttp.ClientSession) -> dict[str, float]:
    async with client.get("/metrics") as response:
        assert response.status == 200
        text = await response.text()
    return {
        sample.name.removeprefix("joulefleet_collector_") + "".join(f" {one}" for one in sample.labels.values()): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_page_tells_what_was_taken_and_what_was_not(store: Asked, a_window: AWindow, start_ns: int) -> None:
    good = pack([a_window("a").encode(), a_window("b").encode(), b"\x80"])
    async with door(store, start_ns + 90 * NS_PER_S) as client:
        for body in (good, good, b"nonsense"):
            async with client.post("/v1/windows", data=body, headers=PACKED) as response:
                await response.read()
        async with client.ws_connect(STREAM_PATH) as ws:
            await ws.receive(timeout=10)
            for body in (pack([a_window("c").encode()]), b"nonsense"):
                await ws.send_bytes(body)
                await ws.receive(timeout=10)
            found = await scraped(client)
    assert (found["windows_accepted_total"], found["windows_known_total"]) == (3, 2)
    assert found["windows_refused_total malformed"] == 2
    assert (found["batches_total 200"], found["batches_total 400"]) == (3, 2)
    assert found["batch_bytes_total"] == 2 * len(good) + len(pack([a_window("c").encode()]))
    assert found["commit_duration_seconds_count"] == 3
    assert (found["streams_open"], found["batches_waiting"], found["batches_waiting_bytes"]) == (1, 0, 0)
    assert (found["agents ok"], found["agents silent"], found["newest_window_age_seconds"]) == (3, 0, 30)
    assert "set_aside_lines_total" not in found and "agents_spool_windows" not in found


async def test_tokens_that_are_refused_are_counted_and_a_stream_that_ends_is_not_open(
    store: Asked, a_window: AWindow, start_ns: int
) -> None:
    async with door(store, start_ns, GATED) as client:
        for token in ("nonsense", mint("k1", KEY, "b")):
            headers = {**PACKED, "Authorization": f"Bearer {token}"}
            async with client.post("/v1/windows", data=pack([a_window("a").encode()]), headers=headers) as response:
                await response.read()
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect(STREAM_PATH)
        async with client.ws_connect(STREAM_PATH, headers={"Authorization": "Bearer any"}) as ws:
            await ws.receive(timeout=10)
        async with asyncio.timeout(20):
            while (found := await scraped(client))["streams_open"]:
                await asyncio.sleep(0.01)
    assert (found["batches_total 401"], found["batches_total 403"], found["batches_total 200"]) == (2, 1, 0)


async def test_the_store_is_asked_once_for_many_scrapes(store: Asked, start_ns: int) -> None:
    async with door(store, start_ns) as client:
        await asyncio.gather(*(scraped(client) for _ in range(5)))
        await scraped(client)
    assert store.asked == 1


async def test_a_store_that_is_down_or_hangs_hides_the_agents_and_nothing_else(
    store: Asked, a_window: AWindow, start_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    monkeypatch.setattr(module, "FRESH_S", -1.0)
    async with door(store, start_ns + 90 * NS_PER_S) as client:
        async with client.post("/v1/windows", data=pack([a_window("a").encode()]), headers=PACKED) as response:
            assert response.status == 200
        store.free.clear()
        hanging = await scraped(client)
        store.free.set()
        store.down = True
        down = await scraped(client)
        store.down = False
        async with asyncio.timeout(20):
            while "agents ok" not in (again := await scraped(client)):
                await asyncio.sleep(0.01)
    for found in (hanging, down):
        assert found["windows_accepted_total"] == 1
        assert not [name for name in found if name.startswith(("agents", "newest"))]
    assert again["agents ok"] == 1


async def test_an_ingest_counts_and_leaves_the_agents_to_the_watch(
    store: Asked, a_window: AWindow, start_ns: int
) -> None:
    async with door(store, start_ns + 90 * NS_PER_S, role="ingest") as client:
        async with client.post("/v1/windows", data=pack([a_window("a").encode()]), headers=PACKED) as response:
            assert response.status == 200
        found = await scraped(client)
    assert (found["windows_accepted_total"], found["batches_total 200"]) == (1, 1)
    assert not [name for name in found if name.startswith(("agents", "newest"))]
    assert store.asked == 0


async def test_a_watch_tells_the_agents_and_the_batches_that_went_astray(
    store: Asked, a_window: AWindow, start_ns: int
) -> None:
    async with door(store, start_ns, role="watch") as client:
        async with client.post("/v1/windows", data=pack([a_window("a").encode()]), headers=PACKED) as response:
            assert response.status == 421
        found = await scraped(client)
    assert (found["windows_accepted_total"], found["batches_total 421"]) == (0, 1)
    assert (found["agents ok"], store.asked) == (0, 1)


async def test_a_fault_of_ours_is_not_hidden() -> None:
    def broken() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Lately(Asking(), broken).answer()


async def tell(client: aiohttp.ClientSession, body: object, **headers: str) -> tuple[int, Any]:
    sent = body if isinstance(body, bytes) else msgspec.json.encode(body)
    async with client.post("/v1/agents/retire", data=sent, headers={"Content-Type": JSON_TYPE, **headers}) as response:
        return response.status, msgspec.json.decode(await response.read())


async def status_of(client: aiohttp.ClientSession, query: str = "") -> dict[str, str]:
    async with client.get(f"/v1/agents?{query}") as response:
        answer = await response.json()
    return {one["server"]: one["status"] for one in answer["agents"]}


async def test_servers_are_retired_and_taken_back(store: Asked, a_window: AWindow, start_ns: int) -> None:
    async with door(store, start_ns + 3600 * NS_PER_S) as client:
        async with client.post("/v1/windows", data=pack([a_window("a").encode()]), headers=PACKED) as response:
            assert response.status == 200
        assert await tell(client, {"servers": ["a"]}) == (200, {"servers": ["a"], "notes": []})
        assert await status_of(client, "expected=a&expected=b") == {"a": "retired", "b": "never"}
        assert (await scraped(client))["agents retired"] == 1
        assert (await tell(client, {"servers": ["a"], "undo": True}))[0] == 200
        assert await status_of(client) == {"a": "silent"}


NO_SERVERS: list[object] = [
    *(b"", b"{", b"[" * 100_000),
    *({}, {"servers": []}, {"servers": [""]}, {"servers": ["x" * 257]}, {"servers": "a"}),
    {"servers": ["a"], "undoo": True},
]


@pytest.mark.parametrize("body", NO_SERVERS, ids=range(len(NO_SERVERS)))
async def test_what_names_no_servers_is_400_and_changes_nothing(store: Asked, start_ns: int, body: object) -> None:
    async with door(store, start_ns) as client:
        status, answer = await tell(client, body)
    assert status == 400 and "servers" in answer["error"]
    assert store.retired() == {}


async def test_a_form_of_a_browser_is_not_taken(store: Asked, start_ns: int) -> None:
    async with door(store, start_ns) as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            assert (await tell(client, {"servers": ["a"]}, **{"Content-Type": kind}))[0] == 415
    assert store.retired() == {}


async def test_where_there_are_keys_only_the_operator_retires(store: Asked, start_ns: int) -> None:
    async with door(store, start_ns, GATED) as client:
        for token in ("", "a-reader's-token", mint("k1", KEY, "a")):
            assert (await tell(client, {"servers": ["a"]}, Authorization=f"Bearer {token}"))[0] == 401
        assert store.retired() == {}
        assert (await tell(client, {"servers": ["a"]}, Authorization="Bearer an-operator's-token"))[0] == 200
    assert store.retired() == {"a": 0}


@pytest.mark.parametrize(("role", "paths"), [("all", ["/metrics", "/v1/agents"]), ("ingest", ["/metrics"])])
async def test_reading_needs_a_right_for_agents_and_metrics_alike(
    store: Asked, start_ns: int, monkeypatch: pytest.MonkeyPatch, role: Role, paths: list[str]
) -> None:
    monkeypatch.setattr("joulefleet_collector.auth._is_here", lambda _: False)
    async with door(store, start_ns, GATED, role) as client:
        for path in paths:
            for token, status in (("", 401), ("wrong", 401), ("a-reader's-token", 200), ("an-operator's-token", 200)):
                async with client.get(path, headers={"Authorization": f"Bearer {token}"}) as response:
                    assert (path, token, response.status) == (path, token, status)
