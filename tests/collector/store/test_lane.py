"""Messages and answers over a lane: each whole, in turn, and an end that is noticed."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from joulefleet_collector.store.lane import Lane, LaneClosed, serve

DEADLINE_S = 20.0


@contextmanager
def served(answer: Callable[[bytearray], bytes]) -> Iterator[tuple[Lane, socket.socket, threading.Thread]]:
    """A lane, its own end, and the thread that answers at the other."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve, args=(theirs, answer))
    thread.start()
    try:
        yield Lane(ours), ours, thread
    finally:
        ours.close()
        thread.join(DEADLINE_S)
        theirs.close()


@pytest.mark.parametrize("size", [0, 1, 8, 70_000, 5_000_000])
def test_a_message_of_any_size_comes_whole(size: int) -> None:
    with served(lambda message: bytes(message[::-1])) as (lane, _, _):
        message = bytes(range(256)) * (size // 256 + 1)
        for _ in range(2):
            assert lane.ask(message[:size]) == message[:size][::-1]


def test_several_threads_take_turns_and_each_has_its_own_answer() -> None:
    with served(bytes) as (lane, _, _), ThreadPoolExecutor(8) as pool:
        messages = [bytes([number]) * (number * 997) for number in range(200)]
        assert list(pool.map(lane.ask, messages)) == messages


def test_who_answers_ends_when_the_lane_is_closed() -> None:
    with served(bytes) as (lane, ours, thread):
        assert lane.ask(b"x") == b"x"
        ours.close()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("sent", [b"", b"\x05", b"\x05\0\0\0\0\0\0\0", b"\x05\0\0\0\0\0\0\0abc"])
def test_an_answer_that_breaks_off_is_no_answer(sent: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(Lane(ours).ask, b"question")
        with theirs:
            assert theirs.recv(8, socket.MSG_WAITALL)
            assert theirs.recv(8, socket.MSG_WAITALL) == b"question"
            theirs.sendall(sent)
        with pytest.raises(LaneClosed):
            asked.result(DEADLINE_S)


def test_asking_where_nobody_answers_any_more_is_told() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(LaneClosed):
        Lane(ours).ask(b"question")


def test_a_question_that_breaks_off_is_not_answered() -> None:
    ours, theirs = socket.socketpair()
    heard: list[bytearray] = []
    with theirs:
        with ours:
            ours.sendall(b"\x05\0\0\0\0\0\0\0abc")
        serve(theirs, lambda message: heard.append(message) or b"")  # type: ignore[func-returns-value]  # only heard
    assert heard == []
