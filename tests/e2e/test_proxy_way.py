"""From clients of a server without metrics to the report: through the proxy, its page, the agent and the collector."""

import json
import socket
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fixtures.collectors import Collector
from fixtures.fake_appliance import MODEL, PROMPT, FakeAppliance, in_a_thread
from fixtures.processes import Command, running, until
from fixtures.virtual_agent import AgentOf, Clock, Part
from joulefleet.reading import COUNT_FIELDS
from joulefleet.units import NS_PER_S
from joulefleet_plugins.meters.simulated import SERVER, SimulatedConfig, SimulatedServer
from joulefleet_plugins.work import openmetrics

POWERED = SimulatedConfig(start_s=1_600_000_000, daily_swing=0, period_s=5)
"""A server of constant power whose counters stood at 0 before all that happens here."""
RED, OTHER = "sk-of-the-red-team", "sk-of-nobody-known"


@pytest.fixture
def appliance() -> Iterator[FakeAppliance]:
    with in_a_thread(FakeAppliance(words=8)) as standing:
        yield standing


@pytest.fixture
def proxy(tmp_path: Path, appliance: FakeAppliance) -> Iterator[Command]:
    tenants = tmp_path / "tenants.toml"
    tenants.write_text(f'[tenants]\n"{RED}" = "red"\n')
    tenants.chmod(0o600)
    config = tmp_path / "proxy.toml"
    config.write_text(
        f'to = "{appliance.url}"\nlisten = "127.0.0.1:0"\nmetrics = "127.0.0.1:0"\n'
        f'tenants_file = "{tenants}"\nsalt_file = "{tmp_path / "salt"}"\n'
    )
    with running(tmp_path / "proxy", "agent", "proxy", "--config", str(config)) as command:
        until(lambda: "metrics on" in command.out or not command.alive, "the proxy to listen")
        yield command


def places(proxy: Command) -> tuple[str, str]:
    """Where clients reach it, and its page."""
    return proxy.out.split("listens on ")[1].split(",")[0], proxy.out.split("metrics on ")[1].strip()


def ask(url: str, key: str, stream: bool) -> bytes:
    body = json.dumps({"model": MODEL, "stream": stream}).encode()
    question = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(question) as answer:
        told: bytes = answer.read()
    return told


def hang_up(url: str, key: str) -> None:
    """Ask for a stream, and go with its first words."""
    body = json.dumps({"model": MODEL, "stream": True})
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as client:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        said = b""
        while b"w0" not in said:
            said += client.recv(4096)


def counts_by_tenant(hosted: Collector) -> dict[str, Counter[str]]:
    """What the windows tell of each tenant."""
    told: dict[str, Counter[str]] = {}
    for one in (one for window in hosted.windows() for one in window.engines[0].work):
        counts = {name: count for name in COUNT_FIELDS if (count := getattr(one.counts, name)) is not None}
        told.setdefault(one.key.tenant, Counter()).update(counts)
    return told


def test_tokens_come_to_the_report_by_tenant(
    agent_of: AgentOf, hosted: Collector, clock: Clock, appliance: FakeAppliance, proxy: Command
) -> None:
    url, page = places(proxy)
    until(lambda: b"joulefleet_proxy_alone 1" in _get(page), "the proxy to see that nobody else counts")
    agent = agent_of("appliance-1")
    agent.open(
        engine=openmetrics.open({"url": page}),
        input=Part(SimulatedServer(POWERED, clock), {SERVER}),
    )

    def read_at(second: int) -> None:
        clock.now_ns = began_ns + second * NS_PER_S
        agent.read("engine")
        agent.read("input")
        agent.tick()

    began_ns = clock()
    read_at(0)
    for second in range(5, 301, 5):
        if second == 60:
            for stream in (True, True, False):
                ask(url, RED, stream)
            ask(url, OTHER, True)
        if second == 120:
            appliance.pause_s = 0.05
            hang_up(url, RED)
            until(lambda: b'outcome="aborted",tenant="red"} 1.0' in _get(page), "the proxy to see it")
        read_at(second)
    agent.finish()

    by_tenant = counts_by_tenant(hosted)
    (hashed,) = by_tenant.keys() - {"red", ""}
    assert hashed.startswith("key-")
    red, other = by_tenant["red"], by_tenant[hashed]
    assert (red["requests_ok"], red["requests_aborted"], other["requests_ok"]) == (3, 1, 1)
    assert red["prompt_tokens"] + other["prompt_tokens"] == appliance.counted["prompt"] == 4 * PROMPT
    # Of the one that hung up the appliance counts what it sent, and the proxy what came to it.
    assert 32 < red["output_tokens"] + other["output_tokens"] <= appliance.counted["output"]
    (row,) = [one for one in hosted.report("--by", "model,software")["rows"] if one["model"] == MODEL]
    assert (row["software"], row["requests_ok"], row["requests_aborted"]) == ("joulefleet-proxy", 4, 1)
    assert row["output_tokens"] == red["output_tokens"] + other["output_tokens"]
    assert row["joules_per_output_token"] > 0
    split = {one["tenant"]: one for one in hosted.report("--by", "model,tenant")["rows"] if one["model"] == MODEL}
    assert {name: one["output_tokens"] for name, one in split.items()} == {
        "red": red["output_tokens"],
        hashed: other["output_tokens"],
    }
    assert sum(one["energy_j"] for one in split.values()) == pytest.approx(row["energy_j"], rel=1e-9)
    for text in (_get(page).decode(), proxy.out, proxy.err):
        assert "sk-of" not in text


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        body: bytes = answer.read()
    return body
