"""What is asked about a figure, and the one row of a report that the question means."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from joulefleet_collector.answer.hours import JOINT
from joulefleet_collector.answer.wider import FACILITY
from joulefleet_collector.api import BadQuestion, UsageQuestion, parse_usage
from joulefleet_collector.explain.figure import DEFAULT, Figure, figure_named
from joulefleet_collector.rows import BOUNDARIES

DEFAULT_WINDOWS = 3
MOST_WINDOWS = 100
NAMED_ROWS = 5
"""So many of the rows that match are named."""

Row = Mapping[str, Any]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A figure, the question about usage that it answers, and how many windows of each sort are to be listed."""

    figure: Figure
    usage: UsageQuestion
    windows: int
    exact: dict[str, tuple[str, ...]]
    """The filters as they were said: `usage` also asks for each of several names in one."""


def parse_explain(query: Sequence[tuple[str, str]], now_ns: int) -> Asked:
    """The question of an address: that of `/v1/usage` with `figure` and `windows`. Raises BadQuestion."""
    own: dict[str, str] = {}
    rest = []
    for name, value in query:
        if name not in ("figure", "windows"):
            rest.append((name, value))
        elif name in own:
            raise BadQuestion(f"'{name}' is said twice")
        else:
            own[name] = value
    figure = figure_named(own.get("figure", DEFAULT))
    usage = parse_usage(_at_facility(rest) if figure.rated else rest, now_ns)
    return Asked(
        figure=figure,
        usage=msgspec.structs.replace(usage, where={tag: _each(values) for tag, values in usage.where.items()}),
        windows=_windows(own.get("windows", str(DEFAULT_WINDOWS))),
        exact=usage.where,
    )


def _each(values: tuple[str, ...]) -> tuple[str, ...]:
    """Names, and those of which they are made."""
    return tuple(dict.fromkeys(name for value in values for name in (value, *value.split(JOINT))))


def _at_facility(query: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The question at the one boundary that has cost and CO2. Raises BadQuestion where it names another."""
    named = [value for name, value in query if name == "boundary"]
    if set(named) - {FACILITY}:
        raise BadQuestion(f"cost and CO2 are figures of the boundary {FACILITY}, and not of {', '.join(named)}")
    return query if named else [*query, ("boundary", FACILITY)]


def _windows(text: str) -> int:
    if not text.isdecimal() or int(text) > MOST_WINDOWS:
        raise BadQuestion(f"windows '{text}' is no whole number from 0 to {MOST_WINDOWS}")
    return int(text)


def one_row(rows: Sequence[Row], question: Asked) -> Row:
    """The row that is meant: of the widest boundary where none is named. Raises BadQuestion where several remain."""
    asked = question.usage
    named = {tag: values for tag, values in question.exact.items() if tag in asked.by}
    # A filter finds what is joined by each of its names: what bears the very name goes before it.
    rows = [row for row in rows if all(row.get(tag) in values for tag, values in named.items())] or rows
    if "boundary" not in asked.where:
        widest = max((BOUNDARIES.index(row["boundary"]) for row in rows), default=0)
        rows = [row for row in rows if row["boundary"] == BOUNDARIES[widest]]
    if not rows:
        raise BadQuestion("no engine of this question reported in this time; 'joulefleet report' shows what there is")
    if len(rows) > 1:
        raise BadQuestion(_several(rows, _apart(rows, asked)))
    return rows[0]


def _apart(rows: Sequence[Row], asked: UsageQuestion) -> list[str]:
    """The names by which these rows differ."""
    names = ("start", *asked.by, "boundary", "simulated")
    return [name for name in dict.fromkeys(names) if len({str(row.get(name)) for row in rows}) > 1]


def _several(rows: Sequence[Row], names: Sequence[str]) -> str:
    told = ["&".join(f"{name}={said(row.get(name))}" for name in names) for row in rows[:NAMED_ROWS]]
    more = f" and {len(rows) - NAMED_ROWS} more" if len(rows) > NAMED_ROWS else ""
    mend = "ask for one of them by its tags"
    if "start" in names:
        mend += ", and for one step by since and until"
    return f"{len(rows)} rows match, and one is explained at a time: {', '.join(told)}{more}; {mend}"


def said(value: object) -> str:
    """A value of a row as its tag has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def tags_of(row: Row, asked: UsageQuestion) -> dict[str, tuple[str, ...]]:
    """The filters that leave nothing but this row."""
    own = {name: (said(row.get(name, "")),) for name in (*asked.by, "boundary", "simulated")}
    return asked.where | own
