"""The source as the agent uses it, against a server on loopback."""

import runpy
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from joulefleet.config import ConfigError
from joulefleet.describe import Engine, Reservation
from joulefleet.reading import Counts, Failure, WorkKey, WorkReading
from joulefleet.source import SourceUnavailable
from joulefleet_plugins.work.openmetrics import ASK_VERSION_AGAIN_READS, open

FakeVllm = runpy.run_path(str(Path(__file__).parents[2] / "fixtures" / "fake_vllm.py"))["FakeVllm"]

PAGE = "vllm:generation_tokens_total 7\n"


@pytest.fixture
def vllm() -> Iterator[Any]:
    with FakeVllm(model="M") as server:
        yield server


def read(source: Any) -> WorkReading:
    [reading] = source.read()
    assert isinstance(reading, WorkReading), reading
    return reading


def failed(source: Any) -> Failure:
    [failure] = source.read()
    assert isinstance(failure, Failure), failure
    assert failure.subject == source.declares[0].id
    return failure


Answer = tuple[int, str, bytes]


@pytest.fixture
def serving() -> Iterator[Callable[[Callable[[str], Answer]], str]]:
    """Starts servers that answer each path by a function."""
    servers: list[HTTPServer] = []

    def start(answer: Callable[[str], Answer]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, content_type, body = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fixed(body: str | bytes, content_type: str = "text/plain") -> Callable[[str], Answer]:
    return lambda _: (200, content_type, body if isinstance(body, bytes) else body.encode())


def test_what_is_declared() -> None:
    source = open(
        {
            "url": "http://127.0.0.1:8000/metrics",
            "software": "vllm",
            "devices": ["GPU-1", {"meter": "GPU-2", "share": 0.25}, {"meter": "GPU-3"}],
            "group": "g",
            "group_size": 2,
            "phase": "decode",
            "hardware": "chip-1",
            "period_s": 1,
            "timeout_s": 2,
        }
    )
    assert source.declares == (
        Engine(
            id="vllm@127.0.0.1:8000",
            software="vllm",
            group="g",
            group_size=2,
            phase="decode",
            hardware="chip-1",
            devices=(Reservation("GPU-1"), Reservation("GPU-2", 250_000), Reservation("GPU-3")),
            period_ns=1_000_000_000,
            port=8000,
        ),
    )
    assert source.period_ns == 1_000_000_000
    assert source.deadline_ns >= 8_000_000_000, "a page and a version take up to twice the timeout each"


def test_defaults() -> None:
    source = open({"url": "http://[::1]", "id": "mine", "software": "vllm"})
    assert source.period_ns == 5_000_000_000
    assert source.declares == (Engine(id="mine", software="vllm", period_ns=5_000_000_000, port=80),)


def test_only_a_port_of_this_server_tells_its_processes() -> None:
    (engine,) = open({"url": "http://10.0.0.7:8000", "unit": "vllm-a.service", "software": "vllm"}).declares
    assert isinstance(engine, Engine)
    assert (engine.port, engine.unit) == (0, "vllm-a.service")
    assert open({"url": "http://[::1]", "software": "vllm"}).declares[0].id == "vllm@[::1]:80"


def test_a_server_named_by_a_name_or_an_address_of_this_machine_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    nics = {"eth0": [SimpleNamespace(address="10.0.0.7"), SimpleNamespace(address="fe80::1")]}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: nics)
    hosts = ("127.0.0.9", "localhost", socket.gethostname(), "10.0.0.7", "[fe80::1]", "10.0.0.8", "other")
    ports = []
    for host in hosts:
        (engine,) = open({"url": f"http://{host}:8000", "software": "vllm"}).declares
        assert isinstance(engine, Engine)
        ports.append(engine.port)
    assert ports == [8000] * 5 + [0] * 2


def test_a_server_is_read(vllm: Any) -> None:
    vllm.serve(prompt=512, output=128, latency_s=2.0, cached=256)
    vllm.running, vllm.queued = 3, 1
    source = open({"url": f"http://{vllm.address}"})
    reading = read(source)
    assert reading.engine == f"vllm@{vllm.address}"
    assert reading.version == "0.14.0"
    assert reading.epoch == "1753795326.5"
    assert reading.counts == {
        WorkKey("M"): Counts(
            requests_ok=1,
            requests_failed=0,
            requests_aborted=0,
            prompt_tokens=512,
            cached_tokens=256,
            output_tokens=128,
        )
    }
    assert reading.latency[WorkKey("M")]["e2e"]["2.5"] == 1
    assert (reading.running, reading.queued) == (3, 1)
    vllm.serve(prompt=8, output=2)
    assert read(source).counts[WorkKey("M")].prompt_tokens == 520
    assert vllm.connections == 1, "the connection was not kept"


def test_a_name_of_ones_own_for_the_model(vllm: Any) -> None:
    assert read(open({"url": vllm.url, "model": "mine"})).counts.keys() == {WorkKey("mine")}


def test_a_server_that_is_not_up_yet_is_no_error(vllm: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    source = open({"url": f"http://127.0.0.1:{port}"})
    assert failed(source).code == "scrape_failed"


def test_a_restart_begins_another_epoch_and_tells_its_version(vllm: Any) -> None:
    source = open({"url": vllm.url})
    vllm.serve(prompt=10, output=10)
    before = read(source)
    vllm.refuse()
    assert failed(source).code == "scrape_failed"
    vllm.restart(version="0.15.0")
    vllm.accept()
    after = read(source)
    assert after.counts[WorkKey("M")].output_tokens == 0
    assert (before.version, after.version) == ("0.14.0", "0.15.0")
    assert before.epoch < after.epoch


def test_now_one_process_and_now_another_has_no_counts(serving: Callable[[Callable[[str], Answer]], str]) -> None:
    began = [1.5]
    url = serving(lambda _: (200, "text/plain", f"process_start_time_seconds {began[0]}\n{PAGE}".encode()))
    source = open({"url": f"{url}/metrics", "software": "vllm", "model": "M"})
    assert read(source).epoch == "1.5"
    began[0] = 2.5
    assert read(source).epoch == "2.5", "it may have been started anew"
    began[0] = 1.5
    assert failed(source).code == "several_processes"


def test_a_restart_between_two_scrapes_is_seen(vllm: Any) -> None:
    source = open({"url": vllm.url})
    before = read(source)
    vllm.restart(version="0.15.0")
    vllm.serve(prompt=10, output=10)
    after = read(source)
    assert before.epoch != after.epoch
    assert after.version == "0.15.0"


def test_the_version_is_asked_once_in_a_life(serving: Any) -> None:
    asked: list[str] = []

    def answer(path: str) -> Answer:
        asked.append(path)
        return 200, "text/plain", b'{"version": "1.2"}' if path == "/version" else PAGE.encode()

    source = open({"url": serving(answer)})
    assert {read(source).version for _ in range(ASK_VERSION_AGAIN_READS * 2)} == {"1.2"}
    assert asked.count("/version") == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"version": 3}', b'{"other": "x"}', b"[" * 100_000])
def test_a_version_that_is_not_told_costs_no_count_and_is_asked_again(serving: Any, body: bytes) -> None:
    told = [(404, "text/plain", b""), (200, "application/json", body)]

    def answer(path: str) -> Answer:
        if path == "/metrics":
            return 200, "text/plain", PAGE.encode()
        return told.pop(0) if told else (200, "application/json", b'{"version": "1.2"}')

    source = open({"url": serving(answer)})
    versions = [read(source).version for _ in range(2 * ASK_VERSION_AGAIN_READS + 1)]
    assert versions == [""] * (2 * ASK_VERSION_AGAIN_READS) + ["1.2"]


def test_a_version_from_elsewhere(serving: Any) -> None:
    page, elsewhere = serving(fixed(PAGE)), serving(fixed('{"version": "from elsewhere"}'))
    assert read(open({"url": page, "version_url": f"{elsewhere}/v"})).version == "from elsewhere"


@pytest.mark.parametrize(
    ("body", "content_type", "code", "words"),
    [
        ("python_info 1\n", "text/plain", "unrecognised", "--disable-log-stats"),
        ("", "text/plain", "unrecognised", "vllm"),
        ("<html>\n", "text/html", "malformed", "line 1"),
        (PAGE + "vllm:prompt_tokens_total many\n", "text/plain", "malformed", "line 2"),
        (b'vllm:generation_tokens_total{a="\xff"} 7\n', "text/plain", "malformed", "UTF-8"),
        (PAGE + "vllm:prompt_tok", "text/plain", "truncated", "end"),
        (PAGE, "application/openmetrics-text; version=1.0.0", "truncated", "EOF"),
    ],
)
def test_pages_of_which_nothing_is_counted(
    serving: Any, body: str | bytes, content_type: str, code: str, words: str
) -> None:
    failure = failed(open({"url": serving(fixed(body, content_type)), "software": "vllm"}))
    assert failure.code == code
    assert words in failure.detail


def test_openmetrics_and_json_strings_are_read(serving: Any) -> None:
    source = open({"url": serving(fixed(PAGE + "# EOF\n", "application/openmetrics-text; version=1.0.0"))})
    assert read(source).counts[WorkKey("")].output_tokens == 7
    escaped = '"' + PAGE.replace("\n", "\\n") + '"'
    assert read(open({"url": serving(fixed(escaped))})).counts[WorkKey("")].output_tokens == 7


@pytest.mark.parametrize("key", ["url", "version_url"])
def test_a_url_that_is_none(key: str) -> None:
    with pytest.raises(SourceUnavailable) as error:
        open({"url": "http://127.0.0.1:8000", key: "localhost:8000/metrics"})
    assert error.value.code == "bad_url"
    assert "localhost:8000/metrics" in str(error.value)
    assert "http://127.0.0.1:8000" in error.value.mend


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({}, "url"),
        ({"url": "http://a", "perod_s": 5}, "perod_s"),
        ({"url": "http://a", "period_s": 0.5}, "period_s"),
        ({"url": "http://a", "timeout_s": 0}, "timeout_s"),
        ({"url": "http://a", "software": "vlllm"}, "software"),
        ({"url": "http://a", "software": "vllm", "table": {"software": "mine", "counters": {}}}, "mine"),
        ({"url": "http://a", "table": {"software": "mine", "counters": {"tokens": []}}}, "tokens"),
        ({"url": "http://a", "table": {"software": "mine", "counters": {}, "prefix": ["x"]}}, "prefix"),
        ({"url": "http://a", "devices": [{"meter": "x", "share": 1.5}]}, "devices[0].share"),
        ({"url": "http://a", "devices": ["x", {"meter": "x"}]}, "twice"),
        ({"url": "http://a", "group_size": 2}, "group"),
        ({"url": "http://a", "phase": "both"}, "phase"),
        ({"url": "http://a", "count_at": "here"}, "count_at"),
        ({"url": "http://a", "model": "x", "models": {"a": "b"}}, "models"),
    ],
)
def test_a_config_that_cannot_be_used(table: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as error:
        open(table)
    assert key in str(error.value)


def software_of(source: Any) -> str:
    (engine,) = source.declares
    assert isinstance(engine, Engine)
    return engine.software


def at(pages: dict[str, str]) -> Callable[[str], Answer]:
    return lambda path: (200, "text/plain", pages[path].encode()) if path in pages else (404, "text/plain", b"")


@pytest.mark.parametrize(
    ("path", "text", "software"),
    [
        ("/metrics", PAGE, "vllm"),
        ("/prometheus/metrics", "trtllm_generation_tokens_total 7\n", "tensorrt-llm"),
        ("/monitoring/prometheus/metrics", ":tensorflow:serving:request_count 7\n", "tensorflow-serving"),
    ],
)
def test_whose_page_it_is_and_where_it_is_found_out(serving: Any, path: str, text: str, software: str) -> None:
    address = serving(at({path: text, "/other": ""}))
    source = open({"url": address, "devices": ["GPU-1"]})
    (engine,) = source.declares
    assert (software_of(source), engine.id) == (software, f"{software}@{address.removeprefix('http://')}")
    assert read(source).engine == engine.id
    assert source.declares == (engine,)


def test_a_server_that_comes_later_is_declared_when_it_is_known(serving: Any) -> None:
    pages: dict[str, str] = {}
    source = open({"url": serving(at(pages))})
    assert software_of(source) == "unknown"
    assert failed(source).code == "http_status"
    pages["/metrics"] = "python_info 1\n"
    assert failed(source).code == "unrecognised"
    pages["/metrics"] = "lmdeploy:generation_tokens_total 7\n"
    assert read(source).engine.startswith("lmdeploy@")
    assert software_of(source) == "lmdeploy"
    pages["/metrics"] = PAGE
    assert read(source).engine.startswith("vllm@")
    pages["/metrics"] += "sglang:generation_tokens_total 7\n"
    assert failed(source).code == "ambiguous"


def test_a_gateway_is_read_where_it_is_named(serving: Any) -> None:
    page = 'litellm_output_tokens_metric_total{requested_model="M",team="t"} 7\n'
    address = serving(at({"/metrics/": page, "/metrics": page}))
    assert failed(open({"url": address})).code == "gateway"
    assert read(open({"url": address, "software": "litellm"})).counts == {
        WorkKey("M", "", "t"): Counts(output_tokens=7)
    }


INFO = '{"model_id": "org/model", "model_sha": "8f3a", "version": "3.3.4"}'


def test_a_model_that_the_page_does_not_name_is_asked_for(serving: Any) -> None:
    pages = {"/metrics": "tgi_request_success 7\n"}
    address = serving(at(pages))
    source = open({"url": address})
    failure = failed(source)
    assert failure.code == "model_unknown"
    assert "/info" in failure.detail and "`model`" in failure.detail
    assert read(open({"url": address, "model": "mine"})).counts == {WorkKey("mine"): Counts(requests_ok=7)}
    pages["/info"] = INFO
    for _ in range(3):
        assert read(source).counts == {WorkKey("org/model", "8f3a"): Counts(requests_ok=7)}
    assert read(source).version == "3.3.4"
    del pages["/info"]
    assert read(source).counts.keys() == {WorkKey("org/model", "8f3a")}, "it is asked once in a life"


def test_a_server_of_ones_own_by_a_table(serving: Any) -> None:
    page = 'my_done_total{net="a",how="ok"} 7\nmy_done_total{net="a",how="bad"} 2\nmy_busy_seconds_sum{net="a"} 1.5\n'
    table = {
        "software": "mine",
        "prefixes": ["my_"],
        "model_labels": ["net"],
        "counters": {
            "requests_ok": [{"name": "done", "label": "how", "only": ["ok"]}],
            "requests_failed": [{"name": "done", "label": "how", "but": ["ok"]}],
            "busy_ns": [{"name": "busy_seconds_sum", "unit": "s"}],
        },
    }
    source = open({"url": serving(at({"/metrics": page})), "table": table})
    assert software_of(source) == "mine"
    counts = Counts(requests_ok=7, requests_failed=2, busy_ns=1_500_000_000)
    assert read(source).counts == {WorkKey("a"): counts}
    failure = failed(open({"url": serving(fixed(PAGE)), "table": table}))
    assert failure.detail == "the page has no metric of mine; is this its metrics page?"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"a 1\n" * 13_000_000, "too_large"),
        (b"".join(b'vllm:generation_tokens_total{model_name="%d"} 1\n' % n for n in range(50_001)), "too_large"),
        (bytes(range(256)) * 100, "malformed"),
    ],
    ids=["50 MB", "label sets", "binary"],
)
def test_rubbish_is_refused_and_the_next_page_is_read(serving: Any, body: bytes, code: str) -> None:
    bodies = [body, PAGE.encode()]
    source = open({"url": serving(lambda _: (200, "text/plain", bodies.pop(0))) + "/metrics", "software": "vllm"})
    assert failed(source).code == code
    assert read(source).counts == {WorkKey(""): Counts(output_tokens=7)}


def test_a_long_name_is_cut_and_what_bears_it_is_added_up(serving: Any) -> None:
    long = "x" * 10_000
    page = f'litellm_output_tokens_metric_total{{requested_model="M",team="{long}a"}} 7\n'
    page += f'litellm_output_tokens_metric_total{{requested_model="M",team="{long}b"}} 3\n'
    source = open({"url": serving(fixed(page)), "software": "litellm"})
    assert read(source).counts == {WorkKey("M", "", "x" * 200): Counts(output_tokens=10)}


def test_an_ensemble_is_left_out_where_it_is_named(serving: Any) -> None:
    page = "".join(f'nv_inference_request_success{{model="{one}",version="1"}} 7\n' for one in ("leaf", "ensemble"))
    page += 'nv_inference_exec_count{model="leaf",version="1"} 7\n'
    page += 'nv_inference_compute_infer_duration_us{model="leaf",version="1"} 7\n'
    source = open({"url": serving(fixed(page)), "leave_out": ["ensemble"]})
    assert read(source).counts == {WorkKey("leaf", "1"): Counts(requests_ok=7, busy_ns=0)}


def test_a_page_of_many_workers_is_summed_in_a_life_of_its_own(serving: Any) -> None:
    pages = {"/metrics": 'ray_vllm_generation_tokens_total{WorkerId="a",model_name="M"} 100\n'}
    address = serving(at(pages))
    first, second = open({"url": address}), open({"url": address})
    before = read(first)
    assert before.counts == {WorkKey("M"): Counts(output_tokens=0)}
    pages["/metrics"] = 'ray_vllm_generation_tokens_total{WorkerId="b",model_name="M"} 7\n'
    after = read(first)
    assert after.counts == {WorkKey("M"): Counts(output_tokens=7)}
    assert before.epoch == after.epoch != read(second).epoch


def test_a_model_that_was_told_stays_when_its_version_is_asked_for_in_vain(serving: Any) -> None:
    pages = {"/metrics": "tgi_request_success 7\n", "/info": '{"model_id": "org/model"}'}
    source = open({"url": serving(at(pages))})
    read(source)
    del pages["/info"]
    for _ in range(ASK_VERSION_AGAIN_READS + 2):
        assert read(source).counts.keys() == {WorkKey("org/model")}


@pytest.mark.parametrize(
    ("software", "count_at", "front"),
    [
        ("litellm", None, True),
        ("litellm", "engine", True),
        ("litellm", "gateway", False),
        ("vllm", None, False),
        ("vllm", "engine", True),
        ("vllm", "gateway", False),
    ],
)
def test_at_which_layer_work_is_counted(software: str, count_at: str | None, front: bool) -> None:
    told = {} if count_at is None else {"count_at": count_at}
    (engine,) = open({"url": "http://127.0.0.1:1", "software": software, **told}).declares
    assert isinstance(engine, Engine)
    assert engine.front is front


def test_a_table_of_ones_own_may_be_a_gateways() -> None:
    table = {"software": "mine", "front": True, "counters": {"requests_ok": [{"name": "done"}]}}
    (engine,) = open({"url": "http://127.0.0.1:1", "table": table}).declares
    assert isinstance(engine, Engine)
    assert engine.front


def test_models_bear_the_names_that_their_engines_give_them(serving: Any) -> None:
    page = "".join(
        f'litellm_output_tokens_metric_total{{requested_model="{model}",team="t"}} {tokens}\n'
        for model, tokens in [("chat", 7), ("chat-old", 30), ("other", 100)]
    )
    named = {"chat": "org/model", "chat-old": "org/model"}
    source = open({"url": serving(fixed(page)), "software": "litellm", "models": named})
    assert read(source).counts == {
        WorkKey("org/model", "", "t"): Counts(output_tokens=37),
        WorkKey("other", "", "t"): Counts(output_tokens=100),
    }


def test_a_model_that_was_asked_for_bears_its_engines_name_too(serving: Any) -> None:
    address = serving(at({"/metrics": "tgi_request_success 7\n", "/info": INFO}))
    assert read(open({"url": address, "models": {"org/model": "mine"}})).counts.keys() == {WorkKey("mine", "8f3a")}
