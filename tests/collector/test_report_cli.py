"""The command `report` against a collector on a real socket, and against none."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl, urlsplit

import pytest
from click.testing import CliRunner, Result

from joulefleet_collector.report_cli import report

EMPTY = {"since": "A", "until": "B", "by": ["model"], "step": "none", "rows": [], "ledger": [], "warnings": []}


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[str]]]:
    """A fake collector with one answer; gives its address and the paths it was asked for."""
    asked: list[str] = []

    class Fake(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: the test's output is its own."""

    with HTTPServer(("127.0.0.1", 0), Fake) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def run(url: str, *options: str) -> Result:
    return CliRunner().invoke(report, ["--collector", url, *options])


def test_cost_is_asked_for_at_the_facility() -> None:
    with answering(200, json.dumps(EMPTY).encode()) as (url, asked):
        for options in (["--cost"], ["--cost", "--boundary", "facility"], ["--cost", "--boundary", "server"]):
            assert run(url, *options).exit_code == 0
    boundaries = [[value for name, value in parse_qsl(urlsplit(path).query) if name == "boundary"] for path in asked]
    assert boundaries == [["facility"], ["facility"], ["server", "facility"]]


def test_options_travel_as_they_were_said() -> None:
    with answering(200, json.dumps(EMPTY).encode()) as (url, asked):
        options = ["--since", "-1h", "--by", "model,server", "--step", "hour", "--boundary", "server"]
        result = run(url, *options, "--boundary", "compute")
    assert result.exit_code == 0 and "No engine of this question reported" in result.stdout
    path = urlsplit(asked[0])
    assert path.path == "/v1/usage"
    assert sorted(parse_qsl(path.query)) == [
        ("boundary", "compute"),
        ("boundary", "server"),
        ("by", "model,server"),
        ("since", "-1h"),
        ("step", "hour"),
        ("until", "now"),
    ]


def test_filters_are_values_of_tags_and_may_be_said_several_times() -> None:
    with answering(200, json.dumps(EMPTY).encode()) as (url, asked):
        said = run(url, "--where", "tenant=red", "--where", "tenant=blue", "--where", "rack=", "--where", "a=b=c")
        wrong = run(url, "--where", "tenant")
    assert said.exit_code == 0
    (path,) = asked
    told = parse_qsl(urlsplit(path).query, keep_blank_values=True)
    assert [(name, value) for name, value in told if name not in {"by", "step", "until"}] == [
        ("tenant", "red"),
        ("tenant", "blue"),
        ("rack", ""),
        ("a", "b=c"),
    ]
    assert wrong.exit_code == 2 and "write --where hardware=H100" in wrong.output


def test_json_is_the_answer_as_it_is() -> None:
    body = json.dumps(EMPTY).encode()
    with answering(200, body) as (url, _):
        assert run(url + "/", "--json").stdout_bytes == body + b"\n"


def test_no_collector_is_one_sentence_with_the_address_and_the_mend() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    result = run(url)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert url in result.stderr and "joulefleet collector run" in result.stderr


def test_a_wrong_question_is_exit_code_2_in_the_collectors_words() -> None:
    with answering(400, b'{"status":400,"error":"\'x\' is no tag"}') as (url, _):
        result = run(url, "--by", "x")
    assert result.exit_code == 2 and "'x' is no tag" in result.stderr


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, b'{"error":"the disk is full"}', "the disk is full"),
        (404, b"<html>", "HTTP 404"),
        (200, b"<html>", "no answer"),
    ],
)
def test_other_failures_are_one_sentence_and_exit_code_1(status: int, body: bytes, said: str) -> None:
    with answering(status, body) as (url, _):
        result = run(url)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert said in result.stderr and "Traceback" not in result.output


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:8765", ""])
def test_an_address_that_is_none_is_exit_code_2(url: str) -> None:
    assert run(url).exit_code == 2
