"""Tries what can be read on a machine: each source opened and read for some seconds, under a deadline of its own."""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from joulefleet.config import ConfigError
from joulefleet.describe import Engine, Meter
from joulefleet.gain import Gain
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet.source import ProcessMustEnd, Source, SourceGone, SourceUnavailable
from joulefleet.units import ns_to_ms, ns_to_s, s_to_ns
from joulefleet_agent.calibration import with_gains
from joulefleet_agent.config import SourceConfig
from joulefleet_agent.sampler import Configured
from joulefleet_agent.sources import configured, tried_of
from joulefleet_agent.watch import Agreement, Seen, Watch, agreements

DEADLINE_S = 10.0
ASKED_DEADLINE_S = 60.0
"""For sources that somebody configured: a BMC that takes 3 s for an answer is asked ten times before it is open."""
"""For opening a source and its first reads; the time for which it is watched comes on top."""
SETTLE_S = 0.5
"""Between two reads, where the first gave nothing."""
LEAST_BETWEEN_S = 0.1
"""Between two reads of a watch, or ten times what a read takes if that is more: a BMC is slow and serves others."""
READABLE = "readable"
NEEDS_CONFIGURATION = "needs_configuration"


class Finding(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one source gives here, or why it gives nothing."""

    source: str
    state: str
    """READABLE, or the reason code."""
    detail: str = ""
    mend: str = ""
    tried: str = ""
    """How far the source itself was tried: on hardware, on a faithful fake, from documents."""
    read_ms: float | None = None
    """How long one read took, on average."""
    cpu_ms: float | None = None
    """CPU time of this process in one read."""
    meters: tuple[Meter, ...] = ()
    engines: tuple[Engine, ...] = ()
    seen: tuple[Seen, ...] = ()
    """The meters as they were watched."""
    processes: dict[str, dict[str, str]] = {}
    """By meter the processes that run on it, each with its slice."""

    @property
    def readable(self) -> bool:
        """Whether it gives readings."""
        return self.state == READABLE


def probe(  # noqa: PLR0913 - how it is tried is told by name
    sources: Sequence[SourceConfig],
    where: str,
    deadline_s: float | None = None,
    *,
    watch_s: float = 0.0,
    unasked: bool = False,
    gains: Mapping[str, Gain] | None = None,
) -> list[Finding]:
    """Try every source, all at once, for at most so many seconds together.

    Raises ConfigError for a name that no source has, and for a table that a source cannot use; where the sources are
    tried `unasked`, such a one is only told to need configuration.
    """
    opened = with_gains(configured(sources, where), gains or {})
    deadline_s = deadline_s or (DEADLINE_S if unasked else ASKED_DEADLINE_S)
    trials = [_Trial(one, used.use, deadline_s, watch_s) for one, used in zip(opened, sources, strict=True)]
    for trial in trials:
        trial.start()
    until_s = time.monotonic() + deadline_s + watch_s
    for trial in trials:
        trial.join(max(until_s - time.monotonic(), 0.0))
    for trial in trials:
        if trial.refused is not None and not unasked:
            raise ConfigError(f"{where}: {trial.refused.where}", trial.refused.key, trial.refused.expected)
    return [trial.finding for trial in trials]


def agreements_of(findings: Sequence[Finding]) -> list[Agreement]:
    """What the sources say of one and the same thing."""
    watched = []
    for finding in findings:
        meters = {meter.id: meter for meter in finding.meters}
        watched += [(finding.source, meters[seen.meter], seen) for seen in finding.seen if seen.meter in meters]
    return agreements(watched)


class _Cost:
    """What reading a source costs."""

    def __init__(self) -> None:
        self._reads = self._wall_ns = self._cpu_ns = 0

    def read(self, source: Source) -> Sequence[Reading]:
        wall_ns, cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        readings = source.read()
        self._wall_ns += time.monotonic_ns() - wall_ns
        self._cpu_ns += time.thread_time_ns() - cpu_ns
        self._reads += 1
        return readings

    @property
    def between_s(self) -> float:
        """How long to leave it alone before it is read again."""
        return max(LEAST_BETWEEN_S, 10 * ns_to_s(self._wall_ns // self._reads))

    @property
    def means(self) -> dict[str, Any]:
        return {"read_ms": ns_to_ms(self._wall_ns / self._reads), "cpu_ms": ns_to_ms(self._cpu_ns / self._reads)}


class _Trial(threading.Thread):
    """One source's trial, in a thread that may hang without holding the others."""

    def __init__(self, source: Configured, use: str, deadline_s: float, watch_s: float) -> None:
        super().__init__(daemon=True)
        self.refused: ConfigError | None = None
        self._source = source
        self._watch_s = watch_s
        self._tried = tried_of(use)
        self.finding = self._without("hung", f"no answer within {deadline_s + watch_s:g} s")

    def run(self) -> None:
        try:
            self.finding = self._read()
        except ConfigError as error:
            self.refused = error
            self.finding = self._without(NEEDS_CONFIGURATION, f"{error.key}: {error.expected}".removeprefix(": "))
        except SourceUnavailable as error:
            self.finding = self._without(error.code, error.detail, error.mend)
        except SourceGone:
            self.finding = self._without("empty", "it ended at once")
        except ProcessMustEnd as error:
            self.finding = self._without("restart", str(error))
        except Exception as error:  # a source's fault is what is being looked for
            self.finding = self._without("fault", f"{type(error).__name__}: {error}")

    def _without(self, state: str, detail: str, mend: str = "") -> Finding:
        return Finding(source=self._source.name, state=state, detail=detail, mend=mend, tried=self._tried)

    def _read(self) -> Finding:
        source = self._source.opener(self._source.table)
        cost = _Cost()
        readings = cost.read(source)
        if _outcome(readings)["state"] != READABLE:
            # Some sources tell a difference, and are readable from the second read on.
            time.sleep(SETTLE_S)
            readings = cost.read(source)
        outcome = _outcome(readings)
        return Finding(
            source=self._source.name,
            tried=self._tried,
            meters=tuple(one for one in source.declares if isinstance(one, Meter)),
            engines=tuple(one for one in source.declares if isinstance(one, Engine)),
            processes={one.meter: one.processes for one in readings if isinstance(one, MeterReading) and one.processes},
            seen=self._watched(source, cost) if outcome["state"] == READABLE else (),
            **cost.means,
            **outcome,
        )

    def _watched(self, source: Source, cost: _Cost) -> tuple[Seen, ...]:
        watch, until_ns = Watch(), time.monotonic_ns() + s_to_ns(self._watch_s)
        while (at_ns := time.monotonic_ns()) < until_ns:
            watch.feed(cost.read(source), at_ns)
            time.sleep(min(cost.between_s, max(ns_to_s(until_ns - time.monotonic_ns()), 0.0)))
        return watch.seen()


def _outcome(readings: Sequence[Reading]) -> dict[str, Any]:
    failures = [one for one in readings if isinstance(one, Failure)]
    if len(failures) < len(readings):
        first = f"{failures[0].subject}: {failures[0].detail}".removeprefix(": ") if failures else ""
        missing = f"{len(failures)} of {len(readings)} without a value: {first}" if failures else ""
        return {"state": READABLE, "detail": missing}
    if failures:
        return {"state": failures[0].code, "detail": failures[0].detail}
    return {"state": "empty", "detail": "it gave no reading"}
