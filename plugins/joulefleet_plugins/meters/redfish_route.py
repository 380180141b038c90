"""Reads the power of one thing from a BMC's Redfish resources: which numbers they are, and when they are none."""

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from joulefleet.units import j_to_uj, kwh_to_uj, w_to_mw

Document = dict[str, Any]
Unit = Literal["J", "kWh"]

TO_UJ: dict[Unit, Callable[[float], int]] = {"J": j_to_uj, "kWh": kwh_to_uj}
MOST_W, MOST_TOLD, MOST_UJ = 10_000_000, 1e15, 2**63 - 1
"""What no server, no number of joules and no counter of microjoules can be."""
OFF = ("Absent", "Disabled", "UnavailableOffline")
FIRST_CLOCK = datetime(2010, 1, 1, tzinfo=UTC)
"""A BMC that tells an earlier time has no clock."""


class Place(msgspec.Struct, frozen=True):
    """One number: the resource it is in, and the way to it."""

    resource: str
    keys: tuple[str | int, ...]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """From where the power of one thing is read, at each read."""

    name: str
    power: tuple[Place, ...] = ()
    """Added up, and only if all of them are told."""
    energy: Place | None = None
    unit: Unit = "J"
    ac: bool = False
    """Whether this is known to be the alternating current that goes into the supplies."""
    refresh_ns: int = 0
    """How often the sensor makes a value, where it tells; else 0."""

    @property
    def resources(self) -> tuple[str, ...]:
        """What has to be asked, each once."""
        places = ((self.energy,) if self.energy else ()) + self.power
        return tuple(dict.fromkeys(place.resource for place in places))

    @property
    def worth(self) -> int:
        """0 for counted joules, 1 for watts, 2 for kilowatt-hours."""
        return 1 if self.energy is None else ("J", "", "kWh").index(self.unit)


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a route's resources say."""

    power_mw: int | None
    counter_uj: int | None
    epoch: str
    """When the counter was last set to 0, where that is told."""
    stamp: datetime | None
    """When the value was measured, by the BMC's clock."""
    others: int
    """A digest of all other numbers in the same resources."""


class NoValue(Exception):
    """The resources do not tell the power now."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        """`no_value`, `malformed` or `implausible`."""
        self.detail = detail
        super().__init__(code, detail)

    def __str__(self) -> str:
        return self.detail


def told(route: Route, documents: dict[str, Document]) -> Told:
    """What these resources say of the route's power and energy. Raises NoValue."""
    counter_uj = _counter_uj(route.energy, route.unit, documents) if route.energy else None
    principal = route.energy or route.power[0]
    try:
        power_mw = _power_mw(route, documents) if route.power else None
    except NoValue:
        if counter_uj is None:
            raise
        power_mw = None
    beside = at(documents, principal.resource, principal.keys[:-1])
    epoch = beside.get("SensorResetTime") if route.energy and isinstance(beside, dict) else ""
    return Told(
        power_mw=power_mw,
        counter_uj=counter_uj,
        epoch=epoch if isinstance(epoch, str) and principal.keys[-1] == "Reading" else "",
        stamp=instant(documents.get(principal.resource, {}).get("ReadingTime")),
        others=_others(route, documents),
    )


def positive(value: object) -> float | None:
    """A number above 0, as JSON has it; None for anything else."""
    number = _number(value)
    return number if number is not None and number > 0 else None


def instant(text: object) -> datetime | None:
    """An instant as Redfish writes it; None where it is none, or of a BMC without a clock."""
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    if found is None or found.tzinfo is None:
        return None
    return found if found >= FIRST_CLOCK else None


def at(documents: dict[str, Document], resource: str, keys: tuple[str | int, ...]) -> Any:
    """What is in a resource under these keys; None where the way ends."""
    found: Any = documents.get(resource)
    for key in keys:
        if isinstance(found, dict):
            found = found.get(str(key))
        elif isinstance(found, list) and isinstance(key, int) and key < len(found):
            found = found[key]
        else:
            return None
    return found


def _power_mw(route: Route, documents: dict[str, Document]) -> int:
    watts = [_watts(place, documents, route.name == "power_supplies") for place in route.power]
    power_mw = w_to_mw(sum(watts))
    if power_mw <= 0:
        raise NoValue("no_value", f"{_words(route.power[0])} and those beside it are 0 W")
    return power_mw


def _watts(place: Place, documents: dict[str, Document], is_supply: bool) -> float:
    value = at(documents, place.resource, place.keys)
    number = _number(value)
    if _is_off(at(documents, place.resource, place.keys[:-1])):
        raise NoValue("no_value", f"{_words(place)} is of a sensor that is off")
    if number is None:
        # iDRAC's supplies say null, others "N/A": no value is no rubbish.
        code = "no_value" if value is None or value == "N/A" else "malformed"
        raise NoValue(code, f"{_words(place)} is {str(value)[:40]!r}")
    if not 0 <= number <= MOST_W:
        raise NoValue("implausible", f"{_words(place)} is {number:g} W")
    if number == 0 and not (is_supply and _is_dark(place, documents)):
        raise NoValue("no_value", f"{_words(place)} is 0 W")
    return number


def _counter_uj(place: Place, unit: Unit, documents: dict[str, Document]) -> int:
    value = at(documents, place.resource, place.keys)
    number = _number(value)
    off = _is_off(at(documents, place.resource, place.keys[:-1]))
    if number is None or number == 0 or off:
        code = "no_value" if value is None or number == 0 or off else "malformed"
        raise NoValue(code, f"{_words(place)} is {str(value)[:40]!r}")
    counter_uj = TO_UJ[unit](number) if 0 <= number <= MOST_TOLD else -1
    if not 0 < counter_uj <= MOST_UJ:
        raise NoValue("implausible", f"{_words(place)} is {number:g} {unit}")
    return counter_uj


def _is_off(sensor: Any) -> bool:
    """Whether a sensor says that it is: what it shows then is what it saw last."""
    status = sensor.get("Status") if isinstance(sensor, dict) else None
    return isinstance(status, dict) and status.get("State") in OFF


def _is_dark(place: Place, documents: dict[str, Document]) -> bool:
    """Whether a supply that takes 0 W also says that it gives nothing: a spare, and not one that does not measure."""
    inner = place.keys[:-2] if place.keys[-1] == "Reading" else place.keys[:-1]
    supply = at(documents, place.resource, inner)
    gives = [supply.get("PowerOutputWatts"), supply.get("LastPowerOutputWatts"), supply.get("OutputPowerWatts")]
    numbers = [_number(one.get("Reading") if isinstance(one, dict) else one) for one in gives]
    return 0 in numbers and all(number in (0, None) for number in numbers)


def _others(route: Route, documents: dict[str, Document]) -> int:
    beside = {path: documents.get(path) for path in route.resources}
    own = {(place.resource, place.keys) for place in (*route.power, route.energy) if place}
    return hash(tuple(leaf for leaf in _leaves(beside) if (leaf[0][0], leaf[0][1:]) not in own))


def _leaves(found: Any, way: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], float]]:
    """All numbers inside, each with the way to it."""
    inside = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in inside:
        yield from _leaves(value, (*way, key))
    if _number(found) is not None:
        yield way, found


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # An integer of hundreds of digits is one in JSON, and no float.
    if isinstance(value, int):
        return float(value) if abs(value) < 2**63 else math.inf
    return value if not math.isnan(value) else None


def _words(place: Place) -> str:
    return f"{place.resource}#/{'/'.join(map(str, place.keys))}"
