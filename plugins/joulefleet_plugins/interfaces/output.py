"""Finds power and energy in what a vendor's tool prints or a web service answers, as a config file describes it.

A table of the config says where each value stands: `json` names it and gives its JSON pointer, or `pattern` is a
regular expression whose named groups are the values. The names are the same in both: a power or an energy bears its
unit (`power_w`, `energy_kwh`), `id` tells which meter it is where one output tells of several, and names that mean
nothing here become gauges beside it (`temperature_c`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec

from joulefleet import ConfigError, Failure, Kind, Meter, MeterReading, Reading
from joulefleet.counter import GAP_PERIODS
from joulefleet.describe import Current, SensorClass
from joulefleet.units import j_to_uj, s_to_ns, w_to_mw
from joulefleet_plugins.interfaces.quantity import ENERGY, POWER, TIMES, BadOutput, number, time_ns, value_of

Things = list[dict[str, Any]]
"""What an output tells of one thing each: values by name."""

LIMIT = "power_limit_w"
WORDS = ("id", "hw_model", "device", "driver", "epoch", "time")
"""Names of values that are words."""
KNOWN = frozenset([*POWER, *ENERGY, *TIMES, *WORDS, LIMIT])

STALE_LEAST_NS = s_to_ns(10)

USUAL_CLASS: dict[Kind, SensorClass] = {"server": "platform", "enclosure": "platform", "psys": "platform"}


class MeterTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one table of `meters` says: where values stand in an output, and what they are of."""

    id: str
    """The meter's id; where the output tells an `id` too, what stands before it: `gaudi` makes `gaudi-<id>`."""
    kind: Kind = "accelerator"
    pattern: str = ""
    """Regular expression, found in the text as often as it stands there (`^` and `$` are ends of a line)."""
    json: dict[str, str] = {}
    """JSON pointers (RFC 6901) by name of the value."""
    each: str | None = None
    """JSON pointer of a list or an object with one thing in each place; the other pointers begin there."""
    ids: tuple[str, ...] = ()
    """Which ids the output tells; without them it is asked once when the source is opened."""
    max_power_w: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Rated maximum of one meter, against which readings are judged; else `power_limit_w` of the output."""
    hw_model: str = ""
    """Used where the output does not tell it, as is `device`."""
    device: str = ""
    basis: str = ""
    contains: tuple[Kind, ...] = ()
    inside: str = ""
    grade: Literal["percent", "residual", "modelled"] | None = None
    """Where what the tool tells is not measured, for which `basis` says what it rests on. Else it is `counter` where an
    energy is told, and `integrated` where a power is."""
    sensor_class: SensorClass | None = None
    """Default: `modelled` if the grade is, `platform` for server, enclosure and psys, else `onboard`."""
    current: Current = "dc"
    refresh_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """How often the sensor makes a new value; default: as often as it is read."""
    resolution_j: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Smallest step of the counter; default: one of its unit."""
    modulus_j: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Where the counter wraps to 0."""
    restarts_at_zero: bool = False
    idle_w: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    @property
    def names(self) -> frozenset[str]:
        """Names of the values that it looks for."""
        return frozenset(self.json) if self.json else frozenset(re.compile(self.pattern).groupindex)


class Output:
    """One output: its text, and the JSON in it."""

    def __init__(self, content: bytes) -> None:
        self.text = content.decode("utf-8", errors="replace")

    @cached_property
    def document(self) -> Any:
        """The JSON in it, which may stand below a banner. Raises BadOutput."""
        starts = [0, *(found.start() for found in re.finditer(r"(?m)^\s*[\[{]", self.text))][:5]
        for start in starts:
            try:
                return msgspec.json.decode(self.text[start:])
            except (msgspec.DecodeError, RecursionError):
                continue
        raise BadOutput("malformed", "the output is not JSON")


def check(tables: Sequence[MeterTable], where: str) -> None:
    """What types alone do not tell. Raises ConfigError."""
    if not tables:
        raise ConfigError(where, "meters", "expected one table at least: where the output tells a power or an energy")
    for k, table in enumerate(tables):
        for key, expected in _wrong(table):
            raise ConfigError(where, f"meters[{k}].{key}", expected)
    if len({table.id for table in tables}) < len(tables):
        raise ConfigError(where, "meters", "two tables bear one id")


def _wrong(table: MeterTable) -> Iterator[tuple[str, str]]:
    if bool(table.json) == bool(table.pattern):
        yield "json", "expected either `json` pointers or a `pattern`"
    try:
        names = table.names
    except re.error as error:
        yield "pattern", f"no regular expression: {error}"
        return
    key = "json" if table.json else "pattern"
    for known, several in ((POWER, False), (ENERGY, False), ({**POWER, **ENERGY}, True)):
        told = names & known.keys()
        if several and not told:
            yield key, f"expected a name of a power or an energy: {', '.join(sorted(known))}"
        if not several and len(told) > 1:
            yield key, f"one value in two units: {', '.join(sorted(told))}"
    if table.max_power_w is None and LIMIT not in names:
        yield "max_power_w", "say the most that it can draw: readings are judged against it"
    if table.grade and not table.basis:
        yield "basis", f"say what a figure of grade `{table.grade}` rests on"
    if table.ids and "id" not in names:
        yield "ids", "the output tells no `id` by which they could be told apart"
    if (table.each is not None and not table.json) or any(pointer[:1] not in ("", "/") for pointer in _pointers(table)):
        yield "json", 'a JSON pointer is empty or begins with "/"'


def _pointers(table: MeterTable) -> list[str]:
    return [table.each or "", *table.json.values()]


def things(table: MeterTable, output: Output) -> Things:
    """Everything that an output tells through this table. Raises BadOutput where it is no JSON but should be."""
    if not table.json:
        found = re.finditer(table.pattern, output.text, re.MULTILINE)
        return [{name: value for name, value in one.groupdict().items() if value is not None} for one in found]
    told = [_looked_up(table.json, place) for place in _places(output.document, table.each)]
    return [one for one in told if one]


def _places(document: Any, each: str | None) -> list[Any]:
    if each is None:
        return [document]
    found = at(document, each)
    if isinstance(found, dict):
        return list(found.values())
    return found if isinstance(found, list) else []


def _looked_up(pointers: Mapping[str, str], place: Any) -> dict[str, Any]:
    found = {name: at(place, pointer) for name, pointer in pointers.items()}
    return {name: value for name, value in found.items() if isinstance(value, str | int | float)}


def at(document: Any, pointer: str) -> Any:
    """What stands at a JSON pointer; None where nothing does."""
    for word in (one.replace("~1", "/").replace("~0", "~") for one in pointer.split("/")[1:]):
        if isinstance(document, dict):
            document = document.get(word)
        elif isinstance(document, list) and word.isdecimal() and int(word) < len(document):
            document = document[int(word)]
        else:
            return None
    return document


class Bound(msgspec.Struct, frozen=True):
    """A table and the meters of which its outputs tell."""

    table: MeterTable
    meters: dict[str, Meter]
    """By the id that the output tells; by the empty one where it tells none."""

    def read(self, output: Output, now_ns: int) -> list[Reading]:
        """What an output says of its meters; nothing of those that are not in it. Raises BadOutput.

        `now_ns` is the wall clock, to which the output's own times are compared.
        """
        told: dict[str, list[dict[str, Any]]] = {}
        for one in things(self.table, output):
            told.setdefault(str(one.get("id", "")), []).append(one)
        return [self._reading(told[key], meter, now_ns) for key, meter in self.meters.items() if key in told]

    def _reading(self, told: Things, meter: Meter, now_ns: int) -> Reading:
        if len(told) > 1:
            detail = f"the output tells of it {len(told)} times: narrow the pattern or the pointers"
            return Failure(subject=meter.id, code="ambiguous", detail=detail)
        try:
            return reading_of(told[0], meter, now_ns, counted=bool(self.table.names & ENERGY.keys()))
        except BadOutput as error:
            return Failure(subject=meter.id, code=error.code, detail=error.detail)


def asks(tables: Sequence[MeterTable]) -> bool:
    """Whether an output is needed before it is known what to declare."""
    return any(("id" in table.names and not table.ids) or table.max_power_w is None for table in tables)


def bind(tables: Sequence[MeterTable], output: Output | None, period_ns: int) -> tuple[Bound, ...]:
    """The meters that these tables tell of. Raises BadOutput where the output should say which, and does not."""
    found = tuple(_bound(table, things(table, output) if output else [], period_ns) for table in tables)
    ids = [meter.id for meter in meters_of(found)]
    if len(set(ids)) < len(ids):
        raise BadOutput("ambiguous", f"two meters would bear one id: {', '.join(sorted(ids))}")
    return found


def _bound(table: MeterTable, told: Things, period_ns: int) -> Bound:
    several = "id" in table.names
    by_id = {str(one.get("id", "")): one for one in told if "id" in one or not several}
    ids = table.ids or (tuple(by_id) if several else ("",))
    if not ids:
        raise BadOutput("absent", f"the output tells of nothing that could be {table.id!r}")
    return Bound(table, {one: _meter(table, one, by_id.get(one, {}), period_ns) for one in ids})


def _meter(table: MeterTable, told_id: str, told: Mapping[str, Any], period_ns: int) -> Meter:
    counters = sorted(table.names & ENERGY.keys())
    limit_mw = _limit_mw(told)
    max_power_mw = w_to_mw(table.max_power_w) if table.max_power_w else limit_mw
    if not max_power_mw:
        raise BadOutput("no_value", f"no `{LIMIT}` is told of {table.id} {told_id}: say `max_power_w` in the config")
    step_uj = ENERGY[counters[0]][1](1) if counters else 0
    return Meter(
        id="-".join(filter(None, (table.id, told_id))),
        kind=table.kind,
        grade=table.grade or ("counter" if counters else "integrated"),
        sensor_class=table.sensor_class or _usual_class(table),
        contains=table.contains,
        inside=table.inside,
        device=str(told.get("device", table.device)),
        hw_model=str(told.get("hw_model", table.hw_model)),
        resolution_uj=j_to_uj(table.resolution_j) if counters and table.resolution_j else step_uj,
        refresh_ns=s_to_ns(table.refresh_s) if table.refresh_s else period_ns,
        period_ns=period_ns,
        max_power_mw=max_power_mw,
        modulus_uj=j_to_uj(table.modulus_j),
        restarts_at_zero=table.restarts_at_zero,
        current=table.current,
        driver=str(told.get("driver", "")),
        power_limit_mw=limit_mw,
        basis=table.basis,
        idle_mw=w_to_mw(table.idle_w),
    )


def _usual_class(table: MeterTable) -> SensorClass:
    return "modelled" if table.grade == "modelled" else USUAL_CLASS.get(table.kind, "onboard")


def _limit_mw(told: Mapping[str, Any]) -> int:
    try:
        return max(w_to_mw(number(told[LIMIT], "W")), 0) if LIMIT in told else 0
    except BadOutput:
        return 0


def reading_of(told: Mapping[str, Any], meter: Meter, now_ns: int, *, counted: bool) -> MeterReading:
    """The reading of one meter: its counter where it is `counted`, and its power. Raises BadOutput."""
    counter_uj = value_of(told, ENERGY) if counted else None
    power_mw = _power_mw(told, only_beside=counted)
    if counter_uj is None and power_mw is None:
        raise BadOutput("no_value", "the output tells no energy" if counted else "the output tells no power, or 0 W")
    if counted and counter_uj is None:
        raise BadOutput("no_value", "the output tells no energy")
    return MeterReading(
        meter=meter.id,
        age_ns=_age_ns(told, now_ns, longest_ns(meter)),
        counter_uj=counter_uj,
        power_mw=power_mw,
        epoch=str(told.get("epoch", "")),
        gauges=dict(_gauges(told)),
    )


def _power_mw(told: Mapping[str, Any], *, only_beside: bool) -> int | None:
    try:
        # Hardware that answers draws power; 0 is what tools say when they have no value.
        power_mw = value_of(told, POWER) or None
    except BadOutput:
        if only_beside:
            return None
        raise
    return power_mw


def _age_ns(told: Mapping[str, Any], now_ns: int, longest: int) -> int:
    """How long ago the value was measured, where its time is told. Raises BadOutput where that is no time of now."""
    at_ns = time_ns(told)
    if at_ns is None:
        return 0
    if abs(now_ns - at_ns) > longest:
        raise BadOutput("stale", "its own time is not that of now: the value stands still, or one of the clocks is off")
    return max(now_ns - at_ns, 0)


def longest_ns(meter: Meter) -> int:
    """How old a value of this meter may be."""
    return max(GAP_PERIODS * max(meter.period_ns, meter.refresh_ns), STALE_LEAST_NS)


def _gauges(told: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name in told.keys() - KNOWN:
        try:
            yield name, float(number(told[name]))
        except BadOutput:
            continue


def read_all(bound: Sequence[Bound], output: Output, now_ns: int) -> list[Reading]:
    """Every meter once; one of which the output tells nothing gives a failure."""
    try:
        readings = {meter_of(one): one for part in bound for one in part.read(output, now_ns)}
    except BadOutput as error:
        return [Failure(subject="", code=error.code, detail=error.detail)]
    absent = "the output tells nothing at the place that its `json` or `pattern` names"
    return [
        readings.get(meter.id, Failure(subject=meter.id, code="no_value", detail=absent)) for meter in meters_of(bound)
    ]


def meters_of(bound: Sequence[Bound]) -> tuple[Meter, ...]:
    """All meters that are told of, in the order of their tables."""
    return tuple(meter for one in bound for meter in one.meters.values())


def meter_of(reading: Reading) -> str:
    """Id of the meter that a reading or a failure is of."""
    return reading.meter if isinstance(reading, MeterReading) else getattr(reading, "subject", "")
