"""What a reader of figures at `server`, `fleet` and `facility` must be warned of.

Servers that are not in them, silent ones, idle pools, gaps in series.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from joulefleet_collector.answer.pools import NAMED, Attendance, Table
from joulefleet_collector.answer.rates import Sites
from joulefleet_collector.report_table import energy
from joulefleet_collector.store.store import Total
from joulefleet_collector.usage import OK_COVERAGE
from joulefleet_collector.warnings import Notice

_IN_WORDS = 3
"""So many servers are named in a sentence."""
_SERIES = {"pue": "PUE", "price_per_kwh": "price", "carbon_g_per_kwh": "carbon intensity"}


def without_whole(ledger: Iterable[Total]) -> list[Notice]:
    """One where servers report energy and none at the boundary `server`, simulated and real apart.

    `ledger` is by boundary, server and simulated.
    """
    boundaries: dict[tuple[str, str], set[str]] = {}
    for total in ledger:
        key = total.tags.get("simulated", ""), total.tags.get("server", "")
        boundaries.setdefault(key, set()).add(total.tags.get("boundary", ""))
    missing: dict[str, list[str]] = {}
    for (simulated, server), named in sorted(boundaries.items()):
        if "server" not in named:
            missing.setdefault(simulated, []).append(server)
    return [_without_whole(simulated == "true", servers) for simulated, servers in missing.items()]


def _without_whole(simulated: bool, servers: Sequence[str]) -> Notice:
    return {
        "code": "not_the_whole_server",
        "simulated": simulated,
        "servers": list(servers[:NAMED]),
        "message": f"{_named(servers)}: no meter and no model tells of the whole server, so that no figure at server,"
        " fleet or facility contains its energy and work; let the agent read the BMC or a PDU outlet, or add the source"
        " host_model",
    }


def of_pools(table: Table) -> list[Notice]:
    """One for each pool in which energy was used while nobody was there to pay for it."""
    return [_unpaid(pool) for pool in table if pool["unshared_j"]]


def _unpaid(pool: dict[str, Any]) -> Notice:
    place = f"pool '{pool['pool']}'" + (f" at '{pool['site']}'" if pool["site"] else "")
    return {
        "code": "pool_without_engines",
        **{name: pool[name] for name in ("pool", "site", "simulated", "unshared_j")},
        "message": f"{place}: {energy(pool['unshared_j'])} that nobody holds are of hours in which no engine is known"
        " to hold a device there; no figure contains them. Windows of an earlier version tell it after"
        " 'joulefleet store recount'",
    }


def of_inventory(there: Attendance) -> list[Notice]:
    """One for each pool of which too little was told, and one for servers that nobody expected."""
    silent: list[Notice] = [
        {
            "code": "silent_servers",
            "pool": pool,
            "coverage": one.share,
            "silent_servers": len(one.silent),
            "message": f"pool '{pool}': {one.share:.1%} of the time of the servers in the inventory was told of"
            + (f", and nothing of {_named(one.silent)}" if one.silent else ""),
        }
        for pool, one in sorted(there.whole.items())
        if one.silent or one.share < OK_COVERAGE
    ]
    if not there.strangers:
        return silent
    stranger: Notice = {
        "code": "not_in_inventory",
        "servers": list(there.strangers[:NAMED]),
        "message": f"{_named(there.strangers)} reported and stand in no line of the inventory: their energy is counted,"
        " their coverage is not; add them",
    }
    return [*silent, stranger]


def _named(servers: Sequence[str]) -> str:
    more = f" and {len(servers) - _IN_WORDS:,} more" if len(servers) > _IN_WORDS else ""
    return ", ".join(f"'{server}'" for server in servers[:_IN_WORDS]) + more


def of_sites(usage: Iterable[Total], sites: Sites) -> list[Notice]:
    """One for each series of each site that has a value in some hours of this usage, and none in others."""
    hours: dict[str, set[int]] = {}
    for total in usage:
        hours.setdefault(total.tags.get("site", ""), set()).add(total.start_ns or 0)
    return [
        _gap(site, name, missing, len(of_site))
        for site, of_site in sorted(hours.items())
        for name in _SERIES
        if 0 < (missing := sum(getattr(sites.at(site, hour), name) is None for hour in of_site)) < len(of_site)
    ]


def _gap(site: str, name: str, missing: int, hours: int) -> Notice:
    return {
        "code": "series_gap",
        "site": site,
        "series": name,
        "missing_hours": missing,
        "hours": hours,
        "message": f"site '{site}': no {_SERIES[name]} is known in {missing} of {hours} hours; figures that need it do"
        " not contain them",
    }


def of_files(stale: Iterable[tuple[str, str]]) -> list[Notice]:
    """One for each file, told with its reason, of which only what it told before is known."""
    return [
        {
            "code": "file_not_read",
            "file": file,
            "message": f"{file}: {reason}; what it told before holds until it is mended",
        }
        for file, reason in stale
    ]
