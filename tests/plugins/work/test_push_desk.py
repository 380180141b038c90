"""From a body to its answer: what is durable, what is refused, and how many requests run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.virtual_agent import Clock
from joulefleet.reading import Counts, WorkKey
from joulefleet_plugins.work.push_desk import RUNNING_FOR_S, Desk
from joulefleet_plugins.work.push_file import PushFile

KEY = WorkKey("M")


def body(seq: int, requests: int = 1, **changes: Any) -> bytes:
    told = {"engine": "e", "model": "M", "sender": "s", "seq": seq, "counts": {"requests_ok": requests}, **changes}
    return json.dumps(told).encode()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[PushFile]:
    opened = PushFile(tmp_path / "push.db")
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock(1_790_000_000)


def test_what_is_answered_with_200_is_on_disk(file: PushFile, clock: Clock) -> None:
    desk = Desk(file, {"e"}, clock)
    assert desk.take(body(1, 3)) == (200, {"counted": 1, "repeated": 0, "baselines": 0})
    assert desk.take(body(1, 3)) == (200, {"counted": 0, "repeated": 1, "baselines": 0})
    assert desk.counts() == {"e": {KEY: Counts(requests_ok=3)}} == Desk(file, {"e"}, clock).counts()
    assert Desk(file, {"e"}, clock).take(body(1, 3)).told["repeated"] == 1, "the next process remembers it too"


def test_what_is_refused_leaves_no_trace(file: PushFile, clock: Clock) -> None:
    desk = Desk(file, {"e"}, clock)
    for wrong in (b"{", body(1, -1), body(1, engine="x"), b"[" + body(1) + b"," + body(2, tenant="x" * 10_000) + b"]"):
        status, told = desk.take(wrong)
        assert (status, list(told)) == (400, ["error"])
    assert desk.counts() == Desk(file, {"e"}, clock).counts() == {}
    assert desk.take(body(1)).told["counted"] == 1


def test_what_cannot_be_kept_is_not_counted_and_may_be_sent_again(tmp_path: Path, clock: Clock) -> None:
    file = PushFile(tmp_path / "push.db")
    desk = Desk(file, {"e"}, clock)
    file.close()
    status, told = desk.take(body(1))
    assert status == 503 and "not kept" in told["error"]
    assert desk.counts() == {}


def test_an_empty_body_of_messages_changes_nothing(file: PushFile, clock: Clock) -> None:
    assert Desk(file, {"e"}, clock).take(b"[]") == (200, {"counted": 0, "repeated": 0, "baselines": 0})


def test_requests_in_flight_are_those_of_all_senders_that_told_lately(file: PushFile, clock: Clock) -> None:
    desk = Desk(file, {"e", "other"}, clock)
    assert desk.running("e") is None
    desk.take(body(1, running=3))
    desk.take(body(1, running=4, sender="second"))
    desk.take(body(2, running=5))
    assert desk.running("e") == 9
    assert desk.running("other") is None
    clock.now_ns += int(RUNNING_FOR_S) - 1
    desk.take(body(3, running=1))
    assert desk.running("e") == 5
    clock.now_ns += 2
    assert desk.running("e") == 1
    clock.now_ns += int(RUNNING_FOR_S)
    assert desk.running("e") is None, "what nobody told lately is not known, which is not 0"
