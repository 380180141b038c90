"""Boundaries wider than a server, put together from hours of usage, the ledger of all servers, and what is declared.

hours at `server`      of what was asked about, with the tags that are needed here
  + fleet              what nobody holds of their pools, declared overhead
  / (groups)           joined, as at any boundary; then coverage by the inventory
  / (tenants, phases)  as at any boundary
  + facility           by the PUE of the hour, then cost and CO2
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from joulefleet_collector.answer import notices
from joulefleet_collector.answer.costs import HARDWARE, with_costs
from joulefleet_collector.answer.facility import with_facility
from joulefleet_collector.answer.fleet import (
    EVERYONE_FIELDS,
    LEDGER_FIELDS,
    LEDGER_TAGS,
    POOL_TAGS,
    Place,
    Pools,
    pool_hours,
    with_fleet,
)
from joulefleet_collector.answer.pools import (
    Attendance,
    Span,
    attendance,
    attended,
    inventory_table,
    leaves_out,
    pool_table,
)
from joulefleet_collector.api import UsageQuestion
from joulefleet_collector.rows import WIDER_BOUNDARIES
from joulefleet_collector.sites import Places
from joulefleet_collector.store.store import Question, Store, Total
from joulefleet_collector.warnings import Notice

FLEET, FACILITY = WIDER_BOUNDARIES
WIDER_TAGS = (*POOL_TAGS, HARDWARE, "software", "version")
"""Tags that hours of usage need for these boundaries: how much idle energy goes to what is counted depends on who
counts, so that engines of one software are told apart from others whatever is asked."""


class Wider(NamedTuple):
    """The pools of a question, and what must be told of them."""

    pools: Pools
    there: Attendance | None
    """None where there is no inventory."""
    span: Span
    about: dict[str, object]
    """What the answer tells of the fleet."""
    warnings: list[Notice]

    def lifted(self, hours: Sequence[Total]) -> list[Total]:
        """Hours of engines with WIDER_TAGS, and those at `server` once more as they are at `fleet`.

        Before replica groups are joined: each member is in a pool of its own.
        """
        return [*hours, *with_fleet(hours, self.pools)]

    def attended(self, hours: Sequence[Total]) -> list[Total]:
        """The same hours, with coverage at `fleet` as low as silent servers make it."""
        if self.there is None:
            return list(hours)
        fleet = [total for total in hours if total.tags["boundary"] == FLEET]
        others = [total for total in hours if total.tags["boundary"] != FLEET]
        return [*others, *attended(fleet, self.there, self.span)]


def boundaries(asked: UsageQuestion) -> tuple[str, ...]:
    """The boundaries asked about by name."""
    return asked.where.get("boundary", ())


def is_wider(asked: UsageQuestion) -> bool:
    """Whether fleet or facility are asked about: they are made of hours, and only where they are named."""
    return any(name in WIDER_BOUNDARIES for name in boundaries(asked))


def stored(named: Collection[str]) -> tuple[str, ...]:
    """The boundaries that the store is asked for, where these are."""
    return tuple(dict.fromkeys("server" if name in WIDER_BOUNDARIES else name for name in named))


def wider_of(store: Store, asked: UsageQuestion, places: Places, newest_ns: int) -> Wider:
    """The pools of a question of whole hours; `newest_ns` is the end of the newest window. Raises as `Store.ask`."""
    ledger, everyone = _hours_of_all(store, asked)
    pools = pool_hours(ledger, everyone, places.overheads)
    told = {place: pool for place, pool in pools.items() if _is_asked(place, asked)}
    span, there = Span(asked.since_ns, min(asked.until_ns, newest_ns), asked.step), None
    if places.stays is not None:
        stays = [stay for stay in places.stays if stay.pool in asked.where.get("pool", (stay.pool,))]
        there = attendance(ledger, stays, span)
    return Wider(pools, there, span, _about(told, there, places), _warned(told, there))


def of_facility(hours: Iterable[Total], places: Places) -> list[Total]:
    """Hours of usage at `facility`, with cost and CO2, from those at `fleet` with WIDER_TAGS."""
    return with_costs(with_facility(hours, places.sites), places.sites, places.embodied)


def _hours_of_all(store: Store, asked: UsageQuestion) -> tuple[list[Total], list[Total]]:
    """Hours of the ledger by server, and of the usage of all.

    Nothing is filtered: a server of the inventory may report from another pool, overhead serves several, and so may a
    replica group be in several.
    """

    def hours(kind: str, by: tuple[str, ...], fields: tuple[str, ...]) -> list[Total]:
        time = {"since_ns": asked.since_ns, "until_ns": asked.until_ns}
        where: dict[str, tuple[str, ...]] = {"boundary": ("server",)}
        return store.ask(Question(kind=kind, step="hour", by=by, where=where, fields=fields, **time))

    return hours("ledger", LEDGER_TAGS, LEDGER_FIELDS), hours("usage", ("boundary", *POOL_TAGS), EVERYONE_FIELDS)


def _is_asked(place: Place, asked: UsageQuestion) -> bool:
    named = {"pool": place.pool, "site": place.site, "simulated": place.simulated}
    return all(value in asked.where.get(tag, (value,)) for tag, value in named.items())


def _about(pools: Pools, there: Attendance | None, places: Places) -> dict[str, object]:
    return {
        "leaves_out": leaves_out(places.overheads, there is not None, pools),
        "pools": pool_table(pools),
        "inventory": None if there is None else inventory_table(there),
    }


def _warned(pools: Pools, there: Attendance | None) -> list[Notice]:
    return [*(notices.of_inventory(there) if there else []), *notices.of_pools(pool_table(pools))]
