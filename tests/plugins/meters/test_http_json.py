"""The `http_json` source over a real server on loopback: values, times, TLS, secrets, and what breaks."""

import json
import re
import shutil
import ssl
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.web_service import WebService
from joulefleet.config import ConfigError
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import SourceUnavailable
from joulefleet_plugins.meters import http_json

NOW_NS = 1_795_384_800_000_000_000
CARD = {"id": "card", "json": {"power_w": "/power", "time": "/at"}, "max_power_w": 500}


@pytest.fixture
def service() -> Iterator[WebService]:
    made = WebService()
    made.content = b'{"power": 43.9}'
    yield made
    made.end()


def config(service: WebService, **keys: Any) -> dict[str, Any]:
    return {"url": f"http://127.0.0.1:{service.port}/v1/power?card=0", "meters": [CARD], "timeout_s": 20, **keys}


def read_of(service: WebService, **keys: Any) -> Any:
    (one,) = http_json.opened(config(service, **keys), lambda: NOW_NS).read()
    return one


def test_a_page_tells_the_power(service: WebService) -> None:
    source = http_json.open(config(service))
    for _ in range(3):
        assert source.read() == [MeterReading(meter="card", power_mw=43_900)]
    assert service.connections == 1, "the connection is kept"
    assert service.asked[0]["path"] == "/v1/power?card=0"
    assert service.asked[0]["Accept"] == "application/json"


def test_a_time_in_the_page_tells_the_age(service: WebService) -> None:
    service.content = b'{"power": 43.9, "at": "2026-11-22T21:59:57Z"}'
    assert read_of(service) == MeterReading(meter="card", power_mw=43_900, age_ns=3_000_000_000)
    service.content = b'{"power": 43.9, "at": "2026-11-22T21:50:00Z"}'
    assert read_of(service).code == "stale"


def test_a_redfish_resource_is_such_a_page(service: WebService) -> None:
    page = (Path(__file__).parents[3] / "docs/meters/http_json.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (table,) = tomllib.loads(text)["sources"]
    assert table.pop("use") == "http_json"
    del table["secret_headers"], table["ca_file"]
    service.content = json.dumps({"PowerControl": [{"PowerConsumedWatts": 344}]}).encode()
    assert http_json.open({**table, "url": config(service)["url"]}).read() == [
        MeterReading(meter="bmc", power_mw=344_000)
    ]


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_a_refusal_is_a_failure(service: WebService, status: int) -> None:
    service.status = status
    assert (read_of(service).subject, read_of(service).code) == ("", "http_status")


def test_what_is_asked_is_not_told(service: WebService) -> None:
    service.status = 503
    url = f"http://127.0.0.1:{service.port}/power"
    table = {"id": "card", "json": {"id": "/name", "power_w": "/power"}, "max_power_w": 500}
    with pytest.raises(SourceUnavailable) as raised:
        http_json.open(config(service, url=f"{url}?key=hunter2", meters=[table]))
    assert url in str(raised.value)
    assert "hunter2" not in repr(raised.value)


def test_a_redirect_is_not_followed(service: WebService) -> None:
    service.status, service.headers = 302, {"Location": "http://example.invalid/"}
    assert read_of(service).code == "http_status"
    assert len(service.asked) == 1


def test_a_server_that_breaks_is_a_failure_and_read_again_when_it_is_back(service: WebService) -> None:
    source = http_json.open(config(service, timeout_s=1))
    service.closed = True
    assert [one.code for one in source.read() if isinstance(one, Failure)] == ["scrape_failed"]
    service.closed, service.hangs = False, True
    assert [one.code for one in source.read() if isinstance(one, Failure)] == ["timeout"]
    service.mend()
    assert source.read() == [MeterReading(meter="card", power_mw=43_900)]


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"<html>", "malformed"), (b"{}", "no_value"), (b'{"power": "N/A"}', "no_value"), (b" " * 9_000_000, "too_large")],
)
def test_rubbish_is_a_failure(service: WebService, content: bytes, code: str) -> None:
    service.content = content
    assert read_of(service).code == code


def test_a_secret_header_is_read_anew_and_never_told(service: WebService, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("Bearer hunter2\n")
    source = http_json.open(config(service, headers={"X-Site": "a"}, secret_headers={"Authorization": str(token)}))
    source.read()
    token.write_text("Bearer renewed\n")
    source.read()
    assert [one["Authorization"] for one in service.asked] == ["Bearer hunter2", "Bearer renewed"]
    assert service.asked[0]["X-Site"] == "a"
    token.write_text("Bearer hunter3\r\nX-Other: smuggled")
    (failed,) = source.read()
    assert isinstance(failed, Failure)
    assert (failed.code, "hunter" in failed.detail) == ("permission", False)
    assert len(service.asked) == 2


def test_a_page_that_should_say_which_cards_there_are(service: WebService) -> None:
    tables = [{"id": "c", "each": "/cards", "json": {"id": "/n", "power_w": "/w"}, "max_power_w": 500}]
    service.content = b'{"cards": [{"n": 0, "w": 5}, {"n": 1, "w": 6}]}'
    assert http_json.open(config(service, meters=tables)).read() == [
        MeterReading(meter="c-0", power_mw=5_000),
        MeterReading(meter="c-1", power_mw=6_000),
    ]
    service.status = 503
    with pytest.raises(SourceUnavailable) as raised:
        http_json.open(config(service, meters=tables))
    assert raised.value.code == "http_status"
    assert [one.id for one in http_json.opened(config(service)).declares] == ["card"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"url": "127.0.0.1:80"}, "url"),
        ({"url": "http://user:hunter2@127.0.0.1/"}, "url: a URL here holds no user and no password"),
        ({"meters": []}, "meters"),
        ({"timeout": 3}, "timeout"),
        ({"ca_file": "/no/such/file"}, "ca_file"),
        ({"secret_headers": {"Authorization": "/no/such/file"}}, "the secret cannot be read"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(service: WebService, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        http_json.open(config(service, **keys))
    assert "hunter2" not in str(raised.value)


def test_https_is_trusted_by_its_certificate_and_not_without(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on this machine: no certificate can be made")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=bmc",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    subprocess.run(["openssl", *made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    service = WebService(context)
    service.content = b'{"power": 12}'
    url = f"https://127.0.0.1:{service.port}/"
    try:
        assert read_of(service, url=url, ca_file=str(certificate)) == MeterReading(meter="card", power_mw=12_000)
        refused = read_of(service, url=url)
        assert (refused.code, "CERTIFICATE_VERIFY_FAILED" in refused.detail) == ("scrape_failed", True)
    finally:
        service.end()
