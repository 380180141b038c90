"""A number of a site that changes over time, such as its PUE or the price of power, and its mean over an hour."""

import csv
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from joulefleet.grid import HOUR_NS, from_rfc3339
from joulefleet.units import ns_to_s

QUARTER_NS = HOUR_NS // 4
"""Offsets of time zones are whole quarters of an hour."""
_HEAD = ["time", "value"]


class Constant(msgspec.Struct, frozen=True):
    """The same at all times."""

    value: float

    def mean(self, hour_ns: int) -> float | None:
        """The mean over the hour that starts then."""
        return self.value


class ByHour(msgspec.Struct, frozen=True):
    """The same each day: one value for each of the 24 hours of the local clock."""

    values: tuple[float, ...]
    zone: tzinfo

    def mean(self, hour_ns: int) -> float | None:
        """The mean over the hour that starts then; of two local hours where they do not begin with those of UTC."""
        quarters = [datetime.fromtimestamp(ns_to_s(hour_ns + part * QUARTER_NS), self.zone) for part in range(4)]
        return math.fsum(self.values[at.hour] for at in quarters) / len(quarters)


class Steps(msgspec.Struct, frozen=True):
    """Each value holds from its instant to the next one; the last one for as long as the one before it.

    A value that is None is a gap. A single value holds for ever.
    """

    starts_ns: tuple[int, ...]
    """Rising."""
    values: tuple[float | None, ...]

    def mean(self, hour_ns: int) -> float | None:
        """The mean over the hour that starts then, by time; None where any part of it is a gap."""
        total, at_ns, end_ns = 0.0, hour_ns, hour_ns + HOUR_NS
        place = bisect_right(self.starts_ns, hour_ns) - 1
        while at_ns < end_ns:
            value = self.values[place] if 0 <= place < len(self.values) else None
            until_ns = end_ns if value is None else min(end_ns, self._end_ns(place, end_ns))
            if value is None or until_ns <= at_ns:
                return None
            total += value * (until_ns - at_ns)
            place, at_ns = place + 1, until_ns
        return total / HOUR_NS

    def _end_ns(self, place: int, for_ever_ns: int) -> int:
        if place + 1 < len(self.starts_ns):
            return self.starts_ns[place + 1]
        return for_ever_ns if place == 0 else 2 * self.starts_ns[place] - self.starts_ns[place - 1]


Series = Constant | ByHour | Steps


def zone_of(name: str) -> tzinfo:
    """A time zone by its name (Europe/Berlin) or its offset (+05:30, UTC). Raises ValueError."""
    if name in ("UTC", "Z"):
        return UTC
    if name[:1] in ("+", "-"):
        return _offset(name)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"'{name}' is no time zone here: write Europe/Berlin, or an offset as +01:00") from error


def _offset(name: str) -> tzinfo:
    try:
        zone = datetime.fromisoformat(f"2000-01-01T00:00:00{name}").tzinfo
    except ValueError:
        zone = None
    if zone is None or (zone.utcoffset(None) or timedelta()) % timedelta(minutes=15):
        raise ValueError(f"'{name}' is no offset of a time zone: write +05:30")
    return zone


def steps_of(text: str) -> Steps:
    """Steps from the lines `time,value` of a CSV; an empty value begins a gap. Raises ValueError with the line."""
    starts_ns: list[int] = []
    values: list[float | None] = []
    for line, (time, value) in rows_of(text, _HEAD):
        try:
            starts_ns.append(from_rfc3339(time))
            values.append(_number(value))
        except ValueError as error:
            raise ValueError(f"line {line}: {error}") from error
        if len(starts_ns) > 1 and starts_ns[-1] <= starts_ns[-2]:
            raise ValueError(f"line {line}: its time does not lie after that of the line before")
    if not starts_ns:
        raise ValueError("there is no line 'time,value'")
    return Steps(tuple(starts_ns), tuple(values))


def rows_of(text: str, head: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Lines of a CSV with these columns, each with its number; a head, and lines that are empty or begin with #, are
    left out. Raises ValueError."""
    for line, cells in enumerate(csv.reader(text.splitlines()), start=1):
        row = [cell.strip() for cell in cells]
        if not any(row) or row[0].startswith("#") or (row == list(head) and line == 1):
            continue
        if len(row) != len(head):
            raise ValueError(f"line {line}: {len(row)} columns where {','.join(head)} are expected")
        yield line, row


def _number(text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"'{text}' is no number")
    return value


def check_range(values: Sequence[float | None], least: float) -> None:
    """Raises ValueError where one of these is less, or no number."""
    for value in values:
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{value:g} is no number")
        if value is not None and value < least:
            raise ValueError(f"{value:g} is less than {least:g}")
