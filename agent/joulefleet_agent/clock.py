"""The agent's time: wall time at its start, carried on by a clock that no one sets."""

import time
from collections.abc import Callable

from joulefleet.units import NS_PER_S

BACK_STEP_NS = 2 * NS_PER_S
"""The wall clock may lag by this much (a clock being slewed) before a new timeline begins."""

NowNs = Callable[[], int]


def wall_ns() -> int:
    """The host's wall clock, nanoseconds since 1970."""
    return time.time_ns()


def boot_ns() -> int:
    """Nanoseconds since boot, time asleep included; never set, never runs back."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class AgentClock:
    """Never runs back within a timeline; follows the wall clock forwards, and only when told to."""

    def __init__(self, wall: NowNs = wall_ns, boot: NowNs = boot_ns, not_before_ns: int = 0) -> None:
        self._wall = wall
        self._boot = boot
        self._offset_ns = max(wall(), not_before_ns) - boot()

    def now_ns(self) -> int:
        """Agent time in nanoseconds since 1970."""
        return self.at(self._boot())

    def at(self, boot_ns: int) -> int:
        """Agent time of an instant of the boot clock."""
        return boot_ns + self._offset_ns

    def rebase(self) -> int:
        """Called at a window's edge: follow the wall clock forwards.

        Returns by how much the clock was moved back, in nanoseconds and negative, where the wall clock was set back
        by more than BACK_STEP_NS and a new timeline must begin; else 0.
        """
        ahead_ns = self._wall() - self.now_ns()
        if ahead_ns > 0:
            self._offset_ns += ahead_ns
        elif ahead_ns < -BACK_STEP_NS:
            self._offset_ns += ahead_ns
            return ahead_ns
        return 0
