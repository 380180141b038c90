"""A process of a soak is killed, started again when its time has come, and its ends are told apart."""

import socket
from pathlib import Path

import pytest

from fixtures.processes import free_port, until
from soak.life import AGAIN_S, Kept

WAITS = ("sleep", "60")


def kept(tmp_path: Path, *words: str, port: int | None = None, may_end: bool = False) -> Kept:
    return Kept("one", "kind", words, tmp_path, port=port, may_end=may_end)


def tended(one: Kept) -> Kept:
    one.tend(1.0)
    return one


def test_a_killed_process_is_started_again_when_it_is_due(tmp_path: Path) -> None:
    one = kept(tmp_path, *WAITS)
    one.tend(0.0)
    assert not one.kill(1.0, down_s=2.0)
    one.tend(2.0)
    assert one.kill(5.0, down_s=2.0)
    assert not one.kill(5.1, down_s=2.0)
    one.tend(6.9)
    assert not one.runs
    one.tend(7.0)
    assert one.runs
    one.sample(8.0)
    assert one.end(9.0) == -15
    assert [(life.began_s, life.ended_s) for life in one.lives] == [(0.0, 5.0), (7.0, 9.0)]
    assert one.lives[-1].resident[0][1] > 0
    assert one.by_itself == []


@pytest.mark.parametrize("may_end", [False, True])
def test_an_end_that_nobody_asked_for_is_told(tmp_path: Path, may_end: bool) -> None:
    one = kept(tmp_path, "false", may_end=may_end)
    one.start(0.0)
    until(lambda: tended(one).by_itself, "its end")
    assert one.by_itself == [(1.0, 1)]
    one.tend(1.0 + AGAIN_S)
    assert one.runs
    one.end(2.0 + AGAIN_S)


def test_a_good_end_is_the_last(tmp_path: Path) -> None:
    one = kept(tmp_path, "true", may_end=True)
    one.start(0.0)
    until(lambda: tended(one).is_done, "its end")
    one.tend(100.0)
    assert not one.runs
    assert one.by_itself == []


def test_a_process_is_at_work_once_it_listens(tmp_path: Path) -> None:
    port = free_port()
    one = kept(tmp_path, *WAITS, port=port)
    for now_s in (0.0, 1.0, 2.0):
        one.tend(now_s)
    assert not one.kill(3.0, down_s=0.0)
    with socket.create_server(("127.0.0.1", port)):
        one.tend(4.0)
    assert one.lives[-1].at_work_s == 4.0
    assert one.kill(5.0, down_s=0.0)


def test_what_is_closed_does_not_come_back(tmp_path: Path) -> None:
    one = kept(tmp_path, *WAITS)
    one.start(0.0)
    one.close(1.0)
    one.tend(100.0)
    assert one.is_done
