"""The sums of an answer: as the store adds them up, or hour by hour where something is joined or split.

hours of engines       as stored, by all tags that a later step needs
  + fleet              `fleet`: with what nobody holds of their pools
  + replica groups     `groups`: energy of all members, work of those that count it
  / tenants            `tenants`: by their work in that hour
  / phases             `phases`
  + facility           `facility`: by PUE, with cost and CO2
added up               by the tags and the step that were asked about
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from joulefleet.grid import HOUR_NS, floor_to
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.agents import end_ns
from joulefleet_collector.answer import groups, notices, phases, tenants
from joulefleet_collector.answer.hours import added_up, matching
from joulefleet_collector.answer.rates import Sites
from joulefleet_collector.answer.wider import (
    FACILITY,
    FLEET,
    WIDER_TAGS,
    boundaries,
    is_wider,
    of_facility,
    stored,
    wider_of,
)
from joulefleet_collector.api import UsageQuestion
from joulefleet_collector.rows import SERVER_TAGS, USAGE
from joulefleet_collector.site_files import Stale
from joulefleet_collector.sites import Places
from joulefleet_collector.store.store import DAY_NS, Question, Step, Store, Total
from joulefleet_collector.warnings import Notice

ALWAYS_BY = ("boundary", "simulated")
"""Unlike boundaries, and simulated and real joules, are never added up."""
GROUP = "group"
"""Tag of the replica group; empty where an engine is its own."""
SPLIT_TAGS = ("tenant", "phase")
"""Tags that no sum of energy has in the store: made when asked, by the hour."""
OF_WORK = ("tenant", "layer")
"""Tags that rows of work have and those of usage have not."""
Lifted = Callable[[list[Total]], list[Total]]
"""Hours of engines with those at wider boundaries beside them."""
Made = Callable[[UsageQuestion, list[Total]], tuple[list[Total], list[Total]]]
"""What is told of the hours of a part of a question, divided and undivided."""


class Rules(NamedTuple):
    """What answers rest on beside the store."""

    policy: Policy = Policy()
    """As in accounting: its weights divide what is split when asked."""
    places: Callable[[], tuple[Places, Sequence[Stale]]] = lambda: (Places(sites=Sites({})), ())
    """What is declared of sites and of the fleet now, and files that can no longer be read."""


class Found(NamedTuple):
    """The sums of an answer."""

    asked: UsageQuestion
    """The question as it is answered: of whole hours where something is joined or split."""
    totals: list[Total]
    undivided: list[Total]
    """The same before tenants and phases were told apart, of which each has all the time and the requests: what is
    counted of them, not to be shown, is counted here."""
    about: dict[str, object] = {}  # noqa: RUF012 nobody changes it
    """What is told of the fleet."""
    warnings: Sequence[Notice] = ()


def usage_totals(store: Store, asked: UsageQuestion, rules: Rules) -> Found:
    """The sums asked about. By the minute, members of replica groups stand each for itself. Raises as `Store.ask`."""
    by = tuple(dict.fromkeys((*asked.by, *ALWAYS_BY)))
    if is_made_of_hours(asked):
        found = _of_hours(store, whole_hours(asked), by, rules)
        return found._replace(totals=phases.worth_telling(found.totals)) if "phase" in by else found
    totals = _ask(store, asked, asked.step, (*by, GROUP))
    named = _groups_of(totals)
    if named and asked.step != "minute":
        asked = whole_hours(asked)
        single = [total for total in _ask(store, asked, asked.step, (*by, GROUP)) if not total.tags[GROUP]]
        totals = [*single, *_joined(store, asked, by, named, rules)]
    totals = added_up(totals, by, asked.step) if named or GROUP not in by else totals
    return Found(asked, totals, totals)


def _of_hours(store: Store, asked: UsageQuestion, by: Sequence[str], rules: Rules) -> Found:
    """All that is joined and split by the hour, added up by these tags."""
    kept = (*by, *_apart(store, asked, by))
    if not is_wider(asked):
        hours = _hours(store, asked, _wanted(asked, kept), rules)
        split = partial(_split, store, by=kept, rules=rules)
        return Found(asked, *_added(hours, asked, by, lambda day, found: (split(day, found), found)))
    places, stale = rules.places()
    named = boundaries(asked)
    newest_ns = max(map(end_ns, store.latest("agent")), default=asked.until_ns)
    wider = wider_of(store, asked, places, newest_ns)
    tags = tuple(dict.fromkeys((*_wanted(asked, kept), *WIDER_TAGS)))
    seen: dict[tuple[int | None, str], Total] = {}

    def wide(day: UsageQuestion, found: list[Total]) -> tuple[list[Total], list[Total]]:
        hours = wider.attended(found)
        divided = _named(_split(store, day, hours, (*kept, *WIDER_TAGS), rules), named, places)
        undivided = _named(hours, named, places) if _is_split(asked) else divided
        facility = [total for total in undivided if total.tags["boundary"] == FACILITY]
        seen.update({(total.start_ns, total.tags["site"]): total for total in facility})
        return divided, undivided

    hours = _hours(store, _at(asked, (*stored(named), FLEET)), tags, rules, wider.lifted)
    sums = _added(hours, asked, by, wide)
    warned = [*wider.warnings, *notices.of_files(stale), *notices.of_sites(seen.values(), places.sites)]
    return Found(asked, *sums, wider.about, warned)


def _named(hours: Sequence[Total], named: Sequence[str], places: Places) -> list[Total]:
    """Those at the boundaries that are asked about, the facility made of those at `fleet`."""
    facility = of_facility(hours, places) if FACILITY in named else []
    return [*(total for total in hours if total.tags["boundary"] in named), *facility]


def _added(
    hours: Iterable[tuple[UsageQuestion, list[Total]]], asked: UsageQuestion, by: Sequence[str], made: Made
) -> tuple[list[Total], list[Total]]:
    """What is made of the hours, added up part by part: those of all servers and days would not fit into memory."""
    apart = [tag for tag in by if tag not in SPLIT_TAGS]
    divided: list[Total] = []
    undivided: list[Total] = []
    for part, found in hours:
        told, whole = made(part, found)
        divided += added_up(told, by, asked.step)
        undivided += added_up(whole, apart, asked.step)
    totals = added_up(divided, by, asked.step)
    # Where one tenant or phase is asked about, what is counted is its own.
    return totals, totals if any(tag in SPLIT_TAGS for tag in asked.where) else added_up(undivided, apart, asked.step)


def _apart(store: Store, asked: UsageQuestion, by: Sequence[str]) -> tuple[str, ...]:
    """Tags by which tenants are divided, whatever else is asked: where engines name them, each pays for its own."""
    if "tenant" not in {*by, *asked.where}:
        return ()
    return tenants.OF_ENGINE if tenants.engines_tell(_work(store, asked, (GROUP,))) else tenants.OF_KIND


def _at(asked: UsageQuestion, named: tuple[str, ...]) -> UsageQuestion:
    return msgspec.structs.replace(asked, where=asked.where | {"boundary": named})


def _wanted(asked: UsageQuestion, by: Sequence[str]) -> tuple[str, ...]:
    """Tags that hours need so that they can be split and filtered."""
    return tuple(tag for tag in dict.fromkeys((*by, *asked.where, GROUP, "model")) if tag not in SPLIT_TAGS)


def is_made_of_hours(asked: UsageQuestion) -> bool:
    """Whether something is asked about that no store has added up."""
    return is_wider(asked) or _is_split(asked)


def _is_split(asked: UsageQuestion) -> bool:
    return any(tag in SPLIT_TAGS for tag in (*asked.by, *asked.where))


def whole_hours(asked: UsageQuestion) -> UsageQuestion:
    """The question with both ends moved outwards to whole hours."""
    since_ns, until_ns = floor_to(asked.since_ns, HOUR_NS), -floor_to(-asked.until_ns, HOUR_NS)
    return msgspec.structs.replace(asked, since_ns=since_ns, until_ns=until_ns)


def _split(store: Store, asked: UsageQuestion, hours: Sequence[Total], by: Sequence[str], rules: Rules) -> list[Total]:
    told, divided = {*by, *asked.where}, list(hours)
    if "tenant" in told:
        divided = tenants.split(divided, _work(store, asked, _wanted(asked, by)), rules.policy)
    if "phase" in told:
        divided = phases.split(divided)
    return matching(divided, {tag: asked.where[tag] for tag in SPLIT_TAGS if tag in asked.where})


def _hours(
    store: Store, asked: UsageQuestion, by: tuple[str, ...], rules: Rules, lifted: Lifted = list[Total]
) -> Iterator[tuple[UsageQuestion, list[Total]]]:
    """Every hour by these tags, of which GROUP is one, at further boundaries too, replica groups joined; in parts of
    the question, whose time follows one another."""
    named = _groups_of(_ask(store, asked, "none", (GROUP,)))
    # A group is judged by what is seen of it in all of the time.
    together = _joined(store, asked, by, named, rules, lifted)
    for part in _days(store, asked) if "server" in by else [asked]:
        single = lifted([total for total in _ask(store, part, "hour", by) if not total.tags[GROUP]])
        joint = [total for total in together if part.since_ns <= (total.start_ns or 0) < part.until_ns]
        yield part, [*single, *joint]


def _days(store: Store, asked: UsageQuestion) -> Iterator[UsageQuestion]:
    """The question for each day of UTC of which anything is known."""
    for day in _ask(store, asked, "day", ()):
        begin_ns = day.start_ns or 0
        since_ns, until_ns = max(begin_ns, asked.since_ns), min(begin_ns + DAY_NS, asked.until_ns)
        yield msgspec.structs.replace(asked, since_ns=since_ns, until_ns=until_ns)


def _joined(  # noqa: PLR0913, PLR0917 # a question in its parts
    store: Store,
    asked: UsageQuestion,
    by: Sequence[str],
    named: Sequence[str],
    rules: Rules,
    lifted: Lifted = list[Total],
) -> list[Total]:
    """The hours of these groups. A filter may leave out some of their members, so that it comes last."""
    if not named:
        return []
    days = msgspec.structs.replace(
        asked, since_ns=floor_to(asked.since_ns, DAY_NS), until_ns=-floor_to(-asked.until_ns, DAY_NS), where={}
    )
    every = tuple(dict.fromkeys((*by, *asked.where, *USAGE.tags, *SERVER_TAGS)))
    hours = groups.joined(lifted(_ask(store, days, "hour", every, {GROUP: tuple(named)})), rules.policy)
    in_time = [total for total in hours if asked.since_ns <= (total.start_ns or 0) < asked.until_ns]
    return matching(in_time, {tag: values for tag, values in asked.where.items() if tag not in SPLIT_TAGS})


def _groups_of(found: Sequence[Total]) -> list[str]:
    return sorted({total.tags[GROUP] for total in found} - {""})


def _work(store: Store, asked: UsageQuestion, by: Sequence[str]) -> list[Total]:
    """Rows of work by the tags that tell engines apart; those of a front stand by themselves."""
    tags = tuple(dict.fromkeys((*(tag for tag in by if tag != "boundary"), "simulated", *OF_WORK)))
    where = {"model": asked.where["model"]} if "model" in asked.where else {}
    return store.ask(
        Question(kind="work", since_ns=asked.since_ns, until_ns=asked.until_ns, step="hour", by=tags, where=where)
    )


def _ask(
    store: Store, asked: UsageQuestion, step: Step, by: Sequence[str], where: dict[str, tuple[str, ...]] | None = None
) -> list[Total]:
    """What the store has of the question, and of further filters; tags that are made when asked are left out."""
    kept = {tag: values for tag, values in asked.where.items() if tag not in SPLIT_TAGS}
    return store.ask(
        Question(
            kind="usage",
            since_ns=asked.since_ns,
            until_ns=asked.until_ns,
            step=step,
            by=tuple(tag for tag in dict.fromkeys(by) if tag not in SPLIT_TAGS),
            where=kept | (where or {}),
        )
    )
