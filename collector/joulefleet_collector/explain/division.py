"""What a figure is a part of: hours that were divided among tenants or phases, and by what."""

from collections.abc import Mapping

import msgspec

from joulefleet.grid import rfc3339
from joulefleet_collector.answer.phases import TAG as PHASE
from joulefleet_collector.answer.tenants import OF_GROUP
from joulefleet_collector.answer.tenants import TAG as TENANT
from joulefleet_collector.answer.totals import ALWAYS_BY, SPLIT_TAGS, Rules, usage_totals
from joulefleet_collector.api import UsageQuestion
from joulefleet_collector.explain.figure import Sums
from joulefleet_collector.rows import COUNT_FIELDS, FRONT
from joulefleet_collector.store.store import Question, Store, Total
from joulefleet_collector.usage import known_sum

MAX_LISTED = 200
"""Hours, and tenants, that are told one by one."""
_BY_PHASE = (
    "energy of prompts and of answers as accounting knows it (engines of one phase, busy seconds, or tokens at the"
    " weights of the policy)"
)

ByHour = dict[int, Sums]


class HourPart(msgspec.Struct, frozen=True, kw_only=True):
    """One hour: the joules of the figure, and those of the whole."""

    start: str
    figure_j: float
    whole_j: float
    share: float | None


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer counted for one tenant over the time."""

    layer: str
    """`gateway` of a front before engines; empty of the engines themselves."""
    tenant: str
    counts: dict[str, float]


class Division(msgspec.Struct, frozen=True, kw_only=True):
    """How the figure's joules are a part of what was measured."""

    of: dict[str, tuple[str, ...]]
    """The tenants and phases of the figure."""
    by: str
    """What the hours are divided by, in words."""
    told_by: str
    """Which layer names tenants: `gateway`, `engines`, or nobody (empty)."""
    figure_j: float
    whole_j: float
    hours: list[HourPart]
    hours_counted: int
    tenants: list[Tenant]
    tenants_counted: int


def whole_of(asked: UsageQuestion) -> UsageQuestion:
    """The same question undivided; itself where nothing is divided."""
    where = {tag: values for tag, values in asked.where.items() if tag not in SPLIT_TAGS}
    return msgspec.structs.replace(asked, where=where) if len(where) < len(asked.where) else asked


def sums_by_hour(store: Store, asked: UsageQuestion, rules: Rules) -> ByHour:
    """The sums of a question's one row by start of the hour."""
    totals = usage_totals(store, msgspec.structs.replace(asked, step="hour", by=ALWAYS_BY), rules).totals
    return {total.start_ns or 0: total.fields for total in totals}


def division(store: Store, asked: UsageQuestion, parts: Mapping[int, Sums], wholes: Mapping[int, Sums]) -> Division:
    """How the hours of this question were divided."""
    hours = [_hour(start_ns, parts.get(start_ns, {}), wholes[start_ns]) for start_ns in sorted(wholes)]
    tenants = [_tenant(total) for total in _work(store, asked)] if TENANT in asked.where else []
    told_by = _told_by(tenants)
    return Division(
        of={tag: asked.where[tag] for tag in SPLIT_TAGS if tag in asked.where},
        by=_words(asked, told_by),
        told_by=told_by,
        figure_j=sum(one.figure_j for one in hours),
        whole_j=sum(one.whole_j for one in hours),
        hours=hours[:MAX_LISTED],
        hours_counted=len(hours),
        tenants=tenants[:MAX_LISTED],
        tenants_counted=len(tenants),
    )


def _hour(start_ns: int, part: Sums, whole: Sums) -> HourPart:
    figure_j, whole_j = _energy_j(part), _energy_j(whole)
    return HourPart(
        start=rfc3339(start_ns), figure_j=figure_j, whole_j=whole_j, share=figure_j / whole_j if whole_j else None
    )


def _energy_j(sums: Sums) -> float:
    return known_sum(sums, ("active_j", "idle_j")) or 0.0


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


def _words(asked: UsageQuestion, told_by: str) -> str:
    ways = []
    if TENANT in asked.where:
        whose = {FRONT: "a gateway's counts, as ratios of the engines' own", "engines": "the engines' own counts"}
        ways.append(
            "tenants: prompt tokens for energy of prompts, output tokens for that of answers, work units for the rest,"
            f" by {whose[told_by]}"
            if told_by
            else "tenants: nobody names any, and all is of the one without a name"
        )
    if PHASE in asked.where:
        ways.append(f"phases: {_BY_PHASE}")
    return "; ".join(ways)
