"""A question put into SQL for the embedded store."""

from collections.abc import Sequence

from joulefleet_collector.rows import KINDS
from joulefleet_collector.store.rollup import Piece
from joulefleet_collector.store.store import STEP_NS, Question

_TAG = "coalesce(json_extract(series.tags, ?), '')"


def selection(question: Question, parts: Sequence[Piece], fields: Sequence[str]) -> tuple[str, list[str | int]]:
    """The statement and its values; each line is (start, *tags, *sums).

    Sums are made by series first, so that tags are looked at once a series and not once a row.
    Raises ValueError where a field is no sum of this kind.
    """
    _check_fields(question.kind, fields)
    step_ns = STEP_NS[question.step]
    union = " UNION ALL ".join(_part(question.kind, part, fields, step_ns) for part in parts)
    tags = ", ".join(f"{_TAG} AS tag_{number}" for number in range(len(question.by)))
    sums = ", ".join(f"sum({name})" for name in fields)
    keys = ", ".join(str(number + 1) for number in range(1 + len(question.by)))
    columns = ", ".join(filter(None, ("bucket", tags, sums)))
    statement = (
        f"WITH part AS ({union}) SELECT {columns} FROM part JOIN series ON series.id = part.series"  # noqa: S608 names are checked, values are bound
        f"{_where(question)} GROUP BY {keys} ORDER BY {keys}"
    )
    return statement, [*_times(parts), *map(_path, question.by), *_filter_values(question)]


def _check_fields(kind: str, fields: Sequence[str]) -> None:
    unknown = set(fields) - set(KINDS[kind].sums)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: no sums of '{kind}' rows")


def _part(kind: str, part: Piece, fields: Sequence[str], step_ns: int) -> str:
    bucket = f"start_ns - start_ns % {step_ns}" if step_ns else "0"
    sums = ", ".join(f"sum({name}) AS {name}" for name in fields)
    return (
        f"SELECT series, {bucket} AS bucket, {sums} FROM {part.rollup.table(kind)}"  # noqa: S608 names are our own constants
        " WHERE start_ns >= ? AND start_ns < ? GROUP BY 1, 2"
    )


def _times(parts: Sequence[Piece]) -> list[int]:
    return [instant for part in parts for instant in (part.since_ns, part.until_ns)]


def _where(question: Question) -> str:
    tests = [f"{_TAG} IN ({', '.join('?' * len(values))})" for values in question.where.values()]
    return f" WHERE {' AND '.join(tests)}" if tests else ""


def _filter_values(question: Question) -> list[str]:
    return [value for name, values in question.where.items() for value in (_path(name), *values)]


def _path(tag: str) -> str:
    return f'$."{tag}"'
