"""What `joulefleet agent proxy` adds to each part of a stream, and whether it counts right, under many streams at once.

A fake appliance sends parts that say when they were sent; a client notes when each came, first straight from the
appliance and then through the proxy, under the same load. The proxy runs on one core, appliance and client on the
other. Then all that the proxy counted is held against what the appliance counted, and each stream against the bytes
that were sent. Some clients hang up before the end. Writes a table and a JSON file.
"""

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop
from processes import cpu_ns, memory_mb, running, until

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fixtures.fake_appliance import FakeAppliance

PROXY_CORE, OTHER_CORE = 0, 1
PARTS_PER_S = 5
RAMP = 0.3
"""The share of a stream's length over which they begin, so that their parts do not come all at once."""
HANGS_UP = 20
"""One client of so many does."""
TO_REACH_MS = 20.0
STAMP = re.compile(rb"<(\d+)>")
BODY = json.dumps({"model": "llama-70b", "stream": True, "messages": [{"role": "user", "content": "?"}]}).encode()
PACKAGES = ("joulefleet", "aiohttp", "uvloop", "msgspec")
Row = dict[str, Any]


class Client(asyncio.Protocol):
    """One stream: notes how old each part was when it came, and when that was."""

    def __init__(self, ended: "asyncio.Future[None]", hangs_up_after: int) -> None:
        self.parts: list[tuple[int, int]] = []
        """When each came, and how long after it was sent, in nanoseconds."""
        self.raw = bytearray()
        self.hung_up = False
        self._ended, self._hangs_up_after = ended, hangs_up_after
        self._sought = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n"
        self._transport.write(
            f"{head}Authorization: Bearer sk-{id(self) % 7}\r\nConnection: close\r\n\r\n".encode() + BODY
        )

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        self.raw += data
        for found in STAMP.finditer(self.raw, self._sought):
            self.parts.append((now_ns, now_ns - int(found[1])))
            self._sought = found.end()
        if 0 < self._hangs_up_after <= len(self.parts):
            self.hung_up = True
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    @property
    def digest(self) -> str:
        """Of the body, out of its chunks."""
        head, _, rest = bytes(self.raw).partition(b"\r\n\r\n")
        assert b"200 OK" in head, head
        whole = hashlib.sha256()
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            count = int(size, 16)
            whole.update(rest[:count])
            rest = rest[count + 2 :]
        return whole.hexdigest()


async def drive(url: str, streams: int, seconds: float) -> list[Client]:
    """All streams, begun one after another, to their end."""
    parts, loop, clients = urlsplit(url), asyncio.get_running_loop(), list[Client]()
    began_s, words = loop.time(), int(seconds * PARTS_PER_S)
    ends = []
    for number in range(streams):
        ended: asyncio.Future[None] = loop.create_future()
        client = Client(ended, words // 2 if number % HANGS_UP == HANGS_UP // 2 else 0)
        clients.append(client)
        ends.append(ended)
        await asyncio.sleep(max(began_s + RAMP * seconds * number / streams - loop.time(), 0))
        await loop.create_connection(lambda one=client: one, parts.hostname, parts.port)  # type: ignore[misc] # a factory
    await asyncio.gather(*ends)
    return clients


def appliance(streams: int, seconds: float, say: Connection) -> None:
    """The appliance, in a process of its own: says its URL, and when asked all that it counted since it was last."""

    async def serve() -> None:
        made = FakeAppliance(words=int(seconds * PARTS_PER_S), pause_s=1 / PARTS_PER_S)
        made.stamps = True
        async with made:
            say.send(made.url)
            while await asyncio.to_thread(say.recv):
                whole = [hashlib.sha256(one).hexdigest() for one in made.sent if one.endswith(b"[DONE]\n\n")]
                say.send((dict(made.counted), sorted(whole)))
                made.sent.clear()
                made.asked.clear()
                made.counted.clear()

    os.sched_setaffinity(0, {OTHER_CORE})
    uvloop.run(serve())


@contextmanager
def standing(streams: int, seconds: float) -> Iterator[tuple[str, Connection]]:
    """The appliance's URL, and the way to ask what it counted."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=appliance, args=(streams, seconds, there), daemon=True
    )
    process.start()
    try:
        yield here.recv(), here
    finally:
        process.terminate()
        process.join()


def latencies(clients: list[Client]) -> Row:
    """Of parts that came while all streams ran, in milliseconds."""
    from_ns = max(client.parts[0][0] for client in clients)
    until_ns = min(client.parts[-1][0] for client in clients if not client.hung_up)
    ages_ms = sorted(age / 1e6 for client in clients for came, age in client.parts if from_ns <= came <= until_ns)
    cuts = statistics.quantiles(ages_ms, n=1_000)
    return {
        "parts": len(ages_ms),
        "parts_per_s": len(ages_ms) / ((until_ns - from_ns) / 1e9),
        "p50_ms": cuts[499],
        "p99_ms": cuts[989],
        "p999_ms": cuts[998],
        "at_most_ms": ages_ms[-1],
    }


def counted(page: str) -> Row:
    """What the proxy's page says, over all models and tenants."""

    def total(name: str, *labels: str) -> int:
        found = re.findall(rf"(?m)^joulefleet_proxy_{name}{{(.*)}} (\S+)$", page)
        return int(sum(float(value) for said, value in found if all(one in said for one in labels)))

    return {
        "ok": total("requests_total", 'outcome="ok"'),
        "failed": total("requests_total", 'outcome="failed"'),
        "aborted": total("requests_total", 'outcome="aborted"'),
        "prompt": total("prompt_tokens_total"),
        "output": total("output_tokens_total"),
        "estimated": total("estimated_output_tokens_total"),
    }


def direct(streams: int, seconds: float, url: str, ask: Connection) -> Row:
    """The load without the proxy."""
    row = latencies(uvloop.run(drive(url, streams, seconds)))
    ask.send(True)
    ask.recv()
    return row


def through(streams: int, seconds: float, url: str, ask: Connection, folder: Path) -> Row:
    """The same load through the proxy, and what was counted of it."""
    said = folder / "proxy"
    words = ("agent", "proxy", "--to", url, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
    state = {**os.environ, "XDG_STATE_HOME": str(folder)}
    with running([sys.executable, "-m", "joulefleet", *words], said, PROXY_CORE, state) as process:
        found = until(lambda: re.search(r"listens on (\S+), .* metrics on (\S+)", said.read_text()), "the proxy")
        before_ns, began_s = cpu_ns(process.pid), time.monotonic()
        clients = uvloop.run(drive(found[1], streams, seconds))
        took_s = time.monotonic() - began_s
        core_share = (cpu_ns(process.pid) - before_ns) / 1e9 / took_s
        memory = memory_mb(process.pid, "Rss")

        def page() -> str:
            with urllib.request.urlopen(found[2]) as answer:
                return str(answer.read().decode())

        told = until(lambda: (row := counted(page()))["ok"] + row["aborted"] == streams and row, "all requests")
    ask.send(True)
    own, sent = ask.recv()
    whole = [client for client in clients if not client.hung_up]
    return {
        **latencies(clients),
        "core_share": core_share,
        "rss_mb": memory,
        "proxy_counted": told,
        "appliance_counted": own,
        "no_byte_changed": sorted(client.digest for client in whole) == sent,
        "tokens_equal": (told["ok"], told["prompt"], told["output"] - told["estimated"])
        == (own["requests"], own["prompt"], own["requests"] * int(seconds * PARTS_PER_S)),
        "hung_up": len(clients) - len(whole),
        "aborted": told["aborted"],
        "output_of_aborted": [told["estimated"], own["output"] - (told["output"] - told["estimated"])],
    }


def show(outcome: Row) -> None:
    """The table."""
    print(f"{'':12}{'parts/s':>10}{'p50, ms':>10}{'p99, ms':>10}{'p99.9, ms':>11}{'at most':>10}")
    for name in ("direct", "proxied"):
        row = outcome[name]
        figures = "{parts_per_s:10,.0f}{p50_ms:10.2f}{p99_ms:10.2f}{p999_ms:11.2f}{at_most_ms:10.1f}"
        print(f"{name:12}" + figures.format(**row))
    row = outcome["proxied"]
    print(f"added at p99: {outcome['added_p99_ms']:.2f} ms; to reach: {TO_REACH_MS:g} ms")
    print(f"proxy: {100 * row['core_share']:.0f} % of a core, {row['rss_mb']:.0f} MB")
    print(f"no byte changed: {row['no_byte_changed']}; tokens equal: {row['tokens_equal']}")
    estimated, sent = row["output_of_aborted"]
    print(f"{row['hung_up']} hung up, {row['aborted']} counted as aborted; of their tokens {estimated}, sent {sent}")
    print(f"load average {outcome['machine']['load_average']:.1f}, at the end {os.getloadavg()[0]:.1f}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each stream")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    asked = parser.parse_args()
    machine = {
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    os.sched_setaffinity(0, {OTHER_CORE})
    with tempfile.TemporaryDirectory() as folder, standing(asked.streams, asked.seconds) as (url, ask):
        outcome: Row = {"machine": machine, "direct": direct(asked.streams, asked.seconds, url, ask)}
        outcome["proxied"] = through(asked.streams, asked.seconds, url, ask, Path(folder))
    outcome["added_p99_ms"] = outcome["proxied"]["p99_ms"] - outcome["direct"]["p99_ms"]
    show(outcome)
    if asked.json:
        asked.json.write_text(json.dumps(outcome, indent=1) + "\n")
    if not (outcome["proxied"]["no_byte_changed"] and outcome["proxied"]["tokens_equal"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
