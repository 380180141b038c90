"""What goes through the proxy, byte for byte, and what it counts of it."""

import asyncio
import gzip
import json
import socket
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientPayloadError, ClientSession
from yarl import URL

from fixtures.fake_appliance import CACHED, MODEL, PROMPT, FakeAppliance, length_of, raw_server, raw_serving
from fixtures.front import Front, Start, until
from joulefleet_agent.proxy import look, passing, service

CHAT = "/v1/chat/completions"
STREAM = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "é"}]}
ASKS = {**STREAM, "stream_options": {"include_usage": True}}
KEY = f'{{model="{MODEL}",tenant=""}}'
OK = f'requests_total{{model="{MODEL}",outcome="ok",tenant=""}}'
FAILED, ABORTED = OK.replace('"ok"', '"failed"'), OK.replace('"ok"', '"aborted"')
NAMELESS = 'requests_total{model="",outcome="failed",tenant=""}'
PROMPTS, CACHE = f"prompt_tokens_total{KEY}", f"cached_tokens_total{KEY}"
OUTPUT, ESTIMATED = f"output_tokens_total{KEY}", f"estimated_output_tokens_total{KEY}"
NO_PROMPT = f'requests_without_tokens_total{{model="{MODEL}",tenant="",tokens="prompt"}}'
NO_OUTPUT = NO_PROMPT.replace('"prompt"', '"output"')


def refused(reason: str) -> str:
    return f'refused_total{{reason="{reason}"}}'


async def test_usage_that_was_not_asked_for_is_counted_and_hidden(appliance: FakeAppliance, start: Start) -> None:
    front = await start(appliance.url)
    assert await front.post(CHAT, STREAM) == appliance.sent[0]
    assert json.loads(appliance.asked[0][3]) == ASKS
    assert await front.counted() == {OK: 1, PROMPTS: PROMPT, CACHE: CACHED, OUTPUT: 3}
    assert appliance.counted == {"requests": 1, "prompt": PROMPT, "cached": CACHED, "output": 3}


async def test_usage_that_was_asked_for_comes_with_every_byte(appliance: FakeAppliance, start: Start) -> None:
    front = await start(appliance.url)
    async with ClientSession() as direct, direct.post(appliance.url + CHAT, json=ASKS) as answer:
        wanted = await answer.read()
    assert await front.post(CHAT, ASKS) == wanted
    assert b'"choices": [], "usage"' in wanted
    assert appliance.asked[0][3] == appliance.asked[1][3]
    assert await front.counted() == {OK: 1, PROMPTS: PROMPT, CACHE: CACHED, OUTPUT: 3}


async def test_a_whole_answer_is_what_the_server_gave(appliance: FakeAppliance, start: Start) -> None:
    front = await start(appliance.url)
    question = {"model": MODEL, "messages": []}
    async with (
        ClientSession(auto_decompress=False) as direct,
        direct.post(appliance.url + CHAT, json=question) as one,
        front.client.post(front.url + CHAT, json=question) as other,
    ):
        assert (one.status, one.reason, one.raw_headers) == (other.status, other.reason, other.raw_headers)
        assert await one.read() == await other.read()
    assert await front.counted() == {OK: 1, PROMPTS: PROMPT, CACHE: CACHED, OUTPUT: 3}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "POST"])
async def test_what_is_not_counted_passes_unchanged(appliance: FakeAppliance, start: Start, method: str) -> None:
    front = await start(appliance.url)
    target = "/other//a%2Fb/../%C3%A9?x=1&y=%20+&x="
    headers = [("X-Own", "ä"), ("X-Own", "2"), ("Cookie", "c=1"), ("Connection", "keep-alive, X-Hop"), ("X-Hop", "1")]
    url = URL(front.url + target, encoded=True)
    async with front.client.request(method, url, data=b"\x00\xff body", headers=headers) as answer:
        assert (answer.status, answer.reason, await answer.read()) == (418, "Short", b"\x00\xff body")
        assert answer.headers.getall("X-Twice") == ["a", "b"]
    ((asked, path, received, body),) = appliance.asked
    assert (asked, path, body) == (method, target, b"\x00\xff body")
    assert (received["X-Own"], received["Cookie"]) == ("ä", "c=1")
    assert received["Host"] == urlsplit(appliance.url).netloc
    assert "X-Hop" not in received
    assert await front.counted() == {}


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ('/a[]|{}%zz/./../x;y=1?"<>&&=', 418),
        ("//", 418),
        ("http://elsewhere/x", 400),
        ("*", 400),
        ("elsewhere:80", 400),
    ],
)
async def test_odd_targets(appliance: FakeAppliance, start: Start, target: str, status: int) -> None:
    front = await start(appliance.url)
    told = await _raw(front, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 %d " % status) or (status == 400 and told.startswith(b"HTTP/1.0 400 "))
    assert [path for _, path, *_ in appliance.asked] == ([target] if status == 418 else [])


async def test_clients_of_http_1_0_and_those_that_wait_to_be_told_to_go_on(
    appliance: FakeAppliance, start: Start
) -> None:
    front = await start(appliance.url)
    body = json.dumps(STREAM)
    told = await _raw(front, f"POST {CHAT} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}")
    assert told.startswith(b"HTTP/1.0 200 OK")
    assert told.endswith(b"\r\n\r\n" + appliance.sent[0])
    told = await _raw(
        front,
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\n\r\n{body}",
    )
    assert told.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    assert (await front.counted())[OK] == 2


async def test_head_and_not_modified_have_no_body(start: Start) -> None:
    async with raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n") as url:
        front = await start(url)
        async with front.client.head(front.url + "/v1/models") as answer:
            assert (answer.status, answer.headers["Content-Length"]) == (200, "7")
    async with raw_server(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nConnection: close\r\n\r\n") as url:
        front = await start(url)
        async with front.client.get(front.url + "/v1/models") as answer:
            assert (answer.status, answer.headers["ETag"]) == (304, "x")


async def test_an_answer_has_no_header_that_its_server_did_not_give(start: Start) -> None:
    head = b"HTTP/1.1 200 Fine\r\ndate: x\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 2\r\n"
    async with raw_server(head + b"connection: close\r\n\r\n{}") as url:
        front = await start(url)
        async with front.client.post(front.url + CHAT, json={}) as answer:
            assert answer.reason == "Fine"
            assert answer.raw_headers == (
                (b"date", b"x"),
                (b"set-cookie", b"a=1"),
                (b"set-cookie", b"b=2"),
                (b"content-length", b"2"),
            )
            assert await answer.read() == b"{}"


async def test_a_server_that_does_not_know_the_option_is_asked_once_without(
    appliance: FakeAppliance, start: Start
) -> None:
    appliance.knows_option = False
    front = await start(appliance.url)
    for _ in range(3):
        assert await front.post(CHAT, STREAM) == appliance.sent[-1]
    assert ["stream_options" in json.loads(body) for *_, body in appliance.asked] == [True, False, False, False]
    assert await front.counted() == {OK: 3, OUTPUT: 9, ESTIMATED: 9, NO_PROMPT: 3}


async def test_a_request_that_is_wrong_by_itself_says_nothing_of_the_option(
    appliance: FakeAppliance, start: Start
) -> None:
    appliance.knows_option = False
    front = await start(appliance.url)
    for _ in range(2):
        async with front.client.post(front.url + CHAT, json={**STREAM, "model": "none"}) as answer:
            assert answer.status == 404
    assert len(appliance.asked) == 4
    appliance.knows_option = True
    await front.post(CHAT, STREAM)
    assert json.loads(appliance.asked[-1][3]) == ASKS


async def test_tokens_that_are_never_told_are_estimated_and_said_to_be(appliance: FakeAppliance, start: Start) -> None:
    appliance.tells_usage = False
    front = await start(appliance.url)
    await front.post(CHAT, STREAM)
    await front.post(CHAT, {**STREAM, "stream": False})
    counted = await front.counted()
    assert counted == {OK: 2, OUTPUT: 3, ESTIMATED: 3, NO_PROMPT: 2, NO_OUTPUT: 1}


async def test_an_answer_that_is_packed_all_the_same_passes_unread(appliance: FakeAppliance, start: Start) -> None:
    appliance.packs = True
    front = await start(appliance.url)
    packed = await front.post(CHAT, {"model": MODEL}, **{"Accept-Encoding": "gzip"})
    assert json.loads(gzip.decompress(packed))["model"] == MODEL
    assert appliance.asked[0][2]["Accept-Encoding"] == "identity"
    assert await front.counted() == {OK: 1, NO_PROMPT: 1, NO_OUTPUT: 1}


async def test_who_hangs_up_ends_the_work_at_the_server(appliance: FakeAppliance, start: Start) -> None:
    appliance.words, appliance.pause_s = 10_000, 0.005
    front = await start(appliance.url)
    answer = await front.client.post(front.url + CHAT, json=STREAM)
    parts = [await answer.content.readuntil(b"\n\n") for _ in range(3)]
    assert len(parts) == 3
    assert (await front.counted()) == {'requests_running{model="",tenant=""}': 1}
    answer.close()

    async def hung_up() -> int:
        return appliance.counted["hung_up"]

    await until(hung_up, "the server to see it")
    counted = await front.counted()
    assert counted[OUTPUT] == counted[ESTIMATED] >= 3
    assert counted == {ABORTED: 1, OUTPUT: counted[OUTPUT], ESTIMATED: counted[OUTPUT], NO_PROMPT: 1}


async def test_who_hangs_up_before_the_answer_begins_is_counted_too(appliance: FakeAppliance, start: Start) -> None:
    asked = asyncio.Event()
    closed = asyncio.Event()

    async def silent(_head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        closed.set()

    async with raw_serving(silent) as url:
        front = await start(url)
        asking = asyncio.ensure_future(front.client.post(front.url + CHAT, json=STREAM))
        await asyncio.wait_for(asked.wait(), 20)
        asking.cancel()
        await asyncio.wait_for(closed.wait(), 20)
    assert await front.counted() == {NAMELESS.replace("failed", "aborted"): 1}


async def test_a_server_that_dies_in_mid_stream_cuts_the_answer(appliance: FakeAppliance, start: Start) -> None:
    appliance.dies_after = 2
    front = await start(appliance.url)
    got = bytearray()
    async with front.client.post(front.url + CHAT, json=STREAM) as answer:
        with pytest.raises(ClientPayloadError):
            async for data in answer.content.iter_any():
                got += data
    assert bytes(got) == appliance.sent[0]
    counted = await front.counted()
    assert counted == {
        FAILED: 1,
        OUTPUT: 2,
        ESTIMATED: 2,
        NO_PROMPT: 1,
        'upstream_failures_total{reason="broken"}': 1,
    }


async def test_an_error_in_the_stream_is_a_failed_request(appliance: FakeAppliance, start: Start) -> None:
    appliance.errs_after = 1
    front = await start(appliance.url)
    assert await front.post(CHAT, STREAM) == appliance.sent[0]
    assert (await front.counted())[FAILED] == 1


async def test_a_refused_request_is_failed_and_makes_no_name(appliance: FakeAppliance, start: Start) -> None:
    front = await start(appliance.url)
    for body in (b"not JSON", json.dumps({"model": "none"}).encode()):
        async with front.client.post(front.url + CHAT, data=body, headers={"Authorization": "Bearer odd"}) as answer:
            assert answer.status in (400, 404)
    assert await front.counted() == {NAMELESS: 2}
    assert [body for *_, body in appliance.asked] == [b"not JSON", b'{"model": "none"}']


async def test_a_server_that_is_not_there(start: Start) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    front = await start(f"http://127.0.0.1:{port}")
    async with front.client.post(front.url + CHAT, json=STREAM) as answer:
        assert answer.status == 502
        assert (await answer.json())["error"]["code"] == "connect"
    assert await front.counted() == {NAMELESS: 1, 'upstream_failures_total{reason="connect"}': 1}


async def test_no_websocket_and_no_other_protocol(appliance: FakeAppliance, start: Start) -> None:
    front = await start(appliance.url)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x" * 22 + "=="}
    async with front.client.get(front.url + "/v1/realtime", headers=upgrade) as answer:
        assert (answer.status, answer.headers["Connection"]) == (501, "close")
        assert "WebSocket" in (await answer.json())["error"]["message"]
    # Java's client offers HTTP/2 with each request; a server that does not speak it goes on without.
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
    async with front.client.get(front.url + "/x", headers=offer) as answer:
        assert answer.status == 418
    assert "Upgrade" not in appliance.asked[0][2]
    assert "HTTP2-Settings" not in appliance.asked[0][2]
    assert await front.counted() == {refused("upgrade"): 1}


@pytest.mark.parametrize("path", [CHAT, "/other"])
async def test_a_body_that_is_too_long(appliance: FakeAppliance, start: Start, path: str) -> None:
    front = await start(appliance.url, max_body_bytes=2_000)

    async def parts() -> object:
        for _ in range(3):
            yield b"x" * 1_000

    for data in (b"x" * 2_001, parts()):
        async with front.client.post(front.url + path, data=data) as answer:
            assert answer.status == 413, await answer.text()
    assert (await front.counted())[refused("too_large")] == 2


@pytest.mark.parametrize("path", [CHAT, "/other"])
async def test_a_body_of_which_nothing_more_comes(
    appliance: FakeAppliance, start: Start, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(passing, "BODY_S", 0.05)
    front = await start(appliance.url)
    told = await _raw(front, f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{")
    assert told.startswith(b"HTTP/1.1 408 ") and (await front.counted())[refused("slow")] == 1


@pytest.mark.parametrize("head", ["", "GET / HTTP/1.1\r\nHo"])
async def test_who_never_ends_a_head_is_sent_away(
    appliance: FakeAppliance, start: Start, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr(service, "IDLE_CLIENT_S", 0.05)
    front = await start(appliance.url)
    assert await asyncio.wait_for(_raw(front, head), 20) == b""


async def test_what_is_read_of_a_request_has_room_until_its_answer_begins(start: Start) -> None:
    bodies, begins = asyncio.Queue[bytes](), asyncio.Event()

    async def thinking(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await bodies.put(await reader.readexactly(length_of(head)))
        await begins.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    long = {**STREAM, "messages": ["x" * 900]}
    async with raw_serving(thinking) as url:
        front = await start(url, max_looked_bytes=2_500)
        asking = [asyncio.create_task(front.post(CHAT, long))]
        assert b"include_usage" in await asyncio.wait_for(bodies.get(), 20)
        asking.append(asyncio.create_task(front.post(CHAT, long)))
        assert json.loads(await asyncio.wait_for(bodies.get(), 20)) == long, "there is no room to read it"
        begins.set()
        assert await asyncio.gather(*asking) == [b"{}", b"{}"]
        await front.post(CHAT, long)
        assert b"include_usage" in await bodies.get(), "there is room again"


async def test_a_header_that_is_too_long(appliance: FakeAppliance, start: Start) -> None:
    front = await start(appliance.url, max_header_bytes=20_000)
    async with front.client.get(front.url + "/x", headers={"X-Own": "x" * 19_000}) as answer:
        assert answer.status == 418
    async with front.client.get(front.url + "/x", headers={"X-Own": "x" * 21_000}) as answer:
        assert answer.status == 400


async def test_more_connections_than_there_may_be(appliance: FakeAppliance, start: Start) -> None:
    appliance.words, appliance.pause_s = 10_000, 0.01
    front = await start(appliance.url, max_connections=2)
    held = [await front.client.post(front.url + CHAT, json=STREAM) for _ in range(2)]
    async with front.client.post(front.url + CHAT, json=STREAM) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    for one in held:
        one.close()

    async def is_free() -> bool:
        async with front.client.get(front.url + "/x") as answer:
            return answer.status == 418

    await until(is_free, "room for another one")


async def test_parts_go_on_before_the_next_one_comes(start: Start) -> None:
    """Each part is sent only once the client has the one before."""
    got = asyncio.Queue[bytes]()

    async def one_by_one(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for number in range(20):
            part = b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % number
            writer.write(part)
            assert await asyncio.wait_for(got.get(), 20) == part

    async with raw_serving(one_by_one) as url:
        front = await start(url)
        async with front.client.post(front.url + CHAT, json=STREAM) as answer:
            for _ in range(20):
                await got.put(await answer.content.readuntil(b"\n\n"))
            assert await answer.content.read() == b""
    page = await front.page()
    assert f"inter_token_latency_seconds_count{KEY} 19.0" in page
    assert f"time_to_first_token_seconds_count{KEY} 1.0" in page
    assert f"request_duration_seconds_count{KEY} 1.0" in page


async def test_a_client_that_does_not_read_holds_the_server_back(start: Start) -> None:
    sent, line = 0, b"data: " + b"x" * 65_536 + b"\n\n"
    stuck = asyncio.Event()

    async def flood(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(line)
            sent += len(line)
            try:
                await asyncio.wait_for(writer.drain(), 0.5)
            except (TimeoutError, ConnectionError):
                break
        stuck.set()
        writer.transport.abort()

    async with raw_serving(flood) as url:
        front = await start(url)
        answer = await front.client.post(front.url + CHAT, json=STREAM)
        await asyncio.wait_for(stuck.wait(), 30)
        answer.close()
    # What sockets of three connections and their buffers hold.
    assert sent < 40 * 1024 * 1024


async def test_connections_are_kept_on_both_sides(start: Start) -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"model":"m"}'
    opened = 0

    async def server_of_many(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        while head:
            await reader.readexactly(length_of(head))
            writer.write(answer)
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                head = b""

    async with raw_serving(server_of_many) as url:
        front = await start(url)
        for _ in range(5):
            await front.post(CHAT, {"model": "m"})
        assert opened == 1
        assert len(front.client.connector._conns) <= 2  # type: ignore[union-attr] # one for requests, one for the page


async def test_what_is_longer_than_is_read_passes_and_is_counted_as_unread(
    appliance: FakeAppliance, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "MOST_LOOKED", 300)
    front = await start(appliance.url)
    long = {**STREAM, "messages": ["x" * 1_000]}
    assert await front.post(CHAT, long) == appliance.sent[0]
    assert json.loads(appliance.asked[0][3]) == long
    assert await front.counted() == {OK: 1, OUTPUT: 3, ESTIMATED: 3, NO_PROMPT: 1}
    monkeypatch.setattr(look, "MOST_LOOKED", 100)
    await front.post(CHAT, {"model": MODEL})
    assert (await front.counted())[NO_OUTPUT.replace(MODEL, MODEL)] == 1


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_ollama_streams_where_nothing_is_said(appliance: FakeAppliance, start: Start, path: str) -> None:
    front = await start(appliance.url)
    assert await front.post(path, {"model": MODEL}) == appliance.sent[0]
    await front.post(path, {"model": MODEL, "stream": False})
    assert await front.counted() == {OK: 2, PROMPTS: 2 * PROMPT, OUTPUT: 6}


async def test_embeddings_have_no_output(appliance: FakeAppliance, start: Start) -> None:
    front = await start(appliance.url)
    await front.post("/v1/embeddings", {"model": MODEL, "input": ["a"]})
    assert await front.counted() == {OK: 1, PROMPTS: PROMPT}


async def test_keys_become_tenants_and_are_told_nowhere(
    appliance: FakeAppliance, start: Start, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(0)
    front = await start(appliance.url)
    key = "sk-very-secret-1"
    await front.post(CHAT, STREAM, Authorization=f"Bearer {key}")
    await front.post(CHAT, STREAM, **{"x-api-key": key})
    await _wrong(front, f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {key}\r\n\r\n")
    await _wrong(front, f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\x00\r\n\r\n")
    page = await front.page()
    (tenant,) = {one.split('"')[0] for one in page.split('tenant="')[1:]}
    assert tenant.startswith("key-")
    assert f'requests_total{{model="{MODEL}",outcome="ok",tenant="{tenant}"}} 2.0' in page
    assert appliance.asked[0][2]["Authorization"] == f"Bearer {key}"
    said = capfd.readouterr()
    for text in (page, caplog.text, said.out, said.err):
        assert key not in text


async def _raw(front: Front, request: str) -> bytes:
    """All that comes back for these very bytes."""
    parts = urlsplit(front.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request.encode())
    told = await reader.read()
    writer.close()
    return told


async def _wrong(front: Front, request: str) -> None:
    assert (await _raw(front, request)).startswith(b"HTTP/1.0 400")


async def test_energy_is_told_where_it_is_known(appliance: FakeAppliance, start: Start) -> None:
    rows = [{"boundary": "server", "model": MODEL, "joules_per_output_token": 1.5, "simulated": False}]
    body = json.dumps({"rows": rows}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    async with raw_server(head % len(body) + body) as collector:
        front = await start(appliance.url, energy_from=collector)

        async def header() -> str:
            async with front.client.post(front.url + CHAT, json={"model": MODEL}) as answer:
                assert (await answer.json())["model"] == MODEL
                return answer.headers.get("X-Joulefleet-Energy-J", "")

        assert await until(header, "the collector's figures") == "4.5; preliminary; boundary=server"
        told = await front.post(CHAT, STREAM)
        wanted = f': joulefleet energy_j=4.5 preliminary boundary=server model="{MODEL}"\n\ndata: [DONE]\n\n'
        assert told == appliance.sent[-1].replace(b"data: [DONE]\n\n", wanted.encode())
        async with front.client.post(front.url + CHAT, json={"model": "other"}) as answer:
            assert "X-Joulefleet-Energy-J" not in answer.headers
        assert b"joulefleet" not in await front.post("/api/chat", {"model": MODEL})
