"""How a stretch of time falls into windows."""

from collections.abc import Iterable, Iterator

import msgspec

from joulefleet.counter import part_of
from joulefleet.grid import floor_to


class Stretch(msgspec.Struct, frozen=True):
    """Time between two readings, over which every counter is taken to run straight."""

    start_ns: int
    end_ns: int

    def part(self, change: int, from_ns: int, to_ns: int) -> int:
        """How much of a change over the whole stretch falls between two instants inside it."""
        until = part_of(change, self.start_ns, self.end_ns, to_ns)
        return until - part_of(change, self.start_ns, self.end_ns, from_ns)

    def at(self, first: int, last: int, at_ns: int) -> int:
        """The value at an instant, between the first and the last one."""
        return first + part_of(last - first, self.start_ns, self.end_ns, at_ns)


def windows_in(start_ns: int, end_ns: int, step_ns: int) -> Iterable[tuple[int, int, int]]:
    """Start of each window that [start, end) touches, with the part of the stretch inside it: (window, from, to)."""
    window_ns = floor_to(start_ns, step_ns)
    if start_ns < end_ns <= window_ns + step_ns:
        # By far the most stretches: readings are seconds apart, windows are longer.
        return ((window_ns, start_ns, end_ns),)
    return _each_window(window_ns, start_ns, end_ns, step_ns)


def _each_window(window_ns: int, start_ns: int, end_ns: int, step_ns: int) -> Iterator[tuple[int, int, int]]:
    while window_ns < end_ns:
        yield window_ns, max(start_ns, window_ns), min(end_ns, window_ns + step_ns)
        window_ns += step_ns
