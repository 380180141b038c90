"""A second server joins with one URL and one token: HTTPS, a token of its own, and nothing without it."""

import json
import random
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from fixtures.collectors import Collector, in_this_process
from joulefleet.delivery import MSGPACK_TYPE, pack, plain
from joulefleet.window import Window
from joulefleet_agent.link import PostLink, StreamLink
from joulefleet_agent.reply import Delivered, Wait
from joulefleet_collector.config import Auth, configure

NOW = 1_790_000_000_000_000_000
COMMAND = [sys.executable, "-m", "joulefleet", "collector"]


def token_of(server: str, keys: Path, *options: str) -> str:
    made = subprocess.run(
        [*COMMAND, "token", server, "--keys", str(keys), *options], capture_output=True, text=True, check=True
    )
    return made.stdout.strip()


def window_of(server: str) -> bytes:
    return Window(
        server=server, timeline=1, start_ns=NOW - NOW % (60 * 10**9) - 120 * 10**9, step_ns=60 * 10**9
    ).encode()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


@pytest.fixture
def collector(tmp_path: Path, keys: Path) -> Iterator[Collector]:
    token_of("a", keys)
    with in_this_process(tmp_path / "store", lambda: NOW, Auth(key_file=str(keys))) as opened:
        yield opened


@pytest.mark.parametrize("kind", [PostLink, StreamLink])
def test_a_server_writes_as_itself_only(collector: Collector, keys: Path, kind: Any) -> None:
    link = kind(collector.url, random.Random(1), token_of("a", keys))
    assert isinstance(link.exchange(plain([window_of("a")]), 0), Delivered)
    verdict = link.exchange(plain([window_of("b")]), 0)
    link.close()
    assert isinstance(verdict, Wait)
    assert verdict.loud
    assert "HTTP 403" in verdict.reason
    assert [window.server for window in collector.windows()] == ["a"]


@pytest.mark.parametrize("kind", [PostLink, StreamLink])
@pytest.mark.parametrize("token", ["", "nonsense"])
def test_without_a_good_token_nothing_is_written(collector: Collector, kind: Any, token: str) -> None:
    link = kind(collector.url, random.Random(1), token)
    verdict = link.exchange(plain([window_of("a")]), 0)
    link.close()
    assert isinstance(verdict, Wait)
    assert "HTTP 401" in verdict.reason
    assert collector.windows() == []


def test_a_token_that_was_withdrawn_no_longer_writes(tmp_path: Path, keys: Path) -> None:
    old, new = token_of("a", keys), token_of("a", keys, "--generation", "2")
    keys.write_text(keys.read_text() + "a = 2\n")
    with in_this_process(tmp_path / "store", lambda: NOW, Auth(key_file=str(keys))) as collector:
        assert isinstance(PostLink(collector.url, random.Random(1), old).exchange(plain([window_of("a")]), 0), Wait)
        assert isinstance(
            PostLink(collector.url, random.Random(1), new).exchange(plain([window_of("a")]), 0), Delivered
        )


def test_a_token_as_json_and_with_an_end(keys: Path) -> None:
    told = json.loads(token_of("a", keys, "--days", "30", "--json"))
    assert (told["server"], told["generation"], told["expires_s"] > 0) == ("a", 1, True)
    assert token_of("b", keys) != told["token"]


def test_another_machine_needs_keys_and_https(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[listen]\nhost = "0.0.0.0"\n')
    done = subprocess.run(
        [*COMMAND, "run", "--data-dir", str(tmp_path / "d"), "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "auth.key_file and listen.tls_certificate" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_https_with_a_token_end_to_end(tmp_path: Path, keys: Path, workers: str) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    made = (
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                str(key),
                "-out",
                str(certificate),
            ],
            capture_output=True,
            check=False,
        )
        if _has_openssl()
        else None
    )
    if made is None or made.returncode:
        pytest.skip("openssl is not on this machine: no certificate can be made")
    token = token_of("a", keys)
    config = tmp_path / "c.toml"
    config.write_text(f'[listen]\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n[auth]\nkey_file = "{keys}"\n')
    process = subprocess.Popen(
        [
            *COMMAND,
            "run",
            "--data-dir",
            str(tmp_path / "d"),
            "--port",
            "0",
            "--config",
            str(config),
            "--workers",
            workers,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split("listens on ")[1].split(",")[0]
        assert url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(certificate))
        headers = {"Content-Type": MSGPACK_TYPE, "Content-Encoding": "zstd", "Authorization": f"Bearer {token}"}
        body = pack([window_of("a")], backfill=True)
        with urlopen(Request(f"{url}/v1/windows", body, headers), context=trust, timeout=20) as answer:
            assert answer.status == 200
        del headers["Authorization"]
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{url}/v1/windows", body, headers), context=trust, timeout=20)
        assert refused.value.code == 401
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def _has_openssl() -> bool:
    try:
        return subprocess.run(["openssl", "version"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_the_default_is_this_machine_only(tmp_path: Path) -> None:
    assert configure(None, str(tmp_path), 0).listen.host == "127.0.0.1"
