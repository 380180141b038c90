"""Making the sums of hours and days again and again, all the while that the collector runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from joulefleet_collector.store.freshness import Marks
from joulefleet_collector.store.store import StoreUnavailable

ROUND_S = 60.0
"""Longer than a write can last: what was touched since the round before waits for the next."""
END_S = 5.0
"""How long the last round may take to end; what it asks of a store that hangs ends when that is closed."""

LOG = logging.getLogger(__name__)


@asynccontextmanager
async def rolled_up(
    roll_up: Callable[[Marks], Marks], round_s: float = ROUND_S, end_s: float = END_S
) -> AsyncIterator[None]:
    """While inside, call `roll_up` in a worker thread, each time with what it gave before.

    None begins afterwards. One that does not end soon is broken off when its store is closed; no half sum ever counts.
    """
    ended = asyncio.Event()

    async def go_on() -> None:
        seen = Marks()
        while not ended.is_set():
            seen = await asyncio.to_thread(_round, roll_up, seen)
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), round_s)

    rounds = asyncio.create_task(go_on())
    try:
        yield
    finally:
        ended.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(rounds, end_s)


def _round(roll_up: Callable[[Marks], Marks], seen: Marks) -> Marks:
    try:
        return roll_up(seen)
    except StoreUnavailable as error:
        LOG.warning("sums of hours and days wait: %s", error)
    except Exception:  # a fault of ours costs speed and no figure: questions are answered from the rows
        LOG.exception("sums of hours and days failed")
    return Marks()
