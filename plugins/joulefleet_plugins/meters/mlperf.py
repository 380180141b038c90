"""Replays an MLPerf power run: the wall meter's log beside the work that was done while it measured.

Reads two files of a result folder: `spl.txt`, one line a second of the power analyser, and `mlperf_log_detail.txt`,
where loadgen wrote the measured interval and the rates. The log tells rates, not counts, so the work is the rate times
the interval, spread evenly over it. Times are taken as UTC, as written: both files bear the clock of the test site.
"""

import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from joulefleet import (
    Counts,
    Engine,
    Failure,
    Meter,
    MeterReading,
    Reading,
    Source,
    SourceGone,
    SourceUnavailable,
    WorkKey,
    WorkReading,
    typed,
)
from joulefleet.counter import GAP_PERIODS, part_of
from joulefleet.units import NS_PER_S, ns_to_s, us_to_ns, w_to_mw

TRIED = "on hardware"
LIVE = False
"""A recording: not tried where nobody configured it."""
POWER_LOG = "spl.txt"
DETAIL_LOG = "mlperf_log_detail.txt"
WALL = "wall"
LOADGEN = "mlperf-loadgen"
PERIOD_NS = NS_PER_S
CHUNK = 60

CLOCK = "%m-%d-%Y %H:%M:%S.%f"
POWER_LINE = re.compile(r"Time,([^,]*),Watts,([^,]*),")
"""The total comes first; watts of single phases follow after `Mark` and are part of it."""
DETAIL_MARK = ":::MLLOG "

# Loadgen names the same figure differently by scenario: Offline first, Server second.
SAMPLES = ("result_samples_per_second", "result_completed_samples_per_sec")
TOKENS = ("result_tokens_per_second", "result_completed_tokens_per_second")
INFERRED_TOKENS = ("result_inferred_tokens_per_second", "result_inferred_completed_tokens_per_second")


class MlperfConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recording to replay."""

    path: str
    """Folder of one run: <system>/<benchmark>/<scenario>."""
    model: str
    hardware: str = ""
    """Name of the system; where empty, the name of the folder two above `path`."""
    all: bool = False
    """The whole power log rather than the measured interval only."""


class Point(msgspec.Struct, frozen=True):
    """Wall power at one instant."""

    at_ns: int
    power_mw: int


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What loadgen wrote of a run."""

    begin_ns: int
    end_ns: int
    samples: int
    output_tokens: int | None
    version: str

    def counts_at(self, at_ns: int) -> Counts:
        """Work done up to an instant: nothing before the interval, all of it after."""
        now_ns = min(max(at_ns, self.begin_ns), self.end_ns)

        def done(total: int) -> int:
            return part_of(total, self.begin_ns, self.end_ns, now_ns)

        tokens = None if self.output_tokens is None else done(self.output_tokens)
        return Counts(requests_ok=done(self.samples), output_tokens=tokens)


def parse_power_log(lines: Iterable[str]) -> list[Point | Failure]:
    """The readings of a power log; a line of the meter that is no reading, or not later than the last, is a Failure."""
    entries: list[Point | Failure] = []
    last_ns = -1
    for number, line in enumerate(lines, 1):
        if not line.startswith("Time,"):
            continue
        try:
            point = _point(line)
            if point.at_ns <= last_ns:
                raise ValueError("it is not later than the reading before")
        except ValueError as error:
            entries.append(Failure(subject=WALL, code="malformed", detail=f"{POWER_LOG} line {number}: {error}"))
        else:
            entries.append(point)
            last_ns = point.at_ns
    return entries


def _point(line: str) -> Point:
    found = POWER_LINE.match(line)
    if not found:
        raise ValueError("it does not begin with a time and watts")
    watts = float(found[2])
    if not 0 <= watts < math.inf:
        raise ValueError(f"{found[2]} W is no power")
    return Point(_utc_ns(found[1]), w_to_mw(watts))


def _utc_ns(text: str) -> int:
    since = datetime.strptime(text, CLOCK).replace(tzinfo=UTC) - datetime.fromtimestamp(0, UTC)
    return us_to_ns(since // timedelta(microseconds=1))


def parse_run(lines: Iterable[str]) -> Run:
    """The measured interval and its work. Raises SourceUnavailable where the log does not tell them."""
    said = _said(lines)
    begin_ns, end_ns = _instant(said, "power_begin"), _instant(said, "power_end")
    if end_ns <= begin_ns:
        raise SourceUnavailable("malformed", f"{DETAIL_LOG}: power_end is not later than power_begin")
    samples = _total(said, SAMPLES, end_ns - begin_ns)
    if samples is None:
        raise SourceUnavailable("no_rate", f"{DETAIL_LOG} tells none of {', '.join(SAMPLES)}")
    tokens = _total(said, TOKENS, end_ns - begin_ns)
    inferred = _total(said, INFERRED_TOKENS, end_ns - begin_ns) if tokens is None else None
    version = str(said.get("loadgen_version", ""))
    return Run(
        begin_ns=begin_ns,
        end_ns=end_ns,
        samples=samples,
        output_tokens=tokens if inferred is None else inferred,
        version=version if inferred is None else f"{version} (tokens inferred)".lstrip(),
    )


class _Said(msgspec.Struct):
    key: str
    value: Any = None


def _said(lines: Iterable[str]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        if line.startswith(DETAIL_MARK):
            try:
                entry = msgspec.json.decode(line.removeprefix(DETAIL_MARK), type=_Said)
            except msgspec.DecodeError as error:
                raise SourceUnavailable("malformed", f"{DETAIL_LOG} line {number}: {error}") from error
            said[entry.key] = entry.value
    return said


def _instant(said: dict[str, Any], key: str) -> int:
    if key not in said:
        mend = "only runs that were made with a power meter can be replayed"
        raise SourceUnavailable("no_interval", f"{DETAIL_LOG} has no {key}", mend)
    try:
        return _utc_ns(str(said[key]))
    except ValueError as error:
        raise SourceUnavailable("malformed", f"{DETAIL_LOG}: {key}: {error}") from error


def _total(said: dict[str, Any], keys: tuple[str, ...], length_ns: int) -> int | None:
    for key in keys:
        per_s = said.get(key)
        if per_s is None:
            continue
        if not isinstance(per_s, int | float) or not 0 <= per_s < math.inf:
            raise SourceUnavailable("malformed", f"{DETAIL_LOG}: {key}: {per_s!r} is no rate")
        return round(per_s * ns_to_s(length_ns))
    return None


def with_instants(entries: Sequence[Point | Failure], instants: Iterable[int]) -> list[Point | Failure]:
    """The same course with a point at each of these instants, on the straight line between its neighbours.

    Trapezoids keep their area. Neighbours too far apart to be integrated get no point between them.
    """
    edges = sorted(instants)
    course: list[Point | Failure] = []
    before: Point | None = None
    for entry in entries:
        if isinstance(entry, Point):
            if before and entry.at_ns - before.at_ns <= GAP_PERIODS * PERIOD_NS:
                course += [_between(before, entry, at_ns) for at_ns in edges if before.at_ns < at_ns < entry.at_ns]
            before = entry
        course.append(entry)
    return course


def _between(before: Point, after: Point, at_ns: int) -> Point:
    rise_mw = part_of(after.power_mw - before.power_mw, before.at_ns, after.at_ns, at_ns)
    return Point(at_ns, before.power_mw + rise_mw)


def within(entries: Sequence[Point | Failure], begin_ns: int, end_ns: int) -> list[Point | Failure]:
    """From the first to the last point of an interval, both ends included, with the failures between them."""
    inside = [
        place for place, entry in enumerate(entries) if isinstance(entry, Point) and begin_ns <= entry.at_ns <= end_ns
    ]
    return list(entries[inside[0] : inside[-1] + 1]) if inside else []


class MlperfRun:
    """One run, a minute of readings at each read."""

    period_ns = PERIOD_NS
    deadline_ns = 5 * NS_PER_S

    def __init__(self, run: Run, entries: Sequence[Point | Failure], model: str, hardware: str) -> None:
        self.declares: tuple[Meter | Engine, ...] = (_wall(hardware), _loadgen(run.version, hardware))
        self._run = run
        self._entries = entries
        self._key = WorkKey(model)
        self._next = 0

    def read(self) -> Sequence[Reading]:
        """The next readings, each with its own time. Raises SourceGone at the end."""
        chunk = self._entries[self._next : self._next + CHUNK]
        if not chunk:
            raise SourceGone("the power log was read to its end")
        self._next += len(chunk)
        return [reading for entry in chunk for reading in self._readings(entry)]

    def _readings(self, entry: Point | Failure) -> tuple[Reading, ...]:
        if isinstance(entry, Failure):
            return (entry,)
        counts = {self._key: self._run.counts_at(entry.at_ns)}
        return (
            MeterReading(meter=WALL, at_ns=entry.at_ns, power_mw=entry.power_mw),
            WorkReading(engine=LOADGEN, at_ns=entry.at_ns, counts=counts, version=self._run.version),
        )


def _wall(hardware: str) -> Meter:
    return Meter(
        id=WALL,
        kind="server",
        grade="integrated",
        sensor_class="reference",
        contains=("accelerator", "module", "cpu_package", "cpu_core", "dram", "psys", "host"),
        hw_model=hardware,
        period_ns=PERIOD_NS,
        current="ac",
    )


def _loadgen(version: str, hardware: str) -> Engine:
    return Engine(id=LOADGEN, software=LOADGEN, version=version, hardware=hardware, period_ns=PERIOD_NS)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        mend = f"`path` names a folder of one run that holds {POWER_LOG} and {DETAIL_LOG}"
        raise SourceUnavailable("absent", f"{path} cannot be read: {error.strerror}", mend) from error


def open(table: dict[str, Any]) -> Source:
    """A recorded run as a source. Raises SourceUnavailable where a file or the measured interval is missing."""
    config = typed(table, MlperfConfig, "source mlperf")
    folder = Path(config.path).resolve()
    run = parse_run(_lines(folder / DETAIL_LOG))
    course = with_instants(parse_power_log(_lines(folder / POWER_LOG)), (run.begin_ns, run.end_ns))
    inside = within(course, run.begin_ns, run.end_ns)
    if not inside:
        detail = f"{folder / POWER_LOG} has no reading between power_begin and power_end"
        raise SourceUnavailable("no_interval", detail, "the clocks of the two logs must agree")
    return MlperfRun(run, course if config.all else inside, config.model, config.hardware or folder.parent.parent.name)
