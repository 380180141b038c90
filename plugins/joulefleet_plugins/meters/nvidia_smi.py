"""Replays a recording of `nvidia-smi --query-gpu=timestamp,uuid,power.draw --format=csv`: the power of GPU boards.

Columns are found by the names of the header, with units in brackets. Times are taken as UTC, as written. The power
of these recordings is a gauge that sees only a part of the time on some boards (25 % on A100 and H100), so a recorded
energy counter is to be preferred where there is one. A recording counts no work, and no engine is invented for it.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
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
    Reservation,
    Source,
    SourceGone,
    SourceUnavailable,
    WorkKey,
    WorkReading,
    typed,
)
from joulefleet.units import NS_PER_S, us_to_ns, w_to_mw

TRIED = "on hardware"
LIVE = False
"""A recording: not tried where nobody configured it."""
CLOCK = "%Y/%m/%d %H:%M:%S.%f"
CHUNK = 1_000
IDENTITIES = ("index", "uuid", "gpu_uuid", "pci.bus_id", "gpu_bus_id")
UUIDS = ("uuid", "gpu_uuid")
MODELS = ("name", "gpu_name")
ONLY_BOARD = "0"
TO_MW: dict[str, Callable[[float], int]] = {"W": w_to_mw, "mW": round}
GAUGES = {"utilization.gpu": "utilisation_pct", "temperature.gpu": "temperature_c"}
REASONS = {
    "n/a": "not_supported",
    "not supported": "not_supported",
    "unknown error": "unknown_error",
    "gpu is lost": "gpu_lost",
    "insufficient permissions": "permission",
}
MEND = "record with --query-gpu=timestamp,uuid,power.draw --format=csv, header included"


ENGINE = "nvidia-smi-recording"


class NvidiaSmiConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recording to replay."""

    path: str
    hardware: str = ""
    """Name of the boards; where empty, the recording's column `name`."""
    column: str = "power.draw"
    """Which power: `power.draw` (a mean over a second on newer drivers) or `power.draw.instant`."""
    model: str = ""
    """The model that ran on all boards: their joules are then its own. A recording counts no work, so that there is no
    energy per request or token."""


class Row(msgspec.Struct, frozen=True):
    """One line of the recording: its number, and its cells by column."""

    number: int
    cells: dict[str, str]

    def value(self, names: Sequence[str]) -> str:
        """The first of these columns that is there and has a value, else an empty text."""
        cells = (self.cells.get(name, "") for name in names)
        told = (cell for cell in cells if cell and not cell.startswith("[") and cell.lower() not in REASONS)
        return next(told, "")

    @property
    def board(self) -> str:
        """What tells this board from others: its index, else its UUID or address; empty where that has no value."""
        told = [name for name in IDENTITIES if name in self.cells]
        return self.value(told[:1]) if told else ONLY_BOARD


def parse_header(line: str) -> dict[str, str]:
    """Units of the columns by name, in their order: `power.draw [W]` is {"power.draw": "W"}."""
    parts = (cell.strip().partition(" [") for cell in line.split(","))
    return {name: unit.rstrip("]") for name, _, unit in parts}


def parse_rows(text: str) -> list[Row | Failure]:
    """The lines below the header. A line with too few or too many cells is a Failure, as is a last one cut short."""
    header, *lines = text.split("\n")
    names = list(parse_header(header))
    rows: list[Row | Failure] = []
    for number, line in enumerate(lines, 2):
        cells = [cell.strip() for cell in line.split(",")]
        # Recordings that were appended to one file repeat the header.
        if not line.strip() or line == header:
            continue
        # Where the writer was stopped inside a number, its beginning would read as another number.
        if len(cells) != len(names) or number == len(lines) + 1:
            rows.append(Failure(subject="", code="malformed", detail=f"line {number} is not whole"))
        else:
            rows.append(Row(number, dict(zip(names, cells, strict=True))))
    return rows


def power_mw(cell: str, unit: str) -> int | None:
    """The power in a cell such as `412.34` or `412.34 W`; None where it holds no power."""
    number, _, own_unit = cell.partition(" ")
    try:
        value = float(number)
    except ValueError:
        return None
    to_mw = TO_MW.get(own_unit or unit)
    return to_mw(value) if to_mw and 0 <= value < math.inf else None


def _gauges(row: Row) -> dict[str, float]:
    found = {}
    for column, gauge in GAUGES.items():
        number = row.value([column]).partition(" ")[0]
        if number.isdecimal():
            found[gauge] = float(number)
    return found


def _utc_ns(text: str) -> int:
    since = datetime.strptime(text, CLOCK).replace(tzinfo=UTC) - datetime.fromtimestamp(0, UTC)
    return us_to_ns(since // timedelta(microseconds=1))


def reading_of(row: Row, meter: str, column: str, unit: str) -> Reading:
    """What a line says of a board: a reading, or a Failure where it lacks board, power or time."""
    cell = row.cells[column]
    if not meter:
        return Failure(subject="", code="malformed", detail=f"line {row.number} does not tell its board")
    power = power_mw(cell, unit)
    if power is None:
        code = REASONS.get(cell.strip("[]").lower(), "malformed")
        return Failure(subject=meter, code=code, detail=f"line {row.number}: {column} is {cell!r}")
    try:
        at_ns = _utc_ns(row.cells["timestamp"])
    except ValueError as error:
        return Failure(subject=meter, code="malformed", detail=f"line {row.number}: {error}")
    return MeterReading(meter=meter, at_ns=at_ns, power_mw=power, gauges=_gauges(row))


def _first(rows: Sequence[Row], names: Sequence[str]) -> str:
    return next((value for row in rows if (value := row.value(names))), "")


def _meter(meter: str, rows: Sequence[Row], hardware: str, period_ns: int) -> Meter:
    return Meter(
        id=meter,
        kind="accelerator",
        grade="integrated",
        sensor_class="onboard",
        device=_first(rows, UUIDS),
        hw_model=hardware or _first(rows, MODELS),
        driver=_first(rows, ["driver_version"]),
        period_ns=period_ns,
    )


def usual_step_ns(times_ns: Sequence[int]) -> int:
    """The median time between readings, but a second at least, so that a hiccup of a fast recording is no gap."""
    steps = [after - before for before, after in pairwise(times_ns) if after > before]
    return max(NS_PER_S, statistics.median_low(steps)) if steps else NS_PER_S


class NvidiaSmiRecording:
    """One recording, a thousand lines at each read."""

    deadline_ns = 5 * NS_PER_S

    def __init__(self, readings: Sequence[Reading], declares: Sequence[Meter | Engine]) -> None:
        self.declares: tuple[Meter | Engine, ...] = tuple(declares)
        self.period_ns = declares[0].period_ns
        self._readings = readings
        self._next = 0

    def read(self) -> Sequence[Reading]:
        """The next readings, each with its own time. Raises SourceGone at the end."""
        chunk = self._readings[self._next : self._next + CHUNK]
        if not chunk:
            raise SourceGone("the recording was read to its end")
        self._next += len(chunk)
        return chunk


def replay(text: str, config: NvidiaSmiConfig) -> NvidiaSmiRecording:
    """A recording's boards and readings. Raises SourceUnavailable where a column is missing or no line follows."""
    unit = _unit(parse_header(text.partition("\n")[0]), config)
    lines = parse_rows(text)
    boards: dict[str, list[Row]] = {}
    for line in lines:
        if isinstance(line, Row) and line.board:
            boards.setdefault(line.board, []).append(line)
    if not boards:
        raise SourceUnavailable("empty", f"{config.path} holds no line of a board", MEND)
    ids = {board: _first(rows, UUIDS) or f"gpu{board}" for board, rows in boards.items()}
    readings = [
        reading_of(line, ids.get(line.board, ""), config.column, unit) if isinstance(line, Row) else line
        for line in lines
    ]
    meters = [
        _meter(ids[board], rows, config.hardware, usual_step_ns(_times_ns(readings, ids[board])))
        for board, rows in boards.items()
    ]
    if not config.model:
        return NvidiaSmiRecording(readings, meters)
    engine = Engine(
        id=ENGINE,
        software=ENGINE,
        devices=tuple(Reservation(meter.id) for meter in meters),
        period_ns=meters[0].period_ns,
    )
    times_ns = sorted({told.at_ns for told in readings if isinstance(told, MeterReading)})
    return NvidiaSmiRecording(_with_model(readings, times_ns, config.model), [*meters, engine])


def _with_model(readings: Sequence[Reading], times_ns: Sequence[int], model: str) -> list[Reading]:
    """The readings, and among them those of an engine that counts nothing but tells its model."""
    counts = {WorkKey(model): Counts()}
    waiting = [WorkReading(engine=ENGINE, at_ns=at_ns, counts=counts) for at_ns in reversed(times_ns)]
    merged: list[Reading] = []
    for reading in readings:
        if isinstance(reading, MeterReading):
            while waiting and waiting[-1].at_ns <= reading.at_ns:
                merged.append(waiting.pop())
        merged.append(reading)
    return merged


def _unit(units: dict[str, str], config: NvidiaSmiConfig) -> str:
    for column in ("timestamp", config.column):
        if column not in units:
            raise SourceUnavailable("malformed", f"{config.path} has no column `{column}`", MEND)
    return units[config.column]


def _times_ns(readings: Sequence[Reading], meter: str) -> list[int]:
    return [told.at_ns for told in readings if isinstance(told, MeterReading) and told.meter == meter]


def open(table: dict[str, Any]) -> Source:
    """A recording as a source. Raises SourceUnavailable where it cannot be read or is no such recording."""
    config = typed(table, NvidiaSmiConfig, "source nvidia_smi")
    try:
        text = Path(config.path).read_text(encoding="utf-8")
    except OSError as error:
        raise SourceUnavailable("absent", f"{config.path} cannot be read: {error.strerror}", MEND) from error
    except UnicodeDecodeError as error:
        raise SourceUnavailable("malformed", f"{config.path} is no UTF-8 text: {error.reason}", MEND) from error
    return replay(text, config)
