"""Timelines of one server: two that tell of the same time, and time between them of which none tells."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import combinations

import msgspec

from joulefleet.grid import HOUR_NS
from joulefleet_collector.store.store import Course, Overlap

Span = tuple[int, int]
"""Start and end of a window in nanoseconds; at most an hour apart."""


class Gap(msgspec.Struct, frozen=True):
    """Time between two timelines of a server: the later one began without what the earlier one had not delivered."""

    server: str
    from_ns: int
    to_ns: int


def gaps(courses: Sequence[Course]) -> list[Gap]:
    """The gaps of each server, by server and instant."""
    found: list[Gap] = []
    reached: dict[str, int] = {}
    for one in sorted(courses, key=lambda one: (one.server, one.from_ns)):
        before_ns = reached.get(one.server, one.from_ns)
        if one.from_ns > before_ns:
            found.append(Gap(one.server, before_ns, one.from_ns))
        reached[one.server] = max(before_ns, one.to_ns)
    return found


def overlaps(server: str, timelines: dict[int, Sequence[Span]], since_ns: int, until_ns: int) -> list[Overlap]:
    """Pairs of timelines that overlap where the lower one's windows start in [since, until), by instant and number."""
    found: list[Overlap] = []
    for lower, higher in combinations(sorted(timelines), 2):
        ones = [span for span in timelines[lower] if since_ns <= span[0] < until_ns]
        shared = _shared(ones, sorted(timelines[higher]))
        if shared:
            first, last = min(start for start, _ in shared), max(end for _, end in shared)
            found.append(Overlap(server, (lower, higher), first, last))
    return sorted(found, key=lambda one: (one.from_ns, one.timelines))


def _shared(ones: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """Times in which a window of each lies; `others` go by start."""
    starts = [start for start, _ in others]
    return [
        (max(start, other[0]), min(end, other[1]))
        for start, end in ones
        for other in others[bisect_right(starts, start - HOUR_NS) : bisect_left(starts, end)]
        if other[1] > start
    ]
