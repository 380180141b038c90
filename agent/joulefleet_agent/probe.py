"""Tries what can be read on this machine: each source opened and read once, under a deadline of its own."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from joulefleet.config import ConfigError
from joulefleet.describe import Engine, Meter
from joulefleet.reading import Failure, Reading
from joulefleet.source import ProcessMustEnd, Source, SourceGone, SourceUnavailable
from joulefleet.units import ns_to_ms
from joulefleet_agent.config import SourceConfig
from joulefleet_agent.sampler import Configured
from joulefleet_agent.sources import configured

DEADLINE_S = 10.0
SETTLE_S = 0.5
"""Between two reads, where the first gave nothing."""
READABLE = "readable"
ENGINE_PAGE = "http://127.0.0.1:8000/metrics"
ON_THIS_MACHINE: tuple[SourceConfig, ...] = (
    SourceConfig("nvml", {}),
    SourceConfig("rapl", {}),
    SourceConfig("host_model", {}),
    SourceConfig("openmetrics", {"url": ENGINE_PAGE}),
)


class Finding(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one source gives here, or why it gives nothing."""

    source: str
    state: str
    """READABLE, or the reason code."""
    detail: str = ""
    mend: str = ""
    read_ms: float | None = None
    """How long one read took."""
    meters: tuple[Meter, ...] = ()
    engines: tuple[Engine, ...] = ()

    @property
    def readable(self) -> bool:
        """Whether it gives readings."""
        return self.state == READABLE


def probe(sources: Sequence[SourceConfig], where: str, deadline_s: float = DEADLINE_S) -> list[Finding]:
    """Try every source, all at once, for at most so many seconds together.

    Raises ConfigError for a name that no source has, and for a table that a source cannot use.
    """
    trials = [_Trial(one, deadline_s) for one in configured(sources, where)]
    for trial in trials:
        trial.start()
    until_s = time.monotonic() + deadline_s
    for trial in trials:
        trial.join(max(until_s - time.monotonic(), 0.0))
    for trial in trials:
        if trial.refused is not None:
            raise ConfigError(f"{where}: {trial.refused.where}", trial.refused.key, trial.refused.expected)
    return [trial.finding for trial in trials]


class _Trial(threading.Thread):
    """One source's trial, in a thread that may hang without holding the others."""

    def __init__(self, source: Configured, deadline_s: float) -> None:
        super().__init__(daemon=True)
        self.finding = Finding(source=source.name, state="hung", detail=f"no answer within {deadline_s:g} s")
        self.refused: ConfigError | None = None
        self._source = source

    def run(self) -> None:
        name = self._source.name
        try:
            self.finding = self._read()
        except ConfigError as error:
            self.refused = error
        except SourceUnavailable as error:
            self.finding = Finding(source=name, state=error.code, detail=error.detail, mend=error.mend)
        except SourceGone:
            self.finding = Finding(source=name, state="empty", detail="it ended at once")
        except ProcessMustEnd as error:
            self.finding = Finding(source=name, state="restart", detail=str(error))
        except Exception as error:  # a source's fault is what is being looked for
            self.finding = Finding(source=name, state="fault", detail=f"{type(error).__name__}: {error}")

    def _read(self) -> Finding:
        source = self._source.opener(self._source.table)
        readings, taken_ns = _timed(source)
        if _outcome(readings)["state"] != READABLE:
            # Some sources tell a difference, and are readable from the second read on.
            time.sleep(SETTLE_S)
            readings, taken_ns = _timed(source)
        return Finding(
            source=self._source.name,
            read_ms=ns_to_ms(taken_ns),
            meters=tuple(one for one in source.declares if isinstance(one, Meter)),
            engines=tuple(one for one in source.declares if isinstance(one, Engine)),
            **_outcome(readings),
        )


def _timed(source: Source) -> tuple[Sequence[Reading], int]:
    began_ns = time.monotonic_ns()
    return source.read(), time.monotonic_ns() - began_ns


def _outcome(readings: Sequence[Reading]) -> dict[str, Any]:
    failures = [one for one in readings if isinstance(one, Failure)]
    if len(failures) < len(readings):
        missing = f"{len(failures)} of {len(readings)} without a value: {failures[0].detail}" if failures else ""
        return {"state": READABLE, "detail": missing}
    if failures:
        return {"state": failures[0].code, "detail": failures[0].detail}
    return {"state": "empty", "detail": "it gave no reading"}
