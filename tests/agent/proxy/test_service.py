"""The proxy as a process: it ends with the answers in hand, and tells its service manager how it is."""

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.fake_appliance import FakeAppliance, in_a_thread
from fixtures.processes import Command, running, until
from joulefleet.config import ConfigError
from joulefleet_agent.proxy.config import ProxyConfig
from joulefleet_agent.proxy.service import energy_of, tenants_of

BODY = json.dumps({"model": "m", "stream": True}).encode()


@pytest.fixture
def slow() -> Iterator[FakeAppliance]:
    with in_a_thread(FakeAppliance(words=30, pause_s=0.02)) as appliance:
        yield appliance


def address(command: Command, before: str = "listens on ") -> str:
    until(lambda: before in command.out or not command.alive, "the proxy to listen")
    return command.out.split(before)[1].split(",")[0].strip()


def started(tmp_path: Path, to: str) -> tuple[str, ...]:
    config = tmp_path / "proxy.toml"
    config.write_text(f'to = "{to}"\nlisten = "127.0.0.1:0"\nmetrics = "127.0.0.1:0"\nsalt_file = "{tmp_path}/salt"\n')
    return ("agent", "proxy", "--config", str(config))


def test_answers_in_hand_go_on_to_their_end(tmp_path: Path, slow: FakeAppliance) -> None:
    with running(tmp_path / "proxy", *started(tmp_path, slow.url)) as command:
        question = urllib.request.Request(address(command) + "/v1/chat/completions", BODY)
        with urllib.request.urlopen(question) as answer:
            first = answer.read(10)
            ends: list[int] = []
            ending = threading.Thread(target=lambda: ends.append(command.end()))
            ending.start()
            told = first + answer.read()
        ending.join(30)
    assert told == slow.sent[0]
    assert told.endswith(b"data: [DONE]\n\n")
    assert ends == [0], command.err


def test_it_tells_its_service_manager(tmp_path: Path, slow: FakeAppliance) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        words = started(tmp_path, slow.url)
        with running(tmp_path / "proxy", *words, NOTIFY_SOCKET=str(tmp_path / "notify")) as command:
            assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"WATCHDOG=1"]
            assert command.end() == 0
            assert manager.recv(100) == b"STOPPING=1"


def test_the_page_is_at_another_address_than_the_answers(tmp_path: Path, slow: FakeAppliance) -> None:
    with running(tmp_path / "proxy", *started(tmp_path, slow.url)) as command:
        page_url = address(command, "metrics on ")
        with urllib.request.urlopen(page_url) as page:
            assert b"\nprocess_start_time_seconds " in page.read()
        assert page_url.split(":")[2] != address(command).split(":")[2]


def test_files_of_no_use_are_told_before_it_listens(tmp_path: Path) -> None:
    salt = str(tmp_path / "salt")
    with pytest.raises(ConfigError, match="tenants cannot be read"):
        tenants_of(ProxyConfig(to="http://a", salt_file=salt, tenants_file=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match="secret cannot be read"):
        energy_of(ProxyConfig(to="http://a", energy_from="http://c", energy_token_file=str(tmp_path / "none")))
    assert energy_of(ProxyConfig(to="http://a")) is None
