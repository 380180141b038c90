"""The command `explain`: names, filters and URLs become one question."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlsplit

import click
import pytest
from click.testing import CliRunner, Result

from fixtures.web_service import WebService
from joulefleet_collector.explain_cli import explain, read_url


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, WebService]]:
    service = WebService()
    service.status, service.content = status, body
    try:
        yield f"http://127.0.0.1:{service.port}", service
    finally:
        service.end()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(explain, arguments)


def asked(service: WebService, number: int = 0) -> list[tuple[str, str]]:
    path = service.asked[number]["path"]
    assert urlsplit(path).path == "/v1/explain"
    return parse_qsl(urlsplit(path).query, keep_blank_values=True)


def test_options_become_filters_of_the_question() -> None:
    with answering(200, b'{"x": 1}') as (url, service):
        options = [
            "--model",
            "llama",
            "--server",
            "gpu-17",
            "--where",
            "rack=r1",
            "--where",
            "owner=",
            "--windows",
            "5",
        ]
        result = run("joules_per_request", "--collector", url, "--since", "-1h", "--by", "", *options, "--json")
    assert (result.exit_code, result.stdout) == (0, '{"x": 1}\n')
    assert asked(service) == [
        ("figure", "joules_per_request"),
        ("since", "-1h"),
        ("model", "llama"),
        ("server", "gpu-17"),
        ("rack", "r1"),
        ("owner", ""),
        ("by", ""),
        ("windows", "5"),
    ]


def test_the_url_of_a_report_is_asked_at_its_own_collector() -> None:
    with answering(200, b"{}") as (url, service):
        run(f"{url}/v1/usage?since=-1h&by=model&model=llama%203&rack=#wh_per_1k_requests", "--json")
        run(f"{url}/v1/usage?model=m", "--boundary", "server", "--json")
    assert asked(service) == [
        ("figure", "wh_per_1k_requests"),
        ("since", "-1h"),
        ("by", "model"),
        ("model", "llama 3"),
        ("rack", ""),
    ]
    assert asked(service, 1) == [("model", "m"), ("boundary", "server")]


@pytest.mark.parametrize(
    ("text", "base", "options"),
    [
        ("https://host/fleet/v1/usage?a=b#c", "https://host/fleet", [("figure", "c"), ("a", "b")]),
        ("http://host:1/v1/explain?figure=x&a=b", "http://host:1", [("figure", "x"), ("a", "b")]),
        ("http://host:1/v1/explain?figure=x#y", "http://host:1", [("figure", "y")]),
        ("http://host:1/v1/usage", "http://host:1", []),
    ],
)
def test_forms_of_urls(text: str, base: str, options: list[tuple[str, str]]) -> None:
    assert read_url(text) == (base, options)


@pytest.mark.parametrize("text", ["http://host/", "http://host/v1/agents#x", "ftp://host/x"])
def test_another_url_is_none(text: str) -> None:
    with pytest.raises(click.UsageError, match="is no address of a report"):
        read_url(text)


def test_what_is_wrong_is_exit_code_2_in_one_sentence() -> None:
    wrong = run("energy_j", "--where", "rack")
    assert wrong.exit_code == 2 and "write --where hardware=H100" in wrong.stderr
    with answering(400, b'{"status":400,"error":"\'x\' is no figure"}') as (url, _):
        refused = run("x", "--collector", url)
    assert refused.exit_code == 2 and "'x' is no figure" in refused.stderr
    assert run("ftp://host/v1/usage").exit_code == 2
