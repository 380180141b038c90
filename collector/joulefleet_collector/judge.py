"""Whether a window may be taken: bounds, sums that agree with themselves, and a start that is neither past nor future.

Everything is decided from the window's own content and the two instants given, so that the answer can be told again.
"""

import re
from collections.abc import Iterator

from joulefleet.describe import WHOLE
from joulefleet.grid import check_step
from joulefleet.latency import GRID
from joulefleet.reading import COUNT_FIELDS, Counts
from joulefleet.window import EngineWindow, MeterWindow, Window
from joulefleet_collector.bounds import MAX_INTEGER, at_most, unbounded
from joulefleet_collector.rows import RESERVED_TAGS

MAX_METERS = 256
MAX_ENGINES = 64
MAX_KEYS = 256
"""Models and tenants of one engine."""
MAX_LABELS = 16
MAX_TIMELINE = 2**32 - 1
LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


class Refused(Exception):
    """A window that is not taken."""

    def __init__(self, code: str, detail: str, start_ns: int | None = None) -> None:
        self.code = code
        """One of the codes of `delivery.Rejected`."""
        self.detail = detail
        self.start_ns = start_ns
        super().__init__(code, detail, start_ns)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


def judge(window: Window, oldest_ns: int, newest_ns: int) -> None:
    """Raises Refused where a window is malformed or does not start in [oldest_ns, newest_ns]."""
    fault = next(faults(window), None)
    if fault:
        raise Refused("malformed", fault, window.start_ns if 0 <= window.start_ns <= MAX_INTEGER else None)
    if window.start_ns < oldest_ns:
        raise Refused("too_old", "older than the windows that are kept; declare a backfill", window.start_ns)
    if window.start_ns > newest_ns:
        raise Refused("too_early", "it starts in the collector's future; check both clocks", window.start_ns)


def faults(window: Window) -> Iterator[str]:
    """What is wrong with a window, one sentence each, the coarsest first."""
    yield from _key(window)
    yield from _sizes(window)
    yield from unbounded(window)
    yield from _labels(window)
    yield from _twice("meter", [one.meter.id for one in window.meters])
    yield from _twice("engine", [one.engine.id for one in window.engines])
    for meter in window.meters:
        yield from _meter(meter, window.step_ns)
    for engine in window.engines:
        yield from _engine(engine, window.step_ns)
    yield from _own_cost(window)


def _key(window: Window) -> Iterator[str]:
    if not window.server:
        yield "server: a window must name its server"
    if not 0 <= window.timeline <= MAX_TIMELINE:
        yield "timeline: not 32 bits"
    try:
        check_step(window.step_ns)
    except ValueError as error:
        yield f"step_ns: {error}"
    else:
        if window.start_ns < 0 or window.start_ns % window.step_ns:
            yield "start_ns: not on the grid of this step"


def _sizes(window: Window) -> Iterator[str]:
    yield from at_most(MAX_METERS, "meters", window.meters)
    yield from at_most(MAX_ENGINES, "engines", window.engines)
    yield from at_most(MAX_LABELS, "labels", window.labels)
    for one in window.engines:
        yield from at_most(MAX_KEYS, "models and tenants of one engine", one.work)


def _labels(window: Window) -> Iterator[str]:
    for name in window.labels:
        if name in RESERVED_TAGS:
            yield f"labels: '{name}' is a tag of its own; give the label another name"
        elif not LABEL_NAME.fullmatch(name):
            yield f"labels: '{name}' is no name; use letters, digits, '_', '.' and '-'"


def _twice(what: str, ids: list[str]) -> Iterator[str]:
    if "" in ids:
        yield f"{what}: an id is empty"
    if len(set(ids)) < len(ids):
        yield f"{what}: two have one id"


def _meter(one: MeterWindow, step_ns: int) -> Iterator[str]:
    name = f"meter '{one.meter.id}'"
    if one.first_uj + one.energy_uj + one.late_uj != one.last_uj:
        yield f"{name}: first + energy + late is not last"
    if not 0 <= one.interpolated_ns <= one.covered_ns <= step_ns:
        yield f"{name}: interpolated, covered and step do not rise from 0"
    sums = (one.energy_uj, one.late_uj, one.rejected_uj, one.lower_bound_uj, one.gauge_ns, one.idle_mw or 0)
    if any(value < 0 for value in (*sums, *one.gaps_ns.values(), *(one.activity_ns or {}).values())):
        yield f"{name}: a negative sum"


def _engine(one: EngineWindow, step_ns: int) -> Iterator[str]:
    name = f"engine '{one.engine.id}'"
    if not 0 <= one.covered_ns <= step_ns:
        yield f"{name}: covered does not lie between 0 and the step"
    known = (one.running_start, one.running_end, one.running_ns, one.queued_ns, one.restarts, *one.gaps_ns.values())
    if any(value is not None and value < 0 for value in known):
        yield f"{name}: a negative sum"
    if not all(0 <= reservation.share_ppm <= WHOLE for reservation in one.engine.devices):
        yield f"{name}: a reservation is not between nothing and a whole device"
    for work in one.work:
        if any(count < 0 for count in _known(work.counts) + _known(work.late)):
            yield f"{name}: a negative count of model '{work.key.model}'"
        for cells in work.latency.values():
            if any(not 0 <= cell <= len(GRID) or count < 0 for cell, count in cells.items()):
                yield f"{name}: a latency outside of the grid"


def _own_cost(window: Window) -> Iterator[str]:
    for part in (window.losses, window.agent):
        for name in part.__struct_fields__:
            if name != "clock_ahead_ns" and (getattr(part, name) or 0) < 0:
                yield f"{name}: negative"


def _known(counts: Counts) -> list[int]:
    return [value for name in COUNT_FIELDS if (value := getattr(counts, name)) is not None]
