"""Adds up counters that many workers show on one page, where a worker's series go when it ends.

A plain sum would fall then, and look like a server that began anew, whose counts all come again. So each series is
followed by itself: what it rose by is added to a sum that begins at 0 with the first page and never falls.
"""

from collections.abc import Hashable, Iterable

from joulefleet import WorkKey

MAX_SERIES = 50_000
"""Beyond, the series that the page no longer shows are forgotten."""

Shown = tuple[Hashable, WorkKey, int]
"""One series: what it is, the key to which it counts, and where it stands."""


class Rises:
    """Follows the series of one page, by field of Counts."""

    def __init__(self) -> None:
        self._was: dict[tuple[str, Hashable], int] = {}
        self._sums: dict[str, dict[WorkKey, int]] = {}

    def feed(self, told: dict[str, Iterable[Shown]]) -> dict[str, dict[WorkKey, int]]:
        """One page; the sums since the first one."""
        first, seen = not self._sums, dict[tuple[str, Hashable], int]()
        for field, several in told.items():
            sums = self._sums.setdefault(field, {})
            for series, key, count in several:
                was = count if first else self._was.get((field, series), 0)
                sums[key] = sums.get(key, 0) + (count - was if count >= was else count)
                seen[field, series] = count
        self._was = {**self._was, **seen} if len(self._was) + len(seen) <= MAX_SERIES else seen
        return {field: dict(self._sums[field]) for field in told}
