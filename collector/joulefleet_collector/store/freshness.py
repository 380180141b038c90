"""Which hours of a store hold something new, which sums still stand, and from which rows a question is answered.

A store that is written by several collectors at once cannot keep its sums in step with its rows. So each write leaves
a token, random and new, at every hour that it touched; a sum of an hour keeps the token that stood there before the
hour was added up. While both are equal the sum stands; once they differ it is not read, until it is made again. A sum
of a day keeps the sum of the tokens of its hours.
"""

from collections.abc import Mapping, Sequence

import msgspec

from joulefleet.grid import HOUR_NS, floor_to
from joulefleet_collector.store.rollup import Piece, Rollup
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS

TOKEN_BITS = 40
"""Tokens are kept as floats: 24 of them add up exactly in 53 bits."""

Tokens = Mapping[int, int]
"""Token by start of the hour or day, in nanoseconds."""


class Marks(msgspec.Struct, frozen=True):
    """What a store's marks say at one moment."""

    touched: Tokens = {}
    """By hour: the token of its last write. Hours without one hold no rows."""
    hours: Tokens = {}
    """By hour: the token from which its sums were made."""
    days: Tokens = {}
    """By day: the tokens of its hours from which its sums were made, added up."""


class Due(msgspec.Struct, frozen=True):
    """Hours and days whose sums have to be made anew, by start and in this order."""

    hours: dict[int, int]
    """With the token that each sum keeps."""
    days: dict[int, int]


def day_tokens(touched: Tokens) -> dict[int, int]:
    """The token of each day: those of its hours, added up."""
    tokens: dict[int, int] = {}
    for hour_ns, token in touched.items():
        day_ns = floor_to(hour_ns, DAY_NS)
        tokens[day_ns] = tokens.get(day_ns, 0) + token
    return tokens


def due(before: Marks, now: Marks) -> Due:
    """What to add up: hours that were not touched since `before`, and days that are over and wholly added up.

    An hour that is still being written would be added up again and again; and a write that the store is taking in just
    now may show its token before its rows. So `before` must be older than a write can last.
    """
    stale = {hour: token for hour, token in now.touched.items() if now.hours.get(hour) != token}
    quiet = {hour: token for hour, token in sorted(stale.items()) if before.touched.get(hour) == token}
    waiting = {floor_to(hour, DAY_NS) for hour in stale.keys() - quiet.keys()}
    newest = floor_to(max(now.touched, default=0), DAY_NS)
    days = {
        day: token
        for day, token in sorted(day_tokens(now.touched).items())
        if day < newest and day not in waiting and now.days.get(day) != token
    }
    return Due(quiet, days)


def rows_to_read(since_ns: int, until_ns: int, grains: Sequence[Rollup], marks: Marks) -> list[Piece]:
    """Every touched hour in [since, until) once, each from the coarsest grain that fits and stands, in order.

    `grains` go from coarse to fine and end in minutes, which stand for the rows themselves. What lies between two
    pieces, or in a piece between two touched hours, holds no rows. Raises ValueError where the instants are no whole
    minutes.
    """
    if since_ns % MINUTE_NS or until_ns % MINUTE_NS:
        raise ValueError("a question must begin and end at whole minutes of UTC")
    if since_ns >= until_ns:
        return []
    days = {day for day, token in day_tokens(marks.touched).items() if marks.days.get(day) == token}
    hours = {hour for hour, token in marks.touched.items() if marks.hours.get(hour) == token}

    def fits(grain: Rollup, hour_ns: int) -> bool:
        start = floor_to(hour_ns, grain.step_ns)
        stands = start in (days if grain.step_ns > HOUR_NS else hours)
        return grain.step_ns < HOUR_NS or (stands and since_ns <= start and start + grain.step_ns <= until_ns)

    pieces: list[Piece] = []
    for hour in sorted(hour for hour in marks.touched if since_ns - HOUR_NS < hour < until_ns):
        grain = next(grain for grain in grains if fits(grain, hour))
        # Hours and days lie inside by their choice; only a piece of rows begins or ends within an hour.
        step_ns = max(grain.step_ns, HOUR_NS)
        start, end = floor_to(hour, step_ns), floor_to(hour, step_ns) + step_ns
        if pieces and pieces[-1].rollup is grain:
            pieces[-1] = Piece(grain, pieces[-1].since_ns, min(end, until_ns))
        else:
            pieces.append(Piece(grain, max(start, since_ns), min(end, until_ns)))
    return pieces
