"""Which servers a fleet should have, and for how long: what silent ones are missed by."""

from collections.abc import Iterable, Mapping

import msgspec

from joulefleet.grid import HOUR_NS, from_rfc3339
from joulefleet.units import ns_to_s
from joulefleet_collector.answer.series import rows_of

_HEAD = ("server", "pool", "from", "to")
_ALWAYS_NS = (0, 2**63 - 1)


class Stay(msgspec.Struct, frozen=True):
    """A server in a pool, from one instant to another."""

    server: str
    pool: str
    from_ns: int
    to_ns: int


class Presence(msgspec.Struct):
    """How much of the expected time the servers of a pool told of."""

    expected_s: float = 0.0
    reported_s: float = 0.0
    silent: tuple[str, ...] = ()
    """Servers that told of none of it."""

    @property
    def share(self) -> float:
        """The part that was told of."""
        return self.reported_s / self.expected_s


def inventory_of(text: str) -> tuple[Stay, ...]:
    """Stays from the lines `server,pool,from,to` of a CSV; an instant may be empty. Raises ValueError with the line."""
    found: dict[str, list[Stay]] = {}
    for line, (server, pool, begin, end) in rows_of(text, _HEAD):
        try:
            stay = Stay(server, pool, _instant(begin, _ALWAYS_NS[0]), _instant(end, _ALWAYS_NS[1]))
            _check(stay, found.setdefault(server, []))
        except ValueError as error:
            raise ValueError(f"line {line}: {error}") from error
        found[server].append(stay)
    if not found:
        raise ValueError("there is no line 'server,pool,from,to'")
    return tuple(stay for stays in found.values() for stay in stays)


def _instant(text: str, otherwise_ns: int) -> int:
    return from_rfc3339(text) if text else otherwise_ns


def _check(stay: Stay, others: Iterable[Stay]) -> None:
    if not stay.server:
        raise ValueError("no server is named")
    if stay.from_ns >= stay.to_ns:
        raise ValueError(f"'{stay.server}' goes before it comes")
    if any(stay.from_ns < other.to_ns and other.from_ns < stay.to_ns for other in others):
        raise ValueError(f"'{stay.server}' stands twice at one time")


Reported = Mapping[str, Mapping[int, float]]
"""By server: seconds of each hour of which it told, by the hour's start."""


def presence(stays: Iterable[Stay], reported: Reported, since_ns: int, until_ns: int) -> dict[str, Presence]:
    """By pool, how much of this time was expected and told of, where `reported` has the hours of this time.

    A server counts for no more than it is expected: none makes up for a silent one.
    """
    found: dict[str, Presence] = {}
    told: dict[tuple[str, str], float] = {}
    for stay in stays:
        begin_ns, end_ns = max(stay.from_ns, since_ns), min(stay.to_ns, until_ns)
        if begin_ns >= end_ns:
            continue
        of_pool, hours = found.setdefault(stay.pool, Presence()), reported.get(stay.server, {})
        seconds = sum(min(told_s, _overlap_s(hour_ns, begin_ns, end_ns)) for hour_ns, told_s in hours.items())
        of_pool.expected_s += ns_to_s(end_ns - begin_ns)
        of_pool.reported_s += seconds
        told[stay.pool, stay.server] = told.get((stay.pool, stay.server), 0.0) + seconds
    for (pool, server), seconds in told.items():
        found[pool].silent += () if seconds else (server,)
    return found


def _overlap_s(hour_ns: int, begin_ns: int, end_ns: int) -> float:
    return ns_to_s(max(min(hour_ns + HOUR_NS, end_ns) - max(hour_ns, begin_ns), 0))


def not_named(stays: Iterable[Stay], servers: Iterable[str]) -> list[str]:
    """Servers that report and are in no inventory."""
    return sorted(set(servers) - {stay.server for stay in stays})
