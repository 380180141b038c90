"""The source as the agent uses it: what it declares, where it listens, and that nothing is lost at its beginning."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fixtures.unix_http import post
from fixtures.virtual_agent import Clock
from joulefleet.config import ConfigError
from joulefleet.describe import Engine, Reservation
from joulefleet.reading import Counts, WorkKey, WorkReading
from joulefleet.source import SourceUnavailable
from joulefleet_plugins.work.push import BEGIN_AFTER_S, PATH, PushSource, opened

KEY = WorkKey("M", "", "t")


@pytest.fixture
def clock() -> Clock:
    """In seconds."""
    return Clock(1_790_000_000)


@pytest.fixture
def start(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., PushSource]]:
    sources: list[PushSource] = []

    def make(**keys: Any) -> PushSource:
        table = {
            "socket": str(tmp_path / "work.sock"),
            "file": str(tmp_path / "push.db"),
            "engines": [{"id": "e"}],
            **keys,
        }
        sources.append(opened(table, clock))
        return sources[-1]

    yield make
    for source in sources:
        source.close()


def tell(at: Path, seq: int, requests: int = 1, **changes: Any) -> dict[str, Any]:
    told = {"engine": "e", "model": "M", "tenant": "t", "sender": "s", "seq": seq, "counts": {"requests_ok": requests}}
    status, answer = post(at, PATH, json.dumps({**told, **changes}).encode())
    assert status == 200, answer
    return answer


def requests(source: PushSource) -> int | None:
    """Those of KEY in what is read now; None where it is not named."""
    (reading,) = source.read()
    assert isinstance(reading, WorkReading)
    return reading.counts[KEY].requests_ok if KEY in reading.counts else None


def test_what_is_declared(start: Callable[..., PushSource]) -> None:
    gateway = {"id": "g", "software": "mine", "count_at": "engine", "hardware": "card", "group": "x", "group_size": 2}
    source = start(engines=[{"id": "e", "devices": ["GPU-1"], "version": "3"}, gateway], period_s=2)
    shared = {"period_ns": 2_000_000_000, "counts_at_finish": True}
    assert source.declares == (
        Engine(id="e", software="push", version="3", devices=(Reservation("GPU-1"),), **shared),
        Engine(id="g", software="mine", front=True, hardware="card", group="x", group_size=2, **shared),
    )


def test_a_new_engine_stands_at_0_until_it_has_been_read_for_a_while_and_then_all_counts(
    start: Callable[..., PushSource], tmp_path: Path, clock: Clock
) -> None:
    source, at = start(), tmp_path / "work.sock"
    tell(at, 1, 3)
    assert requests(source) is None
    clock.now_ns += int(BEGIN_AFTER_S) - 1
    tell(at, 2, 4)
    assert requests(source) is None
    clock.now_ns += 1
    assert requests(source) == 7
    tell(at, 3, 5)
    assert requests(source) == 12


def test_an_engine_that_was_read_for_too_short_a_time_begins_anew_in_the_next_process(
    start: Callable[..., PushSource], tmp_path: Path, clock: Clock
) -> None:
    source, at = start(), tmp_path / "work.sock"
    tell(at, 1, 3)
    requests(source)
    clock.now_ns += int(BEGIN_AFTER_S) - 1
    source.close()
    source = start()
    assert requests(source) is None, "who read it before may not have kept that it stood at 0"
    clock.now_ns += 5
    assert requests(source) is None
    clock.now_ns += int(BEGIN_AFTER_S)
    assert requests(source) == 3


def test_what_is_told_before_the_first_reading_of_a_process_comes_with_the_second(
    start: Callable[..., PushSource], tmp_path: Path, clock: Clock
) -> None:
    source, at = start(), tmp_path / "work.sock"
    tell(at, 1, 3)
    requests(source)
    clock.now_ns += int(BEGIN_AFTER_S)
    assert requests(source) == 3
    source.close()
    source = start()
    tell(at, 2, 10)
    assert requests(source) == 3
    assert requests(source) == 13


def test_a_life_of_the_counters_is_that_of_the_file(start: Callable[..., PushSource], tmp_path: Path) -> None:
    def epoch(source: PushSource) -> str:
        (reading,) = source.read()
        assert isinstance(reading, WorkReading)
        return reading.epoch

    first = start()
    life = epoch(first)
    first.close()
    assert epoch(start()) == life
    assert epoch(start(file=str(tmp_path / "other.db"), socket=str(tmp_path / "other"))) != life


def test_requests_in_flight_are_told(start: Callable[..., PushSource], tmp_path: Path) -> None:
    source = start()
    tell(tmp_path / "work.sock", 1, running=4)
    (reading,) = source.read()
    assert isinstance(reading, WorkReading)
    assert (reading.running, reading.counts) == (4, {})


def test_at_loopback(start: Callable[..., PushSource], tmp_path: Path, clock: Clock) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(SourceUnavailable) as error:
            start(listen=f"127.0.0.1:{port}")
        assert (error.value.code, str(port) in str(error.value)) == ("cannot_listen", True)
    source = start(listen="127.0.0.1:0")
    assert source.door is not None
    assert source.door.server_address[0] == "127.0.0.1"
    assert not (tmp_path / "work.sock").exists()


def test_a_place_where_it_cannot_listen_or_keep(start: Callable[..., PushSource], tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable) as error:
        start(socket=str(tmp_path / "absent" / "s"))
    assert error.value.code == "cannot_listen"
    with pytest.raises(SourceUnavailable) as error:
        start(file=str(tmp_path / "absent" / "push.db"))
    assert error.value.code == "not_kept"
    start()
    with pytest.raises(SourceUnavailable) as error:
        start(socket=str(tmp_path / "second"))
    assert error.value.code == "not_kept", "one file is not for two agents"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"listen": "0.0.0.0:9465"}, "this machine only"),
        ({"listen": "10.0.0.7:9465"}, "this machine only"),
        ({"listen": "127.0.0.1"}, "this machine only"),
        ({"listen": "127.0.0.1:99999"}, "this machine only"),
        ({"engines": []}, "engines"),
        ({"engines": [{"id": "e"}, {"id": "e"}]}, "one `id`"),
        ({"engines": [{"id": f"e{number}"} for number in range(65)]}, "engines"),
        ({"engines": [{"id": "e", "model": "M"}]}, "model"),
        ({"engines": [{"id": "e", "devices": ["a", "a"]}]}, "twice"),
        ({"sockets": "x"}, "sockets"),
    ],
)
def test_a_config_that_cannot_be_used(start: Callable[..., PushSource], keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        start(**keys)


def test_counts_of_a_sender_reach_the_reading_as_they_were_told(
    start: Callable[..., PushSource], tmp_path: Path, clock: Clock
) -> None:
    source = start()
    source.read()
    clock.now_ns += int(BEGIN_AFTER_S)
    told = {"requests_ok": 2, "prompt_tokens": 100, "cached_tokens": 40, "output_tokens": 30, "busy_s": 0.5}
    tell(tmp_path / "work.sock", 1, counts=told, revision="r")
    (reading,) = source.read()
    assert isinstance(reading, WorkReading)
    assert reading.counts == {
        WorkKey("M", "r", "t"): Counts(
            requests_ok=2, prompt_tokens=100, cached_tokens=40, output_tokens=30, busy_ns=500_000_000
        )
    }
