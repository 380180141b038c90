"""How a figure was made of hours that were measured otherwise: divided, joined, or widened beyond servers."""

from collections.abc import Mapping, Sequence

import msgspec

from joulefleet.grid import rfc3339
from joulefleet_collector.answer.phases import TAG as PHASE
from joulefleet_collector.answer.rates import Rates
from joulefleet_collector.answer.tenants import OF_GROUP
from joulefleet_collector.answer.tenants import TAG as TENANT
from joulefleet_collector.answer.totals import SPLIT_TAGS
from joulefleet_collector.answer.wider import FACILITY
from joulefleet_collector.api import UsageQuestion
from joulefleet_collector.explain.figure import Sums
from joulefleet_collector.explain.scope import Hours, Wanted, stored_hours
from joulefleet_collector.rows import COUNT_FIELDS, FRONT, WIDER_BOUNDARIES
from joulefleet_collector.store.store import Question, Store, Total
from joulefleet_collector.usage import known_sum

MAX_LISTED = 200
"""Hours, members and tenants that are told one by one."""
_WHOSE = {FRONT: "a gateway's counts, as ratios of the engines' own", "engines": "the engines' own counts"}
_PHASES = (
    "phases: energy of prompts and of answers as accounting knows it (engines of one phase, busy seconds, or tokens at"
    " the weights of the policy)"
)
_GROUPS = (
    "groups: energy of all members, work of those that count it; an hour in which a member is missing or not covered"
    " adds neither"
)
_FLEET = (
    "fleet: what nobody holds of the pool in that hour, shared by the device-seconds that each engine holds, and"
    " declared overhead, in proportion to energy"
)
_FACILITY = "facility: all of that times the PUE of the site in that hour; an hour without a PUE adds nothing"


class HourPart(msgspec.Struct, frozen=True, kw_only=True):
    """One hour: the joules of the figure, and those that the meters told of its engines."""

    start: str
    figure_j: float
    whole_j: float
    share: float | None
    """The first of the second; above 1 at boundaries wider than a server."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One server of a replica group in an hour that adds nothing."""

    start: str
    group: str
    server: str
    window_s: float
    paired_s: float


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer counted for one tenant over the time."""

    layer: str
    """`gateway` of a front before engines; empty of the engines themselves."""
    tenant: str
    counts: dict[str, float]


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """What held at a site in an hour; None is not known."""

    start: str
    site: str
    rates: Rates


class Division(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to the hours."""

    ways: list[str]
    """In words."""
    told_by: str
    """Which layer names tenants: `gateway`, `engines`, or nobody (empty)."""
    groups: tuple[str, ...]
    figure_j: float
    whole_j: float
    hours: list[HourPart]
    hours_counted: int
    missing: list[Member]
    """Servers of groups in hours that add nothing: a server that is not named there told nothing at all."""
    missing_counted: int
    tenants: list[Tenant]
    tenants_counted: int
    rates: list[Rate]
    """Of the sites of a facility."""
    fleet: dict[str, object]
    """Pools, inventory and what is left out, as the report tells them."""


def is_made(asked: UsageQuestion, groups: Sequence[str]) -> bool:
    """Whether the hours of this question are others than those that are stored."""
    return (
        bool(groups) or any(tag in SPLIT_TAGS for tag in asked.where) or asked.where["boundary"][0] in WIDER_BOUNDARIES
    )


def division(store: Store, asked: UsageQuestion, wanted: Wanted, row: Hours, wholes: Mapping[int, Sums]) -> Division:
    """How the hours of this row were made from those of its engines."""
    made = row.sums
    hours = [_hour(at_ns, made.get(at_ns, {}), wholes.get(at_ns, {})) for at_ns in sorted({*made, *wholes})]
    tenants = [_tenant(total) for total in _work(store, asked)] if TENANT in asked.where else []
    told_by = _told_by(tenants)
    missing = _missing(store, asked, wanted, made) if wanted.groups else []
    return Division(
        ways=list(_ways(asked, wanted, told_by)),
        told_by=told_by,
        groups=wanted.groups,
        figure_j=sum(one.figure_j for one in hours),
        whole_j=sum(one.whole_j for one in hours),
        hours=hours[:MAX_LISTED],
        hours_counted=len(hours),
        missing=missing[:MAX_LISTED],
        missing_counted=len(missing),
        tenants=tenants[:MAX_LISTED],
        tenants_counted=len(tenants),
        rates=[Rate(start=rfc3339(at_ns), site=site, rates=held) for at_ns, site, held in row.rates[:MAX_LISTED]],
        fleet=row.about,
    )


def _hour(start_ns: int, part: Sums, whole: Sums) -> HourPart:
    figure_j, whole_j = _energy_j(part), _energy_j(whole)
    share = figure_j / whole_j if whole_j else None
    return HourPart(start=rfc3339(start_ns), figure_j=figure_j, whole_j=whole_j, share=share)


def _energy_j(sums: Sums) -> float:
    return known_sum(sums, ("active_j", "idle_j")) or 0.0


def _missing(store: Store, asked: UsageQuestion, wanted: Wanted, made: Mapping[int, Sums]) -> list[Member]:
    """Members of groups in hours that do not pair."""
    time_ns = asked.since_ns, asked.until_ns
    refused = {at_ns for at_ns, sums in made.items() if sums.get("window_s") and not sums.get("paired_s")}
    return [
        Member(
            start=rfc3339(total.start_ns or 0),
            group=total.tags["group"],
            server=total.tags["server"],
            window_s=total.fields.get("window_s", 0.0),
            paired_s=total.fields.get("paired_s", 0.0),
        )
        for total in stored_hours(store, wanted, time_ns, ("group", "server"))
        if total.tags["group"] and total.start_ns in refused
    ]


def _work(store: Store, asked: UsageQuestion) -> list[Total]:
    """Work by layer and tenant of the models and groups that are asked for: a front knows no more of its engines."""
    where = {tag: values for tag, values in asked.where.items() if tag in OF_GROUP}
    # A front that names no group speaks for all groups of its model.
    where |= {"group": (*where["group"], "")} if "group" in where else {}
    question = Question(
        kind="work", since_ns=asked.since_ns, until_ns=asked.until_ns, by=("layer", "tenant"), where=where
    )
    return store.ask(question)


def _tenant(total: Total) -> Tenant:
    counts = {name: total.fields[name] for name in COUNT_FIELDS if name in total.fields}
    return Tenant(layer=total.tags["layer"], tenant=total.tags["tenant"], counts=counts)


def _told_by(tenants: list[Tenant]) -> str:
    named = {one.layer for one in tenants if one.tenant and any(one.counts.values())}
    return FRONT if FRONT in named else "engines" if named else ""


def _ways(asked: UsageQuestion, wanted: Wanted, told_by: str) -> list[str]:
    boundary = asked.where["boundary"][0]
    tenants = (
        "tenants: prompt tokens for energy of prompts, output tokens for that of answers, work units for the rest, by"
        f" {_WHOSE[told_by]}"
        if told_by
        else "tenants: nobody names any, and all is of the one without a name"
    )
    ways = (
        (bool(wanted.groups), _GROUPS),
        (boundary in WIDER_BOUNDARIES, _FLEET),
        (TENANT in asked.where, tenants),
        (PHASE in asked.where, _PHASES),
        (boundary == FACILITY, _FACILITY),
    )
    return [words for is_used, words in ways if is_used]
