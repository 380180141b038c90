"""Which software, drivers and configurations the windows behind a figure were made with, and from when to when."""

from collections.abc import Container, Iterable

import msgspec

from joulefleet.grid import rfc3339
from joulefleet_collector.explain.seen import Seen
from joulefleet_collector.rows import Row

MAX_VERSIONS = 10_000
"""Different values that are told apart; a fleet has few."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One value, and the windows that tell it."""

    what: str
    """`agent`, `config`, `kernel` and other facts; `driver`, `power_limit_mw`, `calibration`, `engine`, `schema`."""
    value: str
    since: str
    until: str
    """End of the last window that tells it. Facts travel once an hour and on change."""
    servers: int


class _Told(msgspec.Struct):
    first_ns: int
    end_ns: int
    servers: set[str]


class Versions:
    """Gathers them window by window."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], _Told] = {}

    def add(self, seen: Seen) -> None:
        """What this window tells; the facts of single boards and engines by what they are about."""
        window = seen.stage.window
        for key in {*_declared(seen), *_facts(window.facts)}:
            self._tell(key, window.start_ns, window.end_ns, window.server)

    def remember(self, facts: Iterable[Row], servers: Container[str], until_ns: int) -> None:
        """Facts that no window tells, as these servers told them last before this instant: they travel once an hour.

        `facts` are the newest rows of each server, fact and value. Those of single boards and engines are taken of
        servers of which there is no window, since windows declare them.
        """
        known = {(what, server) for (what, _), told in self._told.items() for server in told.servers}
        seen = {server for _, server in known}
        newest: dict[tuple[str, str], Row] = {}
        for row in sorted(facts, key=lambda row: row.start_ns):
            fact, server = row.tags.get("fact", ""), row.tags.get("server", "")
            is_new = (fact, server) not in known and (":" not in fact or server not in seen)
            if server in servers and is_new and row.start_ns < until_ns:
                newest[fact, server] = row
        for (fact, server), row in newest.items():
            self._tell((fact.partition(":")[0], row.tags.get("value", "")), row.start_ns, row.start_ns, server)

    def _tell(self, key: tuple[str, str], first_ns: int, end_ns: int, server: str) -> None:
        if key not in self._told and len(self._told) >= MAX_VERSIONS:
            return
        told = self._told.setdefault(key, _Told(first_ns, end_ns, set()))
        told.first_ns, told.end_ns = min(told.first_ns, first_ns), max(told.end_ns, end_ns)
        told.servers.add(server)

    def listed(self) -> list[Version]:
        """All of them, by what they are and when they began."""
        return [
            Version(
                what=what,
                value=value,
                since=rfc3339(told.first_ns),
                until=rfc3339(told.end_ns),
                servers=len(told.servers),
            )
            for (what, value), told in sorted(self._told.items(), key=lambda one: (one[0][0], one[1].first_ns, one[0]))
        ]


def _declared(seen: Seen) -> list[tuple[str, str]]:
    """What the declarations of the boundary's meters and the figure's engines say."""
    cover, stage = seen.books.cover, seen.stage
    found = [("schema", str(stage.window.schema))]
    for one in {id(each): each for each in (*cover.meters, *cover.devices)}.values():
        found += [("driver", one.meter.driver), ("calibration", one.meter.calibration)]
        found += [("power_limit_mw", str(one.meter.power_limit_mw))] if one.meter.power_limit_mw else []
    for part in stage.parts:
        engine = stage.scene.engines[part.engine].engine
        found.append(("engine", f"{engine.software} {engine.version}".strip()))
    return [(what, value) for what, value in found if value]


def _facts(facts: dict[str, str]) -> list[tuple[str, str]]:
    """Facts of the whole server: those of a board or an engine are declared as well."""
    return [(fact, value) for fact, value in facts.items() if ":" not in fact]
