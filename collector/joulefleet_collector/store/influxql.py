"""Questions in InfluxQL, the language that all versions of InfluxDB answer, and what their answers mean."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from joulefleet_collector.rows import KINDS, Row
from joulefleet_collector.store.lines import column, kept, measurement, tag_of, unkept
from joulefleet_collector.store.rollup import Piece, Rollup
from joulefleet_collector.store.store import Question, Total

_STEPS = {"none": "", "minute": "time(1m), ", "hour": "time(1h), ", "day": "time(1d), "}
_ROWS = "minute"
"""The grain that stands for the rows themselves."""


class Series(msgspec.Struct, frozen=True):
    """One combination of tags in an answer."""

    columns: tuple[str, ...]
    values: list[list[object]] = []
    name: str = ""
    tags: dict[str, str] = {}
    partial: bool = False


class Result(msgspec.Struct, frozen=True):
    """The answer to one statement."""

    series: list[Series] = []
    error: str = ""
    partial: bool = False


class Answer(msgspec.Struct, frozen=True):
    """The answer to all statements of one request."""

    results: list[Result] = []
    error: str = ""


class BadAnswer(Exception):
    """An answer that is an error, or not whole; the text says which."""


def read(body: bytes) -> list[list[Series]]:
    """Series by statement. Raises BadAnswer: a part of an answer is none."""
    try:
        answer = msgspec.json.decode(body, type=Answer)
    except msgspec.MsgspecError as error:
        raise BadAnswer(f"no answer in InfluxQL's form: {error}") from error
    wrong = answer.error or next((result.error for result in answer.results if result.error), "")
    if wrong:
        raise BadAnswer(wrong)
    if any(result.partial or any(series.partial for series in result.series) for result in answer.results):
        raise BadAnswer("the answer was cut off by a limit of the server (max-row-limit)")
    return [result.series for result in answer.results]


def asked_fields(question: Question) -> tuple[str, ...]:
    """The fields that a question names, or all sums of its kind. Raises ValueError where one is no sum of the kind."""
    unknown = set(question.fields) - set(KINDS[question.kind].sums)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: no sums of '{question.kind}' rows")
    return question.fields or KINDS[question.kind].sums


def select(question: Question, fields: Sequence[str], part: Piece) -> str:
    """The statement that adds up these fields of one piece of what is asked."""
    tests = [f"time >= {part.since_ns}", f"time < {part.until_ns}", *_filters(question.where)]
    groups = _STEPS[question.step] + ", ".join(name(column(tag)) for tag in question.by)
    grouped = f" GROUP BY {groups.removesuffix(', ')}" if groups else ""
    fill = " fill(none)" if question.step != "none" else ""
    source = name(measurement(question.kind, grain_of(part.rollup)))
    return f"SELECT {_sums(fields)} FROM {source} WHERE {' AND '.join(tests)}{grouped}{fill}"  # noqa: S608 every name and value is quoted


def select_rows(kind: str, rollup: Rollup, since_ns: int, until_ns: int) -> str:
    """The statement that adds up all rows of a kind in this time, by all their tags."""
    source = name(measurement(kind, grain_of(rollup)))
    return f"SELECT {_sums(KINDS[kind].sums)} FROM {source} WHERE time >= {since_ns} AND time < {until_ns} GROUP BY *"  # noqa: S608 every name is quoted


def newest(kind: str) -> str:
    """The statement that finds the newest row of every combination of tags."""
    return f"SELECT * FROM {name(measurement(kind))} GROUP BY * ORDER BY time DESC LIMIT 1"  # noqa: S608 the name is quoted


def tag_keys(kind: str) -> str:
    """The statement that names the tags of a kind."""
    return f"SHOW TAG KEYS FROM {name(measurement(kind))}"


def agent_spans(since_ns: int, until_ns: int, by: Sequence[str] = ("server", "timeline")) -> tuple[str, str]:
    """Statements for the first and the last window of each timeline in this time, as the agents' rows tell."""
    within = f"WHERE time >= {since_ns} AND time < {until_ns} GROUP BY {', '.join(map(name, by))}"
    source = name(measurement("agent"))
    return f"SELECT first(windows) FROM {source} {within}", f"SELECT last(windows) FROM {source} {within}"  # noqa: S608 numbers and our own names


def agent_windows(since_ns: int, until_ns: int, server: str) -> str:
    """The statement for each window of one server in this time, by timeline and step."""
    tests = f"time >= {since_ns} AND time < {until_ns} AND {name('server')} = {value(server)}"
    return f"SELECT windows FROM {name(measurement('agent'))} WHERE {tests} GROUP BY timeline, step_s"  # noqa: S608 the value is quoted


def grain_of(rollup: Rollup) -> str:
    """The name behind a kind's where this grain is kept; none for the rows themselves."""
    return "" if rollup.name == _ROWS else rollup.name


def name(text: str) -> str:
    """An identifier, quoted."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def value(text: str) -> str:
    """The value of a tag as it is kept, quoted."""
    return "'" + kept(text).replace("'", "\\'") + "'"


def totals(question: Question, answers: Iterable[Sequence[Series]]) -> list[Total]:
    """Sums of all pieces added up, ordered by step and tags."""
    sums: dict[tuple[int, tuple[str, ...]], dict[str, float]] = {}
    for series in (one for answer in answers for one in answer):
        tags = tuple(unkept(series.tags.get(column(tag), "")) for tag in question.by)
        for start_ns, fields in _known(series):
            total = sums.setdefault((start_ns if question.step != "none" else 0, tags), {})
            for field, number in fields.items():
                total[field] = total.get(field, 0.0) + number
    return [
        Total(start_ns if question.step != "none" else None, dict(zip(question.by, tags, strict=True)), fields)
        for (start_ns, tags), fields in sorted(sums.items(), key=lambda one: one[0])
    ]


def rows(kind: str, answer: Iterable[Series]) -> Iterator[Row]:
    """Rows of an answer that is grouped by all tags."""
    for series in answer:
        tags = {tag_of(tag): unkept(text) for tag, text in series.tags.items() if text}
        for start_ns, fields in _known(series):
            yield Row(kind, start_ns, tags, fields)


def _known(series: Series) -> Iterator[tuple[int, dict[str, float]]]:
    """Instant and known fields of each line; a whole number comes as an integer."""
    for line in series.values:
        start_ns, *numbers = line
        assert isinstance(start_ns, int)
        yield (
            start_ns,
            {
                field: float(number)
                for field, number in zip(series.columns[1:], numbers, strict=True)
                if isinstance(number, int | float)
            },
        )


def _sums(fields: Sequence[str]) -> str:
    return ", ".join(f"sum({name(field)}) AS {name(field)}" for field in fields)


def _filters(where: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for tag, texts in where.items():
        yield "(" + " OR ".join(f"{name(column(tag))} = {value(text)}" for text in texts) + ")"
