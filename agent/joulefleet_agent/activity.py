"""Cuts what engines did on a board into windows: how one board's joules are shared among several engines."""

from collections.abc import Iterator

import msgspec

from joulefleet_agent.spread import Stretch, windows_in

Activity = dict[str, int]
"""Nanoseconds by engine."""
MOST_TIMES = 1_000
"""Nothing keeps a board busy for so many times as long as has passed: its processes may be many, and not so many."""


class ActivityTrack(msgspec.Struct):
    """Follows what one meter tells of processes; it is told less often than energy is."""

    told_ns: int = -1
    """Time of the last reading that told it; -1 before the first."""

    def feed(
        self, activity_ns: Activity, at_ns: int, since_ns: int, step_ns: int, closed_ns: int
    ) -> Iterator[tuple[int, Activity]]:
        """One more reading that tells; what it adds to which window.

        What falls into windows that are closed goes to the first open one: shares of a board have no late form, and
        none is lost. Before the first reading nothing is known, and nothing is told of it; nor of a reading in which
        any time is none that can have passed.
        """
        stretch, self.told_ns = Stretch(self.told_ns, at_ns), at_ns
        if stretch.start_ns < since_ns or stretch.start_ns < 0:
            return
        most_ns = MOST_TIMES * (at_ns - stretch.start_ns)
        if not all(0 <= active_ns <= most_ns for active_ns in activity_ns.values()):
            return
        if stretch.start_ns < closed_ns:
            yield closed_ns, _parts(stretch, activity_ns, stretch.start_ns, min(closed_ns, at_ns))
        for window_ns, from_ns, to_ns in windows_in(max(stretch.start_ns, closed_ns), at_ns, step_ns):
            yield window_ns, _parts(stretch, activity_ns, from_ns, to_ns)

    def shift(self, by_ns: int) -> None:
        """Move to a new timeline whose clock differs by so much."""
        if self.told_ns >= 0:
            self.told_ns += by_ns


def added(sums: Activity | None, more: Activity) -> Activity:
    """Both together; None is nothing yet."""
    sums = sums or {}
    return sums | {engine: sums.get(engine, 0) + active_ns for engine, active_ns in more.items()}


def _parts(stretch: Stretch, activity_ns: Activity, from_ns: int, to_ns: int) -> Activity:
    return {engine: stretch.part(active_ns, from_ns, to_ns) for engine, active_ns in activity_ns.items()}
