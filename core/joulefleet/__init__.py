"""JouleFleet: the energy that an inference costs. This is the public face, for authors of sources."""

from joulefleet.config import ConfigError, typed
from joulefleet.describe import SOMEWHERE, WHOLE, Engine, Kind, Meter, Reservation, Slice
from joulefleet.reading import Counts, Failure, Histogram, MeterReading, Reading, WorkKey, WorkReading
from joulefleet.source import ProcessMustEnd, Source, SourceGone, SourceUnavailable

__all__ = [
    "SOMEWHERE",
    "WHOLE",
    "ConfigError",
    "Counts",
    "Engine",
    "Failure",
    "Histogram",
    "Kind",
    "Meter",
    "MeterReading",
    "ProcessMustEnd",
    "Reading",
    "Reservation",
    "Slice",
    "Source",
    "SourceGone",
    "SourceUnavailable",
    "WorkKey",
    "WorkReading",
    "typed",
]
