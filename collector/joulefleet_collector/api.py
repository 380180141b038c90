"""What may be asked of the collector, in words and as questions."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import get_args

import msgspec

from joulefleet.grid import HOUR_NS, rfc3339
from joulefleet.units import NS_PER_S, s_to_ns, us_to_ns
from joulefleet_collector.answer.phases import TAG as PHASE
from joulefleet_collector.answer.tenants import TAG as TENANT
from joulefleet_collector.rows import WIDER_BOUNDARIES
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS, STEP_NS, Step

DEFAULT_SINCE_NS = DAY_NS
SPLIT_TAGS = (TENANT, PHASE)
"""Tags that no row of usage has: each whole hour is divided by them when that is asked."""
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
    by = tuple(dict.fromkeys(tag for tag in options.get("by", "model,hardware").split(",") if tag))
    where: dict[str, tuple[str, ...]] = {}
    for name, value in query:
        if name not in options:
            where[name] = (*where.get(name, ()), value)
    grain_ns = _grain_ns(step, {*by, *where}, where.get("boundary", ()))
    since_ns, until_ns = times(options, now_ns, grain_ns)
    return UsageQuestion(since_ns=since_ns, until_ns=until_ns, step=step, by=by, where=where)


def _grain_ns(step: Step, tags: set[str], boundaries: Sequence[str]) -> int:
    """Of how long a time the question is a multiple."""
    split = [*(tag for tag in SPLIT_TAGS if tag in tags), *(one for one in boundaries if one in WIDER_BOUNDARIES)]
    if split and step == "minute":
        raise BadQuestion(f"'{split[0]}' is known by whole hours: ask for it by step hour, day or none")
    return max(STEP_NS[step] or MINUTE_NS, HOUR_NS if split else 0)


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
