"""One reading as a line for a person."""

from collections.abc import Iterator

from joulefleet.reading import COUNT_FIELDS, TIME_FIELDS, Failure, MeterReading, Reading, WorkReading
from joulefleet.units import mw_to_w, ns_to_s, uj_to_j


def in_words(reading: Reading) -> str:
    """Who says what; what is not told is left out."""
    match reading:
        case Failure():
            return f"{reading.subject}: {reading.code}: {reading.detail}".removeprefix(": ").removesuffix(": ")
        case MeterReading():
            return f"{reading.meter}: {', '.join(_of_meter(reading))}"
        case WorkReading():
            return f"{reading.engine}: {'; '.join(_of_engine(reading)) or 'no work told'}"


def _of_meter(reading: MeterReading) -> Iterator[str]:
    if reading.counter_uj is not None:
        yield f"counter at {uj_to_j(reading.counter_uj):.3f} J"
    if reading.power_mw is not None:
        yield f"{mw_to_w(reading.power_mw):.1f} W"
    if reading.age_ns:
        yield f"{ns_to_s(reading.age_ns):.1f} s old"
    yield from (f"{name} {value:g}" for name, value in sorted(reading.gauges.items()))
    if reading.activity_ns is not None:
        yield f"processes {len(reading.activity_ns)}"


def _of_engine(reading: WorkReading) -> Iterator[str]:
    now = [f"{name} {count}" for name in ("running", "queued") if (count := getattr(reading, name)) is not None]
    if now:
        yield ", ".join(now)
    for key, counts in sorted(reading.counts.items()):
        told = [(name, getattr(counts, name)) for name in COUNT_FIELDS]
        who = " ".join(filter(None, (key.model, key.revision, key.tenant)))
        yield f"{who}: {', '.join(_counted(name, count) for name, count in told if count is not None)}"


def _counted(name: str, count: int) -> str:
    return f"{name.removesuffix('_ns')} {ns_to_s(count):.1f} s" if name in TIME_FIELDS else f"{name} {count}"
