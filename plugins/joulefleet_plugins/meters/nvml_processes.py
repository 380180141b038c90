"""How long each process kept a GPU busy, so that engines that share a board can share its joules.

NVML tells, for each process, the mean use of the multiprocessors over the samples that it made since an instant:
several a second, of which it keeps some seconds. So the mean times the time since the last answer is the time for which
a process kept the whole board busy. Wrong entries were seen among right ones (use above 100 %, old times, processes
that do not run), and one from the future would hide all that follow: those are left out. Not told for boards under MIG.

Which processes run takes some drivers milliseconds to tell: for shares it is asked only where more than one was seen,
and for where engines run it is asked rarely.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from joulefleet.units import ns_to_us, s_to_us, us_to_ns
from joulefleet_plugins.meters.nvml_ask import NOT_FOUND, UNSUPPORTED, Told

MOST_US = s_to_us(10)
"""Samples are not kept for longer than about this: what a mean says of a longer time is not known."""
AHEAD_US = s_to_us(60)
"""How far the driver's clock, which is the host's, may be ahead of what the host says now."""
PERCENT = 100
SUCCESS = 0
NOTHING_NEW = (SUCCESS, NOT_FOUND)
"""No process did anything since; the binding raises success where the library needs no room for an answer."""


class ProcessActivity:
    """Follows one board from question to question."""

    def __init__(self, now_us: Callable[[], int] = lambda: ns_to_us(time.time_ns())) -> None:
        """`now_us` tells microseconds since 1970."""
        self._now_us = now_us
        self._seen_us = 0
        """The latest sample that was told, by the driver's clock; 0 before the first."""
        self._known: set[str] = set()
        """Processes that were seen at work, or that ran when there was more than one of these."""

    def __call__(self, nvml: Any, handle: Any) -> Told:
        """Nanoseconds since the last question by process, 0 for one that did nothing. Raises NVMLError."""
        samples = self._samples(nvml, handle)
        latest_us = self._now_us() + AHEAD_US
        good = [one for one in samples if one.smUtil <= PERCENT and self._seen_us < one.timeStamp <= latest_us]
        self._known |= {str(one.pid) for one in good}
        if len(self._known) > 1:
            self._known = {str(each.pid) for each in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        active_ns = dict.fromkeys(self._known, 0)
        first_us, before_us = self._seen_us, dict.fromkeys(active_ns, self._seen_us)
        for one in sorted(good, key=lambda one: int(one.timeStamp)):
            pid = str(one.pid)
            if first_us and pid in active_ns:
                length_us = min(one.timeStamp - before_us[pid], MOST_US)
                active_ns[pid] += us_to_ns(length_us * one.smUtil) // PERCENT
                before_us[pid] = one.timeStamp
            self._seen_us = one.timeStamp
        return {"activity_ns": active_ns}

    def _samples(self, nvml: Any, handle: Any) -> list[Any]:
        try:
            return list(nvml.nvmlDeviceGetProcessUtilization(handle, self._seen_us))
        except nvml.NVMLError as error:
            if error.value in NOTHING_NEW:
                return []
            raise


def residents(nvml: Any, handle: Any) -> Told:
    """The processes that run on a board, each with the UUID of its MIG instance or nothing. Raises NVMLError."""
    if not _is_sliced(nvml, handle):
        return {"processes": dict.fromkeys(_running(nvml, handle), "")}
    found: dict[str, str] = {}
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        # Indices are not dense: an instance that was destroyed leaves a hole.
        with contextlib.suppress(nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument):
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            found |= dict.fromkeys(_running(nvml, instance), str(nvml.nvmlDeviceGetUUID(instance)))
    return {"processes": found}


def _running(nvml: Any, handle: Any) -> list[str]:
    return [str(each.pid) for each in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]


def _is_sliced(nvml: Any, handle: Any) -> bool:
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError as error:
        if error.value in UNSUPPORTED:
            return False
        raise
