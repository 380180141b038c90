"""The rounds in which sums are made: each gets what the one before gave, and none outlives the collector."""

import asyncio
import logging
import threading

import pytest

from joulefleet_collector.store.freshness import Marks
from joulefleet_collector.store.rolling import rolled_up
from joulefleet_collector.store.store import StoreUnavailable


class Rounds:
    """A fake store that counts its rounds and fails in those that are named."""

    def __init__(self, failing: dict[int, Exception], until: int) -> None:
        self.seen: list[Marks] = []
        self.reached = asyncio.Event()
        self._failing = failing
        self._until = until
        self._loop = asyncio.get_running_loop()

    def roll_up(self, seen: Marks) -> Marks:
        self.seen.append(seen)
        number = len(self.seen)
        if number == self._until:
            self._loop.call_soon_threadsafe(self.reached.set)
        if number in self._failing:
            raise self._failing[number]
        return Marks({0: number})


async def test_each_round_gets_what_the_one_before_gave() -> None:
    rounds = Rounds({}, until=3)
    async with rolled_up(rounds.roll_up, round_s=0.0):
        await rounds.reached.wait()
    assert rounds.seen[:3] == [Marks(), Marks({0: 1}), Marks({0: 2})]
    done = len(rounds.seen)
    await asyncio.sleep(0)
    assert len(rounds.seen) == done


async def test_a_round_that_fails_is_told_and_the_next_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    rounds = Rounds({2: StoreUnavailable("x", "down", "start it"), 3: ZeroDivisionError()}, until=5)
    with caplog.at_level(logging.WARNING):
        async with rolled_up(rounds.roll_up, round_s=0.0):
            await rounds.reached.wait()
    assert rounds.seen[:5] == [Marks(), Marks({0: 1}), Marks(), Marks(), Marks({0: 4})]
    assert "sums of hours and days wait: x: down; start it" in caplog.messages


async def test_a_round_that_hangs_does_not_hold_up_the_end() -> None:
    loop, began, closed = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def hang(seen: Marks) -> Marks:
        loop.call_soon_threadsafe(began.set)
        closed.wait()
        return seen

    try:
        async with asyncio.timeout(30), rolled_up(hang, end_s=0.01):
            await began.wait()
    finally:
        closed.set()
