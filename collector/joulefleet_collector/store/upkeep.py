"""Letting go of what is older than shall be kept, all the while that the collector runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from joulefleet_collector.store.retention import Pruned
from joulefleet_collector.store.store import StoreUnavailable

SOON_S = 0.05
"""Until the next part, while there is more: writers go on meanwhile."""
LATER_S = 60.0

LOG = logging.getLogger(__name__)


@asynccontextmanager
async def upkeep(prune: Callable[[], Pruned], soon_s: float = SOON_S, later_s: float = LATER_S) -> AsyncIterator[None]:
    """While inside, call `prune` in a worker thread again and again; none is under way afterwards."""
    ended = asyncio.Event()

    async def prune_on() -> None:
        while not ended.is_set():
            more = await asyncio.to_thread(_prune, prune)
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), soon_s if more else later_s)

    pruning = asyncio.create_task(prune_on())
    try:
        yield
    finally:
        ended.set()
        await pruning


def _prune(prune: Callable[[], Pruned]) -> bool:
    try:
        return prune().more
    except StoreUnavailable as error:
        LOG.warning("nothing pruned: %s", error)
    except Exception:  # a fault of ours costs disk and no figure: taking windows in goes on
        LOG.exception("pruning failed")
    return False
