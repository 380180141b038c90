"""Whatever is wrong with a batch, a config or a port: a code or one sentence, and what is good is kept whole."""

import http.client
import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from fixtures.collectors import Collector
from fixtures.processes import SIMULATED, agent_config, collecting, running, until
from joulefleet.delivery import JSON_TYPE, MAX_BATCH_BYTES, MAX_WIRE_BYTES, MSGPACK_TYPE, pack
from joulefleet.units import NS_PER_S
from joulefleet_agent.clock import wall_ns

MINUTE_NS = 60 * NS_PER_S
HOUR_AGO_NS = wall_ns() // MINUTE_NS * MINUTE_NS - 60 * MINUTE_NS
UJ = 600_000_000
Answer = tuple[int, dict[str, Any]]


def window(minute: int = 0, **changes: Any) -> dict[str, Any]:
    """A good window of 600 J and 100 output tokens, so many minutes after an hour ago."""
    meter = {"id": "m", "kind": "server", "grade": "counter", "sensor_class": "platform"}
    told = {"meter": meter, "first_uj": "5", "last_uj": str(5 + UJ), "energy_uj": UJ, "covered_ns": MINUTE_NS}
    work = {"key": {"model": "llama"}, "counts": {"requests_ok": 10, "output_tokens": 100}}
    engine = {"engine": {"id": "e", "software": "vllm"}, "covered_ns": MINUTE_NS, "work": [work]}
    start_ns = HOUR_AGO_NS + minute * MINUTE_NS
    whole = {"schema": 1, "server": "s", "timeline": 1, "start_ns": start_ns, "step_ns": MINUTE_NS}
    return {**whole, "meters": [told], "engines": [engine], **changes}


def broken(minute: int) -> dict[str, Any]:
    """A window whose joules do not agree with its counters."""
    one = window(minute)
    one["meters"][0]["energy_uj"] += 1
    return one


def send(collector: Collector, body: bytes, form: str = JSON_TYPE, **headers: str) -> Answer:
    """POST these bytes as they are."""
    with closing(http.client.HTTPConnection(urlsplit(collector.url).netloc, timeout=30)) as connection:
        told = {"Content-Type": form, **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection.request("POST", "/v1/windows", body, told)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def batch(*windows: Any, **said: Any) -> bytes:
    """These windows as plain JSON."""
    return json.dumps({"windows": list(windows), **said}).encode()


def test_of_a_batch_the_good_windows_are_kept_and_each_other_one_is_named(tmp_path: Path) -> None:
    ahead, past = HOUR_AGO_NS + 600 * MINUTE_NS, HOUR_AGO_NS - 30 * 1_440 * MINUTE_NS
    bad: dict[str, list[Any]] = {
        "malformed": [broken(1), {"server": "s"}, 7, window(2, step_ns=7 * NS_PER_S), window(3, server="")],
        "wrong_schema": [window(4, schema=2)],
        "too_early": [window(start_ns=ahead)],
        "too_old": [window(start_ns=past)],
    }
    codes = [code for code, windows in bad.items() for _ in windows]
    body = batch(window(0), *(one for windows in bad.values() for one in windows), window(0), window(5), id=3)
    with collecting(tmp_path / "collector", tmp_path / "data") as (_, collector):
        for _ in range(2):
            status, answer = send(collector, body)
            assert (status, answer["id"]) == (200, 3)
            assert [(one["index"], one["code"]) for one in answer["rejected"]] == list(enumerate(codes, 1))
            assert [one.start_ns for one in collector.windows()] == [HOUR_AGO_NS, HOUR_AGO_NS + 5 * MINUTE_NS]
        usage = collector.ask(by="server")
    assert [row["energy_j"] for row in usage["rows"]] == [1_200.0]
    assert [row["output_tokens"] for row in usage["rows"]] == [200]
    assert [entry["metered_j"] for entry in usage["ledger"]] == [1_200.0]


def test_of_a_batch_that_is_none_nothing_is_kept(tmp_path: Path) -> None:
    good = batch(window())
    packed = pack([msgspec.msgpack.encode({**window(), "meters": []})])
    bomb = pack([b"\xa0" * (MAX_BATCH_BYTES + 1)])
    assert len(bomb) < MAX_WIRE_BYTES
    zstd = {"form": MSGPACK_TYPE, "Content_Encoding": "zstd"}
    wrong: list[tuple[int, bytes, dict[str, str]]] = [
        (400, good[:-20], {}),
        (400, b"", {}),
        (400, b"[]", {}),
        (400, b"\xff\xfe{", {}),
        (400, batch(window(), id="one"), {}),
        (400, packed[:-5], zstd),
        (400, packed + packed, zstd),
        (400, good, zstd),
        (413, bomb, zstd),
        (415, good, {"form": "text/plain"}),
        (415, good, {"Content_Encoding": "gzip"}),
    ]
    with collecting(tmp_path / "collector", tmp_path / "data") as (command, collector):
        for expected, body, headers in wrong:
            status, answer = send(collector, body, **headers)
            assert (status, answer["status"]) == (expected, expected), answer
            assert answer["error"]
        assert too_long(collector) == 413
        assert collector.windows() == []
        assert send(collector, packed, **zstd)[0] == 200
        assert len(collector.windows()) == 1
    assert "Traceback" not in command.err


def too_long(collector: Collector) -> int:
    """The status for a body that says that it is longer than any may be; none of it is sent."""
    with closing(http.client.HTTPConnection(urlsplit(collector.url).netloc, timeout=30)) as connection:
        connection.putrequest("POST", "/v1/windows")
        connection.putheader("Content-Type", JSON_TYPE)
        connection.putheader("Content-Length", str(MAX_BATCH_BYTES + 1))
        connection.endheaders()
        return connection.getresponse().status


AGENT_TYPOS = [
    ("steps = 3", "steps", "unknown field"),
    ('step_s = "10"', "step_s", "expected `float`, got `str`"),
    ("step_s = 7", "step_s", "does not divide an hour"),
    ('[collector]\nulr = "http://127.0.0.1:1"', "collector.ulr", "unknown field"),
    ('[collector]\nurl = "127.0.0.1:1"', "collector.url", "expected a URL"),
    ('[[sources]]\nus = "nvml"', "sources[0].use", "expected the name of a source"),
    ('[[sources]]\nuse = "nvlm"', "sources", "no source is named 'nvlm'"),
    ('[[sources]]\nuse = "simulated"\nperoid_s = 1', "peroid_s", "unknown field"),
    ("[labels]\nserver = 3", "labels", "expected `str`, got `int`"),
    ("steps = ", "", "not TOML"),
]
COLLECTOR_TYPOS = [
    ("[listen]\nprot = 1", "listen.prot", "unknown field"),
    ("[listen]\nport = 70000", "listen.port", "<= 65535"),
    ('[listen]\nhost = "0.0.0.0"', "listen.host", "loopback"),
    ("[policy]\npair_threshold = 2.0", "policy.pair_threshold", "<= 1.0"),
    ("[store", "", "not TOML"),
]


@pytest.mark.parametrize(("text", "key", "expected"), AGENT_TYPOS)
def test_a_typo_in_an_agents_config_is_named(tmp_path: Path, text: str, key: str, expected: str) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'spool = "{tmp_path}/spool.db"\n{text}\n')
    with running(tmp_path / "agent", "agent", "run", "--config", str(config)) as agent:
        assert agent.wait() == 2
    assert_one_sentence(agent.err, str(config), key, expected)


@pytest.mark.parametrize(("text", "key", "expected"), COLLECTOR_TYPOS)
def test_a_typo_in_a_collectors_config_is_named(tmp_path: Path, text: str, key: str, expected: str) -> None:
    config = tmp_path / "collector.toml"
    config.write_text(f"{text}\n")
    options = ("--config", str(config), "--data-dir", str(tmp_path / "data"))
    with running(tmp_path / "collector", "collector", "run", *options) as collector:
        assert collector.wait() == 2
    assert_one_sentence(collector.err, str(config), key, expected)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = str(other.getsockname()[1])
        options = ("--port", port, "--data-dir", str(tmp_path / "data"))
        with running(tmp_path / "collector", "collector", "run", *options) as collector:
            assert collector.wait() == 2
    assert_one_sentence(collector.err, port, "the port is in use", "--port")


def test_a_second_agent_on_one_spool_is_named(tmp_path: Path) -> None:
    config = str(agent_config(tmp_path, "http://127.0.0.1:9", SIMULATED))
    with running(tmp_path / "one", "agent", "run", "--config", config) as one:
        until(lambda: "open" in one.err, "the first agent to read")
        with running(tmp_path / "other", "agent", "run", "--config", config) as other:
            assert other.wait() == 2
        assert one.alive
    assert_one_sentence(other.err, str(tmp_path / "spool.db"), "another agent is running on it")


def assert_one_sentence(err: str, *parts: str) -> None:
    """The error is the last line, holds all of this, and no traceback is before it."""
    last = err.splitlines()[-1]
    assert last.startswith("Error: ")
    assert all(part in last for part in parts), last
    assert "Traceback" not in err and "Usage" not in err
