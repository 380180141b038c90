"""Which hours of a report make a row, and which engines and stored sums these rest on."""

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import msgspec

from joulefleet.grid import HOUR_NS, floor_to
from joulefleet_collector.answer.rates import Rates, Sites
from joulefleet_collector.answer.totals import ALWAYS_BY, GROUP, SPLIT_TAGS, Rules, usage_totals
from joulefleet_collector.answer.wider import FACILITY, stored
from joulefleet_collector.api import UsageQuestion
from joulefleet_collector.explain.asked import Row, said
from joulefleet_collector.explain.figure import Sums
from joulefleet_collector.rows import USAGE
from joulefleet_collector.store.store import Question, Store, Total

SITE = "site"
Where = dict[str, tuple[str, ...]]
ByHour = dict[int, dict[str, float]]


class Wanted(msgspec.Struct, frozen=True, dict=True):
    """Whose joules a row rests on: engines with these values of each tag, and all members of replica groups."""

    boundary: str
    """As it is stored."""
    where: Where
    groups: tuple[str, ...] = ()
    """Those that are joined in it, whatever else is asked of their members."""
    simulated: str = "false"
    joins: bool = False
    """Whether members of other groups are left out, as in an answer of hours."""

    @cached_property
    def of_windows(self) -> Where:
        """The filters that a window's own tags answer; none where a group may have members anywhere."""
        return {} if self.groups else {tag: values for tag, values in self.where.items() if tag not in USAGE.tags}

    def takes(self, tags: Mapping[str, str]) -> bool:
        """Whether an engine's row with these tags belongs to it."""
        group = tags.get(GROUP, "")
        if group and self.joins:
            of_all = (tags.get("boundary"), tags.get("simulated")) == (self.boundary, self.simulated)
            return of_all and group in self.groups
        return answers(tags, self.where)

    @property
    def questions(self) -> list[Where]:
        """The filters by which the store has the same rows, none of them twice."""
        if not self.joins:
            return [self.where]
        alone = {**self.where, GROUP: ("",)}
        joined = {"boundary": (self.boundary,), "simulated": (self.simulated,), GROUP: self.groups}
        kept = self.where.get(GROUP, ("",))
        return [*([alone] if "" in kept else []), *([joined] if self.groups else [])]


def answers(tags: Mapping[str, str], where: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether these tags have one of the values that each filter names."""
    return all(tags.get(tag, "") in values for tag, values in where.items())


class Hours(NamedTuple):
    """A row's hours as the report made them, and the groups that were joined in them."""

    sums: ByHour
    groups: tuple[str, ...]
    rates: tuple[tuple[int, str, Rates], ...]
    """By hour and site, at the boundary that depends on them."""
    about: dict[str, object]
    """What the report tells of the fleet."""


def hours_of(store: Store, report: UsageQuestion, row: Row, narrowed: UsageQuestion, rules: Rules) -> Hours:
    """The hours of a row. `report` is the question of its report, `narrowed` that of the row alone.

    The report's own time is asked for: in its first and last hour a group is judged by what is seen beside it.
    """
    if report.step == "minute":
        step, asked = "minute", narrowed
    else:
        step, asked = "hour", report
    of_site = (SITE,) if row["boundary"] == FACILITY else ()
    by = tuple(dict.fromkeys((*report.by, *ALWAYS_BY, GROUP, *of_site)))
    found = usage_totals(store, msgspec.structs.replace(asked, step=step, by=by), rules)
    own = {tag: (said(row.get(tag, "")),) for tag in (*report.by, *ALWAYS_BY)}
    of_row = [
        total
        for total in found.totals
        if answers(total.tags, own) and narrowed.since_ns <= (total.start_ns or 0) < narrowed.until_ns
    ]
    groups = {total.tags[GROUP] for total in of_row} - {""} if step == "hour" else set()
    sites = sorted({(total.start_ns or 0, total.tags[SITE]) for total in of_row if of_site})
    known = rules.places()[0].sites if sites else Sites({})
    rates = tuple((at_ns, site, known.at(site, at_ns)) for at_ns, site in sites)
    return Hours(_by_hour(of_row), tuple(sorted(groups)), rates, found.about)


def wanted_of(narrowed: UsageQuestion, groups: tuple[str, ...], joins: bool) -> Wanted:
    """The engines on which a row rests, by the filters that leave nothing but it."""
    where = {tag: values for tag, values in narrowed.where.items() if tag not in SPLIT_TAGS}
    boundary = stored(where["boundary"])[0]
    return Wanted(boundary, where | {"boundary": (boundary,)}, groups, where["simulated"][0], joins)


def stored_hours(store: Store, wanted: Wanted, time_ns: tuple[int, int], by: tuple[str, ...] = ()) -> list[Total]:
    """What the store has of these engines, by the hour and these tags."""
    return [
        total
        for where in wanted.questions
        for total in store.ask(
            Question(kind="usage", since_ns=time_ns[0], until_ns=time_ns[1], step="hour", by=by, where=where)
        )
    ]


def servers_of(store: Store, wanted: Wanted, time_ns: tuple[int, int]) -> list[str]:
    """The servers that any of these sums rests on."""
    asked = Question(
        kind="usage", since_ns=time_ns[0], until_ns=time_ns[1], by=("server",), fields=("window_s",), where={}
    )
    found = [store.ask(msgspec.structs.replace(asked, where=where)) for where in wanted.questions]
    return sorted({total.tags["server"] for totals in found for total in totals})


def stored_by_hour(store: Store, wanted: Wanted, time_ns: tuple[int, int]) -> ByHour:
    """The same added up, by start of the hour."""
    return _by_hour(stored_hours(store, wanted, time_ns))


def _by_hour(totals: list[Total]) -> ByHour:
    found: ByHour = {}
    for total in totals:
        add(found.setdefault(floor_to(total.start_ns or 0, HOUR_NS), {}), total.fields)
    return found


def add(sums: dict[str, float], more: Sums) -> None:
    """Add these to the sums; unknown plus known is known."""
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value
