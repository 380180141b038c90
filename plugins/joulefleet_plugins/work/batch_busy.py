"""Works out how long models were computed whose time is counted anew for each request of a batch.

A batch of n requests adds its time n times, so that what rose is multiplied with executions per request. That is true
of what rose between two pages and not of the counters as they stand: the sum begins at 0 with the first page.
Source: Triton's `src/infer_stats.cc`.
"""

from collections.abc import Mapping
from typing import NamedTuple

from joulefleet import WorkKey


class Batches(NamedTuple):
    """Cumulative counters of one model."""

    time_ns: int
    """Of each execution as many times as it had requests."""
    executions: int
    requests: int


NONE = Batches(0, 0, 0)


class BatchBusy:
    """Follows the models of one server from page to page."""

    def __init__(self) -> None:
        self._was: dict[WorkKey, Batches] | None = None
        self._busy_ns: dict[WorkKey, int] = {}

    def feed(self, told: Mapping[WorkKey, Batches]) -> dict[WorkKey, int]:
        """The busy nanoseconds of each model since the first page, or since its counters began anew."""
        if self._was is None:
            self._was = dict(told)
        for key, now in told.items():
            was = self._was.get(key, NONE)
            if any(value < before for value, before in zip(now, was, strict=True)):
                was, self._busy_ns[key] = NONE, 0
            time_ns, executions, requests = (value - before for value, before in zip(now, was, strict=True))
            if requests:
                self._busy_ns[key] = self._busy_ns.get(key, 0) + time_ns * executions // requests
            # Without a request the time waits for it: a page may be made while one is being counted.
            self._was[key] = now if requests else was
        return {key: self._busy_ns.get(key, 0) for key in told}
