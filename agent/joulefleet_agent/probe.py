"""Tries what can be read on this machine: each source opened and read once, under a deadline of its own."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from joulefleet.describe import Engine, Meter
from joulefleet.reading import Failure, Reading
from joulefleet.source import ProcessMustEnd, SourceGone, SourceUnavailable
from joulefleet_agent.config import SourceConfig
from joulefleet_agent.sampler import Configured
from joulefleet_agent.sources import configured

DEADLINE_S = 10.0
SETTLE_S = 0.5
"""Between the first and the second read: some sources tell a difference."""
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
    """`readable`, or the reason code."""
    detail: str = ""
    mend: str = ""
    read_ms: float | None = None
    """How long one read took."""
    meters: tuple[Meter, ...] = ()
    engines: tuple[Engine, ...] = ()

    @property
    def readable(self) -> bool:
        """Whether it gives readings."""
        return self.state == "readable"


def probe(sources: Sequence[SourceConfig], where: str) -> list[Finding]:
    """Try every source, all at once. Raises ConfigError for a name that no source has."""
    trials = [_Trial(one) for one in configured(sources, where)]
    for trial in trials:
        trial.start()
    for trial in trials:
        trial.join(DEADLINE_S)
    return [trial.finding for trial in trials]


class _Trial(threading.Thread):
    """One source's trial, in a thread that may hang without holding the others."""

    def __init__(self, source: Configured) -> None:
        super().__init__(daemon=True)
        self.finding = Finding(source=source.name, state="hung", detail=f"no answer within {DEADLINE_S:.0f} s")
        self._source = source

    def run(self) -> None:
        self.finding = self._try()

    def _try(self) -> Finding:
        name = self._source.name
        try:
            return self._read()
        except SourceUnavailable as error:
            return Finding(source=name, state=error.code, detail=error.detail, mend=error.mend)
        except SourceGone:
            return Finding(source=name, state="empty", detail="it ended at once")
        except ProcessMustEnd as error:
            return Finding(source=name, state="restart", detail=str(error))
        except Exception as error:  # a source's fault is what is being looked for
            return Finding(source=name, state="fault", detail=f"{type(error).__name__}: {error}")

    def _read(self) -> Finding:
        source = self._source.opener(self._source.table)
        source.read()
        time.sleep(SETTLE_S)
        began_s = time.monotonic()
        readings = source.read()
        return Finding(
            source=self._source.name,
            read_ms=round((time.monotonic() - began_s) * 1_000, 3),
            meters=tuple(one for one in source.declares if isinstance(one, Meter)),
            engines=tuple(one for one in source.declares if isinstance(one, Engine)),
            **_outcome(readings),
        )


def _outcome(readings: Sequence[Reading]) -> dict[str, Any]:
    failures = [one for one in readings if isinstance(one, Failure)]
    if len(failures) < len(readings):
        missing = f"{len(failures)} of {len(readings)} without a value: {failures[0].detail}" if failures else ""
        return {"state": "readable", "detail": missing}
    if failures:
        return {"state": failures[0].code, "detail": failures[0].detail}
    return {"state": "empty", "detail": "it gave no reading"}
