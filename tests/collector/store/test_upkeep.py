"""Pruning beside the collector: goes on after a failure, and is over when it is told to end."""

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest

from joulefleet_collector.store.retention import Pruned
from joulefleet_collector.store.store import StoreUnavailable
from joulefleet_collector.store.upkeep import upkeep

MORE, NO_MORE = Pruned(1, 0, 0, True), Pruned(0, 0, 0, False)
NEVER_S = 3600.0


class Pruning:
    """Gives what it was made with, one a call, and tells the loop when nothing is left."""

    def __init__(self, *outcomes: Pruned | Exception) -> None:
        self.calls = 0
        self.done = asyncio.Event()
        self._outcomes: Iterator[Pruned | Exception] = iter(outcomes)
        self._left = len(outcomes)
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> Pruned:
        self.calls += 1
        if self.calls >= self._left:
            self._loop.call_soon_threadsafe(self.done.set)
        outcome = next(self._outcomes, NO_MORE)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def test_it_prunes_at_once_and_soon_again_while_there_is_more() -> None:
    prune = Pruning(MORE, MORE, NO_MORE)
    async with upkeep(prune, soon_s=0, later_s=NEVER_S):
        await prune.done.wait()
    assert prune.calls == 3


async def test_it_waits_long_when_there_is_no_more() -> None:
    prune = Pruning(NO_MORE, NO_MORE, NO_MORE)
    async with upkeep(prune, soon_s=NEVER_S, later_s=0):
        await prune.done.wait()
    assert prune.calls >= 3


@pytest.mark.parametrize(
    ("fault", "said"),
    [(StoreUnavailable("x", "the disk is full", "free space"), "the disk is full"), (KeyError("x"), "pruning failed")],
)
async def test_a_failure_is_told_and_it_goes_on(fault: Exception, said: str, caplog: pytest.LogCaptureFixture) -> None:
    prune = Pruning(fault, NO_MORE)
    with caplog.at_level(logging.WARNING):
        async with upkeep(prune, soon_s=NEVER_S, later_s=0):
            await prune.done.wait()
    assert prune.calls >= 2 and said in caplog.text


async def test_none_is_under_way_when_it_has_ended() -> None:
    begun, may_end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def prune() -> Pruned:
        begun.set()
        may_end.wait()
        ended.append(True)
        return NO_MORE

    async with upkeep(prune, later_s=NEVER_S):
        await asyncio.to_thread(begun.wait)
        asyncio.get_running_loop().call_soon(may_end.set)
    assert ended == [True]


async def test_an_error_inside_ends_it_and_passes_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with upkeep(Pruning(), later_s=NEVER_S):
            raise ZeroDivisionError
