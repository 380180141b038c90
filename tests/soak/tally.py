"""Counts of one simulated agent that outlive its process: each stands in a mapped file and is written in place."""

from mmap import mmap
from pathlib import Path

REFUSED = ("malformed", "wrong_schema", "too_old", "too_early", "too_large", "not_accounted")
"""Codes of windows that a collector did not take."""
UNANSWERED = ("HTTP 429", "HTTP 503", "HTTP 500", "not reached", "the stream was cut", "the collector said goodbye")
"""Beginnings of the reasons why a batch was not taken at all."""
OTHER = "other"
NAMES = ("sent", "kept", "batches", "answered_ns", "longest_ns", OTHER, *REFUSED, *UNANSWERED)


class Tally:
    """One agent's counts. One thread at a time writes them; anyone may read them."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(8 * len(NAMES))
            self._counts = memoryview(mmap(file.fileno(), 0)).cast("q")

    def __getitem__(self, name: str) -> int:
        return self._counts[NAMES.index(name)]

    def add(self, name: str, number: int = 1) -> None:
        """Add to the count of this name, or to the others where there is none."""
        self._counts[NAMES.index(name if name in NAMES else OTHER)] += number

    def answered(self, now_ns: int) -> None:
        """An answer came: how long was the time without one?"""
        last, longest = NAMES.index("answered_ns"), NAMES.index("longest_ns")
        if self._counts[last]:
            self._counts[longest] = max(self._counts[longest], now_ns - self._counts[last])
        self._counts[last] = now_ns
