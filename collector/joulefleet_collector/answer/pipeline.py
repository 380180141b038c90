"""The answer to a question about usage: figures, ledger and warnings, put together from the store."""

from collections.abc import Mapping, Sequence

import msgspec

from joulefleet.grid import rfc3339
from joulefleet_collector.answer import notices
from joulefleet_collector.answer.cost_figures import with_cost_figures
from joulefleet_collector.answer.totals import ALWAYS_BY, SPLIT_TAGS, Rules, usage_totals, whole_hours
from joulefleet_collector.answer.wider import FACILITY, is_wider, stored
from joulefleet_collector.api import BadQuestion, UsageQuestion
from joulefleet_collector.rows import SENSOR_SUMS, SERVER_TAGS, USAGE, Row
from joulefleet_collector.store.overlap import gaps
from joulefleet_collector.store.store import NotKept, Overlap, Question, Step, Store, Total
from joulefleet_collector.usage import Figures, ledger_figures, usage_figures
from joulefleet_collector.warnings import LEDGER_IS_WIDER, SENSOR_FIELDS, SENSOR_TAGS, of_sensors, warnings

ENGINE_TAGS = frozenset((*USAGE.tags, *SPLIT_TAGS)) - {"boundary"}
"""Tags that usage has and the ledger of a server has not."""


def answer_usage(store: Store, asked: UsageQuestion, rules: Rules) -> dict[str, object]:
    """Figures, ledger and warnings as one table for JSON. Raises BadQuestion or StoreUnavailable.

    Where sums of minutes are gone, the time asked about is widened to whole hours, as the answer says.
    """
    _check_tags(store, asked)
    try:
        return _answer(store, asked, rules)
    except NotKept as gone:
        if asked.step == "minute":
            raise BadQuestion(str(gone)) from gone
        return _answer(store, _whole_hours(asked, gone.from_ns), rules)


def _whole_hours(asked: UsageQuestion, before_ns: int) -> UsageQuestion:
    """The question with those of its ends that lie before this instant moved outwards to whole hours."""
    wider = whole_hours(asked)
    return msgspec.structs.replace(
        asked,
        since_ns=wider.since_ns if asked.since_ns < before_ns else asked.since_ns,
        until_ns=wider.until_ns if asked.until_ns < before_ns else asked.until_ns,
    )


def _answer(store: Store, asked: UsageQuestion, rules: Rules) -> dict[str, object]:
    found = usage_totals(store, asked, rules)
    asked, usage = found.asked, found.totals
    of_server = {name: values for name, values in asked.where.items() if name not in ENGINE_TAGS}
    if is_wider(asked):
        of_server["boundary"] = stored(of_server["boundary"])
    ledger_by = tuple(tag for tag in dict.fromkeys((*asked.by, *ALWAYS_BY)) if tag not in ENGINE_TAGS)
    ledger = store.ask(_question("ledger", asked, "none", ledger_by, of_server))
    starts = {start_ns: _start(start_ns) for start_ns in {total.start_ns for total in usage}}
    rows = [starts[total.start_ns] | _figures(total) for total in usage]
    entries = [ledger_figures(total) for total in ledger]
    agents = [row for row in store.latest("agent") if _concerns(row, asked, of_server)]
    live = {(row.tags.get("server"), row.tags.get("timeline")) for row in agents if "rss_bytes" in row.fields}
    overlaps = [one for one in store.timelines(asked.since_ns, asked.until_ns) if _of_server(one, of_server)]
    # Recordings of one server are replayed as they were made: nothing is missing between them.
    courses = [
        one for one in store.courses(asked.since_ns, asked.until_ns) if (one.server, f"{one.timeline:08x}") in live
    ]
    return {
        "since": rfc3339(asked.since_ns),
        "until": rfc3339(asked.until_ns),
        "by": list(asked.by),
        "step": asked.step,
        "rows": rows,
        "ledger": entries,
        "warnings": [
            *warnings(found.undivided, ledger, agents, [*overlaps, *gaps(courses)], rfc3339),
            *of_sensors(_sensors(store, asked, ledger)),
            *notices.without_whole(_boundaries(store, asked, ledger, of_server)),
            *found.warnings,
            *([LEDGER_IS_WIDER] if of_server.keys() != asked.where.keys() else []),
        ],
        **({"fleet": found.about} if found.about else {}),
    }


def _figures(total: Total) -> Figures:
    figures = usage_figures(total)
    return with_cost_figures(figures, total) if total.tags["boundary"] == FACILITY else figures


def _sensors(store: Store, asked: UsageQuestion, ledger: Sequence[Total]) -> list[Total]:
    """The meters' rows, where the ledger tells that something is wrong with one: they are many."""
    if not any(total.fields.get(field) for total in ledger for field in SENSOR_SUMS):
        return []
    where = {name: values for name, values in asked.where.items() if name not in (*USAGE.tags, *SPLIT_TAGS)}
    question = _question("meter", asked, "none", SENSOR_TAGS, where)
    return store.ask(msgspec.structs.replace(question, fields=SENSOR_FIELDS))


def _boundaries(
    store: Store, asked: UsageQuestion, ledger: Sequence[Total], where: dict[str, tuple[str, ...]]
) -> list[Total]:
    """Which boundaries each server tells of, where one may be missing at `server`: that names all of them."""
    named = where.get("boundary")
    seconds = _seconds(ledger)
    if "server" not in named if named else seconds.get("server", 0.0) >= max(seconds.values(), default=0.0):
        return []
    elsewhere = {tag: values for tag, values in where.items() if tag != "boundary"}
    question = _question("ledger", asked, "none", ("server", *ALWAYS_BY), elsewhere)
    return store.ask(msgspec.structs.replace(question, fields=("window_s",)))


def _seconds(ledger: Sequence[Total]) -> dict[str, float]:
    """Of how much time the ledger tells, by boundary."""
    found: dict[str, float] = {}
    for total in ledger:
        boundary = total.tags["boundary"]
        found[boundary] = found.get(boundary, 0.0) + total.fields.get("window_s", 0.0)
    return found


def _question(
    kind: str, asked: UsageQuestion, step: Step, by: tuple[str, ...], where: dict[str, tuple[str, ...]]
) -> Question:
    return Question(kind=kind, since_ns=asked.since_ns, until_ns=asked.until_ns, step=step, by=by, where=where)


def _start(start_ns: int | None) -> dict[str, object]:
    return {} if start_ns is None else {"start": rfc3339(start_ns)}


def _check_tags(store: Store, asked: UsageQuestion) -> None:
    known = {*USAGE.tags, *SPLIT_TAGS, *SERVER_TAGS} | store.tags("usage") | store.tags("ledger")
    for tag in (*asked.by, *asked.where):
        if tag not in known:
            raise BadQuestion(f"'{tag}' is no tag; there are {', '.join(sorted(known))}")


def _concerns(row: Row, asked: UsageQuestion, where: Mapping[str, tuple[str, ...]]) -> bool:
    in_time = asked.since_ns <= row.start_ns < asked.until_ns
    return in_time and all(row.tags.get(tag, "") in values for tag, values in where.items() if tag != "boundary")


def _of_server(overlap: Overlap, where: Mapping[str, tuple[str, ...]]) -> bool:
    return overlap.server in where.get("server", (overlap.server,))
