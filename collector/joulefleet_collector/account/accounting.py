"""Accounting under one policy: of one window by its definition, of many at once where their declarations are known."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import cast

from joulefleet.window import Window
from joulefleet_collector.account.account import account
from joulefleet_collector.account.group import values_of
from joulefleet_collector.account.layout import layout_of
from joulefleet_collector.account.numbers import Told, fit, numbers_of
from joulefleet_collector.account.plan import Plan, plan_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.rows import Row
from joulefleet_collector.sheet import Floats, Sheet, SheetRows

MAX_PLANS = 50_000
"""Sets of declarations that are kept, some 4 kB each; the one that was not seen for longest goes."""

MAX_LAYOUTS = 2_048
"""Layouts that are kept of windows accounted one by one, some 15 kB each; the one not used for longest goes."""

Planned = tuple[Plan, Sheet]


class Accounting:
    """Makes rows of windows. Called by one thread at a time."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._known: OrderedDict[bytes, Planned | None] = OrderedDict()
        self._plans: dict[Plan, Plan] = {}
        self._layout = lru_cache(MAX_LAYOUTS)(layout_of)

    def __call__(self, window: Window) -> list[Row]:
        """The rows of one window. Raises as `account`."""
        return account(window, self._policy, self._layout)

    def knows(self, mark: bytes) -> bool:
        """Whether a window of this digest was learnt."""
        return mark in self._known

    def learn(self, mark: bytes, window: Window) -> None:
        """Remember the declarations of a window that was judged good, by its digest."""
        planned = plan_of(window, self._policy)
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        if len(self._known) >= MAX_PLANS:
            self._known.popitem(last=False)
        # Servers built alike share one plan, so that their windows are accounted together.
        self._known[mark] = planned and (self._plans.setdefault(planned[0], planned[0]), planned[1])

    def at_once(self, windows: Sequence[tuple[bytes, Told]]) -> list[SheetRows | None]:
        """The rows of each window, told by its digest; None where only the definition can make them."""
        rows: list[SheetRows | None] = [None] * len(windows)
        groups: dict[int, tuple[Plan, list[int]]] = {}
        for place, (mark, _) in enumerate(windows):
            planned = self._known.get(mark)
            if planned is not None:
                self._known.move_to_end(mark)
                groups.setdefault(id(planned[0]), (planned[0], []))[1].append(place)
        for plan, places in groups.values():
            for place, values in self._of_plan(plan, places, windows):
                mark, window = windows[place]
                sheet = cast("Planned", self._known[mark])[1]
                rows[place] = SheetRows(sheet, window.start_ns, values)
        return rows

    def _of_plan(
        self, plan: Plan, places: Sequence[int], windows: Sequence[tuple[bytes, Told]]
    ) -> Iterator[tuple[int, Floats]]:
        numbers = numbers_of(plan, [windows[place][1] for place in places])
        chosen = fit(plan, numbers, self._policy)
        fitting = [place for place, fits in zip(places, chosen.tolist(), strict=True) if fits]
        if fitting:
            values = values_of(plan, [windows[place][1] for place in fitting], numbers.of(chosen), self._policy)
            yield from zip(fitting, values, strict=True)
