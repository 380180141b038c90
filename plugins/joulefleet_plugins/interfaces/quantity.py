"""Reads a power, an energy or a time as tools write it: a number, perhaps with its unit behind it.

A value's name bears its unit: `power_w`, `energy_kwh`, `time_ms`.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from joulefleet.units import (
    j_to_uj,
    kw_to_mw,
    kwh_to_uj,
    mj_to_uj,
    ms_to_ns,
    s_to_ns,
    us_to_ns,
    uw_to_mw,
    w_to_mw,
    wh_to_uj,
)

Number = int | float
Units = Mapping[str, tuple[str, Callable[[Number], int]]]
"""By name of a value: the unit that may stand behind the number, and how it becomes one of ours."""

POWER: Units = {
    "power_uw": ("uW", lambda value: uw_to_mw(round(value))),
    "power_mw": ("mW", round),
    "power_w": ("W", w_to_mw),
    "power_kw": ("kW", kw_to_mw),
}
"""A power, in milliwatts."""
ENERGY: Units = {
    "energy_uj": ("uJ", round),
    "energy_mj": ("mJ", lambda value: mj_to_uj(round(value))),
    "energy_j": ("J", j_to_uj),
    "energy_wh": ("Wh", wh_to_uj),
    "energy_kwh": ("kWh", kwh_to_uj),
}
"""An energy counter, in microjoules."""
TIMES: dict[str, Callable[[Number], int]] = {
    "time_s": s_to_ns,
    "time_ms": ms_to_ns,
    "time_us": lambda value: us_to_ns(round(value)),
    "time_ns": round,
}
"""Names of the time at which a value was measured, since 1970; `time` is a date and time as ISO 8601 writes it."""
UNIT_WORDS = {
    "\u00b5w": "uW",
    "\u03bcw": "uW",
    "watt": "W",
    "watts": "W",
    "kilowatt": "kW",
    "kilowatts": "kW",
    "joule": "J",
    "joules": "J",
}
NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\s\d]*)")
MOST = 2**62
"""Microjoules or milliwatts above this cannot be, and would not fit into a window."""
LONGEST = 100
"""Characters of a number and its unit."""


class BadOutput(Exception):
    """An output that does not hold what was looked for."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        """`malformed`, `no_value`, `implausible` or `stale`."""
        self.detail = detail
        super().__init__(code, detail)

    def __str__(self) -> str:
        return self.detail


def number(value: Any, unit: str = "") -> Number:
    """The number in a value such as 43.9, "43.9" or "43.9 W". Raises BadOutput, also where another unit follows."""
    if isinstance(value, str):
        matched = NUMBER.fullmatch(value.strip()) if len(value) <= LONGEST else None
        if matched is None:
            raise BadOutput("no_value", f"{value[:40]!r} is no number")
        if unit and matched[2] and UNIT_WORDS.get(matched[2].lower(), matched[2]) != unit:
            raise BadOutput("unit", f"{value[:40]!r} is not in {unit}")
        value = int(matched[1]) if matched[1].lstrip("+-").isdecimal() else float(matched[1])
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadOutput("no_value", f"{str(value)[:40]!r} is no number")
    if not abs(value) <= MOST:  # NaN neither
        raise BadOutput("implausible", f"{value} is no power or energy")
    return value


def value_of(told: Mapping[str, Any], units: Units) -> int | None:
    """The power or energy among these values; None where there is none. Raises BadOutput where it cannot be one."""
    for name in units.keys() & told.keys():
        unit, convert = units[name]
        value = convert(number(told[name], unit))
        if not 0 <= value <= MOST:
            raise BadOutput("implausible", f"{name} is {told[name]!s:.40}")
        return value
    return None


def time_ns(told: Mapping[str, Any]) -> int | None:
    """The time that is told among these values, in nanoseconds since 1970. Raises BadOutput where it is none."""
    if "time" in told:
        try:
            when = datetime.fromisoformat(str(told["time"]))
        except ValueError as error:
            raise BadOutput("no_value", f"{told['time']!s:.40} is no date and time of ISO 8601") from error
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return us_to_ns((when - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1))
    return next((TIMES[name](number(told[name])) for name in TIMES if name in told), None)
