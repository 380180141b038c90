"""What may be asked of the collector, and how an answer about usage is put together from the store."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import get_args

import msgspec

from joulefleet.grid import HOUR_NS, floor_to, rfc3339
from joulefleet.units import NS_PER_S, s_to_ns, us_to_ns
from joulefleet_collector.rows import SENSOR_SUMS, SERVER_TAGS, USAGE, Row
from joulefleet_collector.store.overlap import gaps
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS, STEP_NS, NotKept, Overlap, Question, Step, Store, Total
from joulefleet_collector.usage import ledger_figures, usage_figures
from joulefleet_collector.warnings import LEDGER_IS_WIDER, SENSOR_FIELDS, SENSOR_TAGS, of_sensors, warnings

DEFAULT_SINCE_NS = DAY_NS
ENGINE_TAGS = frozenset(USAGE.tags) - {"boundary"}
"""Tags that usage has and the ledger of a server has not."""
ALWAYS_BY = ("boundary", "simulated")
"""Unlike boundaries, and simulated and real joules, are never added up."""
STEPS: tuple[Step, ...] = get_args(Step)
_UNITS_NS = {"s": NS_PER_S, "m": MINUTE_NS, "h": HOUR_NS, "d": DAY_NS}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_NS = 2**63 - 1 - DAY_NS


class BadQuestion(ValueError):
    """A question that cannot be answered as it stands; the text says what to ask instead."""


class UsageQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked about usage: a time in whole steps, tags that stay apart, and filters."""

    since_ns: int
    until_ns: int
    step: Step = "none"
    by: tuple[str, ...] = ()
    where: dict[str, tuple[str, ...]] = {}


class ExportQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Which windows are asked for: of one server or of all."""

    server: str | None
    since_ns: int
    until_ns: int


def instant(text: str, now_ns: int) -> int:
    """Nanoseconds since 1970 of an instant in words. Raises BadQuestion.

    It may be `now`, time before now (`-90s`, `-15m`, `-1h`, `-7d`), seconds since 1970, or RFC 3339 with its offset.
    """
    if text == "now":
        return now_ns
    if ago := re.fullmatch(r"-(\d{1,12})([smhd])", text):
        return _in_range(text, now_ns - int(ago[1]) * _UNITS_NS[ago[2]])
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text):
        return _in_range(text, s_to_ns(float(text)))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise BadQuestion(f"'{text}' is no time: write 2026-01-31T12:00:00Z, seconds since 1970, -1h, or now")
    return _in_range(text, us_to_ns((at - _EPOCH) // timedelta(microseconds=1)))


def _in_range(text: str, at_ns: int) -> int:
    if not 0 <= at_ns <= _LAST_NS:
        raise BadQuestion(f"'{text}' lies before 1970 or too far in the future")
    return at_ns


def parse_usage(query: Sequence[tuple[str, str]], now_ns: int) -> UsageQuestion:
    """A usage question from the parts of an address; a name that is no option is a filter. Raises BadQuestion."""
    options = _single(query, ("since", "until", "by", "step"))
    step = next((step for step in STEPS if step == options.get("step", "none")), None)
    if step is None:
        raise BadQuestion(f"step '{options['step']}' is not one of {', '.join(STEPS)}")
    since_ns, until_ns = times(options, now_ns, STEP_NS[step] or MINUTE_NS)
    by = tuple(dict.fromkeys(tag for tag in options.get("by", "model,hardware").split(",") if tag))
    where: dict[str, tuple[str, ...]] = {}
    for name, value in query:
        if name not in options:
            where[name] = (*where.get(name, ()), value)
    return UsageQuestion(since_ns=since_ns, until_ns=until_ns, step=step, by=by, where=where)


def parse_export(query: Mapping[str, str], now_ns: int) -> ExportQuestion:
    """An export question from the parts of an address. Raises BadQuestion."""
    options = _single(list(query.items()), ("since", "until", "server"))
    unknown = set(query) - set(options)
    if unknown:
        raise BadQuestion(f"'{min(unknown)}' is not one of since, until, server")
    since_ns, until_ns = times(options, now_ns, MINUTE_NS)
    return ExportQuestion(server=options.get("server"), since_ns=since_ns, until_ns=until_ns)


def _single(query: Sequence[tuple[str, str]], names: tuple[str, ...]) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in query:
        if name in options:
            raise BadQuestion(f"'{name}' is said twice")
        if name in names:
            options[name] = value
    return options


def times(options: Mapping[str, str], now_ns: int, step_ns: int) -> tuple[int, int]:
    """The options `since` and `until`: since rounded down and until rounded up to whole steps. Raises BadQuestion."""
    until_ns = instant(options.get("until", "now"), now_ns)
    since_ns = _since(options.get("since", ""), until_ns, now_ns)
    if since_ns > until_ns:
        raise BadQuestion(f"since ({rfc3339(since_ns)}) lies after until ({rfc3339(until_ns)})")
    return since_ns - since_ns % step_ns, -(-until_ns // step_ns) * step_ns


def _since(text: str, until_ns: int, now_ns: int) -> int:
    if text == "all":
        return 0
    return instant(text, now_ns) if text else max(until_ns - DEFAULT_SINCE_NS, 0)


def answer_usage(store: Store, asked: UsageQuestion) -> dict[str, object]:
    """Figures, ledger and warnings as one table for JSON. Raises BadQuestion or StoreUnavailable.

    Where sums of minutes are gone, the time asked about is widened to whole hours, as the answer says.
    """
    _check_tags(store, asked)
    try:
        return _answer(store, asked)
    except NotKept as gone:
        if asked.step == "minute":
            raise BadQuestion(str(gone)) from gone
        return _answer(store, _whole_hours(asked, gone.from_ns))


def _whole_hours(asked: UsageQuestion, before_ns: int) -> UsageQuestion:
    """The question with those of its ends that lie before this instant moved outwards to whole hours."""
    since_ns, until_ns = floor_to(asked.since_ns, HOUR_NS), -floor_to(-asked.until_ns, HOUR_NS)
    return msgspec.structs.replace(
        asked,
        since_ns=since_ns if asked.since_ns < before_ns else asked.since_ns,
        until_ns=until_ns if asked.until_ns < before_ns else asked.until_ns,
    )


def _answer(store: Store, asked: UsageQuestion) -> dict[str, object]:
    by = tuple(dict.fromkeys((*asked.by, *ALWAYS_BY)))
    of_server = {name: values for name, values in asked.where.items() if name not in ENGINE_TAGS}
    usage = store.ask(_question("usage", asked, asked.step, by, asked.where))
    ledger_by = tuple(tag for tag in by if tag not in ENGINE_TAGS)
    ledger = store.ask(_question("ledger", asked, "none", ledger_by, of_server))
    starts = {start_ns: _start(start_ns) for start_ns in {total.start_ns for total in usage}}
    rows = [starts[total.start_ns] | usage_figures(total) for total in usage]
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
            *warnings(usage, ledger, agents, [*overlaps, *gaps(courses)], rfc3339),
            *of_sensors(_sensors(store, asked, ledger)),
            *([LEDGER_IS_WIDER] if of_server != asked.where else []),
        ],
    }


def _sensors(store: Store, asked: UsageQuestion, ledger: Sequence[Total]) -> list[Total]:
    """The meters' rows, where the ledger tells that something is wrong with one: they are many."""
    if not any(total.fields.get(field) for total in ledger for field in SENSOR_SUMS):
        return []
    where = {name: values for name, values in asked.where.items() if name not in USAGE.tags}
    question = _question("meter", asked, "none", SENSOR_TAGS, where)
    return store.ask(msgspec.structs.replace(question, fields=SENSOR_FIELDS))


def _question(
    kind: str, asked: UsageQuestion, step: Step, by: tuple[str, ...], where: dict[str, tuple[str, ...]]
) -> Question:
    return Question(kind=kind, since_ns=asked.since_ns, until_ns=asked.until_ns, step=step, by=by, where=where)


def _start(start_ns: int | None) -> dict[str, object]:
    return {} if start_ns is None else {"start": rfc3339(start_ns)}


def _check_tags(store: Store, asked: UsageQuestion) -> None:
    known = set(USAGE.tags) | set(SERVER_TAGS) | store.tags("usage") | store.tags("ledger")
    for tag in (*asked.by, *asked.where):
        if tag not in known:
            raise BadQuestion(f"'{tag}' is no tag; there are {', '.join(sorted(known))}")


def _concerns(row: Row, asked: UsageQuestion, where: Mapping[str, tuple[str, ...]]) -> bool:
    in_time = asked.since_ns <= row.start_ns < asked.until_ns
    return in_time and all(row.tags.get(tag, "") in values for tag, values in where.items() if tag != "boundary")


def _of_server(overlap: Overlap, where: Mapping[str, tuple[str, ...]]) -> bool:
    return overlap.server in where.get("server", (overlap.server,))
