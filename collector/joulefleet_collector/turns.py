"""Whose turn it is: which batches are stored together next, so that what is new waits for no backlog.

What is happening now comes in small batches, a backlog in large ones. So the smallest go first, and beside them always
the batch that has waited longest, however large it is: none waits for ever.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol, TypeVar

MAX_GROUP = 1_000
"""Windows in one commit, save for the batch that has waited longest: more would not make a window cheaper."""
ACCOUNTING_S = 0.5
"""How long the windows of one commit are likely to be accounted, that batch apart again: what comes next waits."""
FIRST_GUESS_S = 0.001
SURE_WINDOWS = 100
"""So many windows outweigh the first guess."""


class Sized(Protocol):
    """A batch that waits."""

    @property
    def windows(self) -> int: ...


One = TypeVar("One", bound=Sized)


class Pace:
    """How long a window takes to be accounted, as the last groups showed: an earlier one counts half as much."""

    def __init__(self) -> None:
        self._windows = float(SURE_WINDOWS)
        self._took_s = SURE_WINDOWS * FIRST_GUESS_S

    def learn(self, windows: int, took_s: float) -> None:
        """So many windows were accounted in so many seconds; of none nothing is learnt."""
        if not windows:
            return
        self._windows = self._windows / 2 + windows
        self._took_s = self._took_s / 2 + took_s

    @property
    def room(self) -> int:
        """How many windows are accounted in ACCOUNTING_S, MAX_GROUP at most."""
        return min(MAX_GROUP, int(self._windows * ACCOUNTING_S / max(self._took_s, 1e-9)))

    def time_s(self, windows: int) -> float:
        """Seconds that so many windows are likely to take."""
        return windows * self._took_s / self._windows


def next_group(waiting: Sequence[One], room: int) -> tuple[list[One], list[One]]:
    """Of the batches that wait, in the order in which they came: those to be stored next, and those that go on waiting.

    The first always, and of the others the smallest, as many as there is room for their windows.
    """
    windows = [one.windows for one in waiting]
    if sum(windows) <= room:
        return list(waiting), []
    smallest = sorted(range(1, len(waiting)), key=windows.__getitem__)
    fitting = bisect_right(list(accumulate(map(windows.__getitem__, smallest))), room)
    group, rest = sorted(smallest[:fitting]), sorted(smallest[fitting:])
    return [waiting[0], *(waiting[place] for place in group)], [waiting[place] for place in rest]


def ahead(waiting: Sequence[Sized], windows: int) -> int:
    """Windows that go before a batch of so many that comes now."""
    return sum(one.windows for one in waiting if one.windows <= windows)
