"""Questions are answered in threads of their own, a few at a time."""

import asyncio
import threading

import pytest

from joulefleet_collector.asking import AT_ONCE, Asking


async def test_an_answer_and_an_error_come_back() -> None:
    asking = Asking()
    assert await asking.done(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        await asking.done(divmod, 1, 0)


async def test_questions_that_hang_hold_up_others_of_their_kind_alone() -> None:
    asking, over = Asking(), threading.Event()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        try:
            hanging = [group.create_task(asking.done(over.wait)) for _ in range(AT_ONCE)]
            last = group.create_task(asking.done(int, "1"))
            assert await asyncio.to_thread(int, "2") == 2
            assert not any(one.done() for one in (*hanging, last))
        finally:
            over.set()
    assert last.result() == 1
