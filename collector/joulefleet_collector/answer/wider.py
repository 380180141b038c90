"""Boundaries wider than a server, put together from hours of usage, the ledger of all servers, and what is declared.

hours at `server`      of what was asked about, with the tags that are needed here
  / fleet              what nobody holds of their pools, declared overhead, coverage by the inventory
  / (tenants, phases)  as at any boundary
  / facility           by the PUE of the hour, then cost and CO2
"""

from collections.abc import Collection, Iterable
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
from joulefleet_collector.sites import Places
from joulefleet_collector.store.store import Question, Store, Total
from joulefleet_collector.warnings import Notice

FLEET, FACILITY = "fleet", "facility"
WIDER = (FLEET, FACILITY)
WIDER_TAGS = (*POOL_TAGS, HARDWARE)
"""Tags that hours of usage need for these boundaries."""
_PLACE = ("pool", "site")


class Wider(NamedTuple):
    """What is known of the pools of a question."""

    hours: list[Total]
    """Usage at `fleet`."""
    about: dict[str, object]
    """What the answer tells of the fleet."""
    warnings: list[Notice]


def boundaries(asked: UsageQuestion) -> tuple[str, ...]:
    """The boundaries asked about by name."""
    return asked.where.get("boundary", ())


def is_wider(asked: UsageQuestion) -> bool:
    """Whether fleet or facility are asked about: they are made of hours, and only where they are named."""
    return any(name in WIDER for name in boundaries(asked))


def stored(named: Collection[str]) -> tuple[str, ...]:
    """The boundaries that the store is asked for, where these are."""
    return tuple(dict.fromkeys("server" if name in WIDER else name for name in named))


def widened(store: Store, asked: UsageQuestion, hours: Iterable[Total], places: Places, newest_ns: int) -> Wider:
    """Hours of usage at `fleet`, from those at `server` with WIDER_TAGS; `newest_ns` is the end of the newest window.

    `asked` is of whole hours. Raises as `Store.ask`.
    """
    ledger, everyone = _of_pools(store, asked, places)
    everywhere = pool_hours(ledger, everyone, places.overheads)
    pools = {place: pool for place, pool in everywhere.items() if _is_asked(place, asked)}
    fleet, there = with_fleet(hours, pools), None
    if places.stays is not None:
        span = Span(asked.since_ns, min(asked.until_ns, newest_ns), asked.step)
        stays = [stay for stay in places.stays if stay.pool in asked.where.get("pool", (stay.pool,))]
        there = attendance(ledger, stays, span)
        fleet = attended(fleet, there, span)
    return Wider(fleet, _about(pools, there, places), _warned(pools, there))


def of_facility(hours: Iterable[Total], places: Places) -> list[Total]:
    """Hours of usage at `facility`, with cost and CO2, from those at `fleet` with WIDER_TAGS."""
    return with_costs(with_facility(hours, places.sites), places.sites, places.embodied)


def _of_pools(store: Store, asked: UsageQuestion, places: Places) -> tuple[list[Total], list[Total]]:
    """Hours of the ledger by server, and of the usage of all.

    A server of the inventory may report from another pool, and overhead may serve several: then all are needed.
    """
    all_needed = places.stays is not None or places.overheads
    where = {} if all_needed else {tag: asked.where[tag] for tag in _PLACE if tag in asked.where}
    where["boundary"] = ("server",)

    def hours(kind: str, by: tuple[str, ...], fields: tuple[str, ...]) -> list[Total]:
        time = {"since_ns": asked.since_ns, "until_ns": asked.until_ns}
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
