"""How far the agent's clock is ahead of its collector's, from the instants that the collector's answers tell."""

import threading

import msgspec

from joulefleet_agent.clock import NowNs


class Offset(msgspec.Struct, frozen=True):
    """The agent's clock less the collector's, in nanoseconds; None where nothing was compared."""

    ahead_ns: int | None = None
    error_ns: int | None = None
    """The true offset lies within so much of `ahead_ns`."""


NOT_COMPARED = Offset()


def offset(asked_ns: int, told_ns: int, answered_ns: int) -> Offset:
    """The offset, where the collector's clock showed `told_ns` between two instants of the agent's own.

    Half of the round trip is its uncertainty, whichever way took longer (F. Cristian, Probabilistic clock
    synchronization, 1989).
    """
    return Offset((asked_ns + answered_ns) // 2 - told_ns, (answered_ns - asked_ns + 1) // 2)


class Offsets:
    """Keeps the surest comparison since it was last asked. One thread may compare while another takes."""

    def __init__(self, now: NowNs) -> None:
        self._now = now
        self._best = NOT_COMPARED
        self._lock = threading.Lock()

    def now_ns(self) -> int:
        """The agent's clock: note it before the collector is asked."""
        return self._now()

    def compare(self, asked_ns: int, told_ns: int) -> None:
        """The collector was asked at this instant of the agent's clock, and its answer, just here, tells its own.

        An answer that tells none, or a clock that was set back meanwhile, compares nothing.
        """
        answered_ns = self._now()
        if told_ns <= 0 or answered_ns < asked_ns:
            return
        found = offset(asked_ns, told_ns, answered_ns)
        with self._lock:
            if self._best.error_ns is None or (found.error_ns or 0) <= self._best.error_ns:
                self._best = found

    def take(self) -> Offset:
        """The surest comparison since the last call; an older one says nothing of the clock as it is now."""
        with self._lock:
            taken, self._best = self._best, NOT_COMPARED
        return taken
