"""Sending to a collector: everything arrives once, at the rate, and what is refused is counted."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from joulefleet.delivery import Answer, Rejected
from joulefleet_agent.simulate import load
from joulefleet_agent.simulate.load import Connection, Pace, Sent, Silent, send_all


class Clock:
    """Time that passes only while someone sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def quiet(_sent: Sent) -> None:
    """Nobody listens."""


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def batches(make_window: Callable[..., Any], number: int, size: int = 1) -> list[list[bytes]]:
    return [[make_window().encode() for _ in range(size)] for _ in range(number)]


def test_everything_arrives_once_over_several_connections(collector: Any, make_window: Callable[..., Any]) -> None:
    sent = send_all(batches(make_window, 40, 3), [Connection(collector.url) for _ in range(3)], Pace(None), quiet)
    assert sent.windows == 120
    assert sorted(window.start_ns for window in collector.taken) == [k * 60 * 10**9 for k in range(120)]
    assert all(collector.backfills)
    assert sent.wire_bytes > 0
    assert sent.refused == {}


def test_a_busy_collector_gets_it_again(collector: Any, reply: Any, make_window: Callable[..., Any]) -> None:
    collector.replies = [reply(status=503), reply(status=500), reply(cut_after=5)]
    clock = Clock()
    connection = Connection(collector.url, clock, clock.sleep)
    connection.send(batches(make_window, 1, 2)[0])
    connection.close()
    assert connection.sent.windows == 2
    assert len(collector.batches) == 4
    assert len(clock.slept) == 3


def test_what_is_refused_is_counted_by_code(collector: Any, reply: Any, make_window: Callable[..., Any]) -> None:
    collector.replies = [reply(answer=Answer(rejected=[Rejected(index=1, code="too_early")]))]
    connection = Connection(collector.url)
    connection.send(batches(make_window, 1, 3)[0])
    connection.close()
    assert (connection.sent.windows, connection.sent.refused) == (2, {"too_early": 1})


def test_what_is_too_large_is_halved(collector: Any, reply: Any, make_window: Callable[..., Any]) -> None:
    collector.replies = [reply(status=413)]
    connection = Connection(collector.url)
    connection.send(batches(make_window, 1, 4)[0])
    connection.close()
    assert [len(one) for one in collector.batches] == [4, 2, 2]
    assert connection.sent.windows == 4


def test_one_window_that_is_too_large_is_refused(collector: Any, reply: Any, make_window: Callable[..., Any]) -> None:
    collector.replies = [reply(status=413)]
    connection = Connection(collector.url)
    connection.send(batches(make_window, 1)[0])
    connection.close()
    assert (connection.sent.windows, connection.sent.refused) == (0, {"too_large": 1})


def test_a_collector_that_is_not_there_is_given_up() -> None:
    clock = Clock()
    connection = Connection(f"http://127.0.0.1:{closed_port()}", clock, clock.sleep)
    with pytest.raises(Silent, match="not reached"):
        connection.send([b"x"])
    assert load.PATIENCE_S <= clock.now_s - 100 <= load.PATIENCE_S + load.LONGEST_WAIT_S


def test_a_fault_of_one_connection_ends_all(collector: Any, make_window: Callable[..., Any]) -> None:
    clock = Clock()
    bad = Connection(f"http://127.0.0.1:{closed_port()}", clock, clock.sleep)
    with pytest.raises(Silent):
        send_all(iter(lambda: [make_window().encode()], None), [Connection(collector.url), bad], Pace(None), quiet)


def test_the_pace_is_kept() -> None:
    clock = Clock()
    pace = Pace(200, clock, clock.sleep)
    for _ in range(100):
        pace.let(10)
    assert clock.now_s - 100 == pytest.approx((1_000 - 10) / 200)


def test_a_second_at_most_is_made_up_for() -> None:
    clock = Clock()
    pace = Pace(10, clock, clock.sleep)
    pace.let(1)
    clock.now_s += 60
    for _ in range(11):
        pace.let(1)
    assert clock.slept == []
    pace.let(1)
    assert sum(clock.slept) == pytest.approx(0.1)


def test_without_a_pace_nothing_waits() -> None:
    clock = Clock()
    Pace(None, clock, clock.sleep).let(1_000_000)
    assert clock.slept == []
