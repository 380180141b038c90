"""Threads in which questions to the store are answered, apart from all others.

Where the store answers late, neither batches nor `/-/ready` wait behind questions.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 4
"""Questions that are answered at a time; the others wait."""

T = TypeVar("T")


class Asking:
    """Answers questions, some at a time."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, "ask")

    async def done(self, work: Callable[..., T], *said: object) -> T:
        """What `work(*said)` gives, or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *said)
