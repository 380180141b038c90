"""What the agent itself costs: CPU time, memory, and joules estimated from them; and how its clock stands."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from joulefleet.units import mw_ns_to_uj
from joulefleet.window import AgentCost
from joulefleet_agent.offset import NOT_COMPARED, Offset

CORE_MW = 3_500
"""Milliwatts of one busy virtual CPU: the default maximum of the Cloud Carbon Footprint coefficients."""


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int:
    """Resident memory of this process in bytes."""
    return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class OwnCost:
    """Measures from one asking to the next."""

    def __init__(
        self,
        cpu_ns: Callable[[], int] = time.process_time_ns,
        memory: Callable[[], int] = resident_bytes,
        clock: Callable[[], Offset] = lambda: NOT_COMPARED,
    ) -> None:
        self._cpu_ns = cpu_ns
        self._memory = memory
        self._clock = clock
        self._before_ns = cpu_ns()

    def since_last(self, spool_windows: int, spool_bytes: int) -> AgentCost:
        """The cost since the last call, or since this began."""
        now_ns, clock = self._cpu_ns(), self._clock()
        used_ns, self._before_ns = now_ns - self._before_ns, now_ns
        return AgentCost(
            cpu_ns=used_ns,
            rss_bytes=self._memory(),
            energy_uj=mw_ns_to_uj(used_ns * CORE_MW),
            spool_windows=spool_windows,
            spool_bytes=spool_bytes,
            clock_ahead_ns=clock.ahead_ns,
            clock_error_ns=clock.error_ns,
        )
