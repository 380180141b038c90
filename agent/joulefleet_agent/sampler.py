"""Reads every source at its own period, each in a thread of its own, so that one that hangs hurts no other.

The life of a source:
    absent   not here, or not readable: tried again every REPROBE_S, or later where the source asks; no error
    open     read once a period
    hung     a read takes longer than its deadline: what it declares is `hung`; the thread is left to wait, and what
             it brings in the end is not used: at which instant of the read it was taken, no one knows
    gone     it ended as expected, and is not read again
What a source says reaches the agent as events, in one queue.
"""

import logging
import queue
import threading
from collections.abc import Sequence
from typing import Any

import msgspec

from joulefleet.config import ConfigError
from joulefleet.describe import Engine, Meter
from joulefleet.reading import Failure, Reading
from joulefleet.source import OpenSource, ProcessMustEnd, Source, SourceGone, SourceUnavailable
from joulefleet.units import NS_PER_S, ns_to_s
from joulefleet_agent.clock import NowNs

LOG = logging.getLogger(__name__)
REPROBE_S = 60.0
LONGEST_QUEUE = 10_000


class Opened(msgspec.Struct, frozen=True):
    """A source was opened and declares this."""

    source: str
    declares: tuple[Meter | Engine, ...]


class Absent(msgspec.Struct, frozen=True):
    """A source could not be opened."""

    source: str
    code: str
    detail: str
    mend: str = ""


class Refused(msgspec.Struct, frozen=True):
    """A source's own part of the config cannot be used."""

    source: str
    error: ConfigError


class Said(msgspec.Struct, frozen=True):
    """What a read gave. The time is the boot clock's, which no one sets; agent time is made of it when it is fed."""

    source: str
    boot_ns: int
    readings: tuple[Reading, ...]


class Gone(msgspec.Struct, frozen=True):
    """A source ended as expected."""

    source: str


class MustEnd(msgspec.Struct, frozen=True):
    """Only a new process can go on."""

    source: str
    reason: str


Event = Opened | Absent | Refused | Said | Gone | MustEnd


class Configured(msgspec.Struct, frozen=True):
    """A source as configured: its name, how it is opened, its own table."""

    name: str
    opener: OpenSource
    table: dict[str, Any]


class Reader(threading.Thread):
    """One source's thread. A daemon: a read that never returns must not keep the process alive."""

    def __init__(
        self,
        configured: Configured,
        boot_ns: NowNs,
        events: "queue.Queue[Event]",
        stop: threading.Event,
        reprobe_s: float = REPROBE_S,
    ) -> None:
        super().__init__(name=f"source {configured.name}", daemon=True)
        self.source_name = configured.name
        self.busy_since_ns = 0
        """When the opening or read in progress began, by the boot clock; 0 between reads."""
        self.deadline_ns = 10 * NS_PER_S
        self._configured = configured
        self._boot_ns = boot_ns
        self._events = events
        self._ending = stop
        self._reprobe_s = reprobe_s
        self._not_before_s = 0.0
        self._last_fault = ""
        self._declared: tuple[Meter | Engine, ...] = ()

    def run(self) -> None:
        """Open, read, wait, until told to stop."""
        source: Source | None = None
        while not self._ending.is_set():
            if source is None:
                source = self._open()
                if source is None:
                    self._ending.wait(max(self._reprobe_s, self._not_before_s))
                continue
            if not self._read(source):
                return
            self._ending.wait(self._until_next(source.period_ns))

    def overdue(self, boot_ns: int) -> Failure | None:
        """That this source hangs, if the opening or read in progress has passed its deadline."""
        since_ns = self.busy_since_ns
        if not since_ns or boot_ns - since_ns <= self.deadline_ns:
            return None
        return _hung(boot_ns - since_ns)

    def _open(self) -> Source | None:
        self.busy_since_ns, self._not_before_s = self._boot_ns(), 0.0
        try:
            source = self._configured.opener(self._configured.table)
            self._declared = tuple(source.declares)
            self.deadline_ns = source.deadline_ns
        except SourceUnavailable as error:
            self._not_before_s = error.again_s
            self._put(Absent(self.source_name, error.code, error.detail, error.mend))
        except ConfigError as error:
            self._put(Refused(self.source_name, error))
        except ProcessMustEnd as error:
            self._put(MustEnd(self.source_name, str(error)))
        except Exception as error:  # a source's fault must not end the agent
            self._put(Absent(self.source_name, "fault", f"{type(error).__name__}: {error}"))
        else:
            self._put(Opened(self.source_name, self._declared))
            return source
        finally:
            self.busy_since_ns = 0
        return None

    def _read(self, source: Source) -> bool:
        """One read. False where there will be no other."""
        self.busy_since_ns = started_ns = self._boot_ns()
        try:
            readings: tuple[Reading, ...] = tuple(source.read())
        except SourceGone:
            self._put(Gone(self.source_name))
            return False
        except ProcessMustEnd as error:
            self._put(MustEnd(self.source_name, str(error)))
            return False
        except SourceUnavailable as error:
            readings = self._failed(error.code, error.detail)
        except Exception as error:  # a source's fault must not end the agent
            readings = self._failed("fault", f"{type(error).__name__}: {error}")
        finally:
            self.busy_since_ns = 0
        ended_ns = self._boot_ns()
        if ended_ns - started_ns > max(self.deadline_ns, source.period_ns):
            readings = (_hung(ended_ns - started_ns),)
        self._last_fault = "" if readings and not isinstance(readings[0], Failure) else self._last_fault
        self._note_declared(tuple(source.declares))
        self._put(Said(self.source_name, (started_ns + ended_ns) // 2, readings))
        return True

    def _note_declared(self, declares: tuple[Meter | Engine, ...]) -> None:
        """Tell of a source that tells of other things than when it was opened, before what it says of them."""
        if declares != self._declared:
            self._declared = declares
            self._put(Opened(self.source_name, declares))

    def _failed(self, code: str, detail: str) -> tuple[Reading, ...]:
        if detail != self._last_fault:
            LOG.warning("source %s: %s: %s", self.source_name, code, detail)
        self._last_fault = detail
        return (Failure(subject="", code=code, detail=detail),)

    def _until_next(self, period_ns: int) -> float:
        """Seconds to the next beat of the source's rhythm; a late read does not shift the beats."""
        return ns_to_s(period_ns - self._boot_ns() % period_ns)

    def _put(self, event: Event) -> None:
        """Readings may be dropped, since the next ones tell the same counters; what changes a source's life may not."""
        try:
            self._events.put(event, block=not isinstance(event, Said))
        except queue.Full:
            LOG.error("source %s: what it said is dropped, %d events wait", self.source_name, LONGEST_QUEUE)


def _hung(taken_ns: int) -> Failure:
    return Failure(subject="", code="hung", detail=f"no answer for {ns_to_s(taken_ns):.0f} s")


def stamped(readings: Sequence[Reading], at_ns: int, declares: Sequence[Meter | Engine]) -> tuple[Reading, ...]:
    """Readings with a time each, and failures with a subject each: one that names none is of all that is declared."""
    out: list[Reading] = []
    for reading in readings:
        if isinstance(reading, Failure):
            subjects = [reading.subject] if reading.subject else [one.id for one in declares]
            out += [msgspec.structs.replace(reading, subject=subject) for subject in subjects]
        else:
            out.append(reading if reading.at_ns else msgspec.structs.replace(reading, at_ns=at_ns - reading.age_ns))
    return tuple(out)
