"""A question answered from the rows of sums of the embedded store.

Few series out of many are looked up one by one, in time that does not grow with the fleet; else all rows of the time
are read in order.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress

import msgspec
import numpy as np

from joulefleet_collector.rows import KINDS
from joulefleet_collector.sheet import known
from joulefleet_collector.store.rollup import Piece
from joulefleet_collector.store.store import STEP_NS, Question, Total
from joulefleet_collector.store.sums import Block, Ints, add_up, joined
from joulefleet_collector.store.table import Table

FEW = 8
"""Series are looked up one by one where there are so many times as many of their kind."""
Tags = tuple[str, ...]


class Chosen(msgspec.Struct, frozen=True):
    """The series that a question is about, and which of its answers each belongs to."""

    series: Ints
    """In order."""
    group: Ints
    groups: list[Tags]
    """Values of the tags by which sums stay apart, in order."""
    few: bool
    """Whether they are few among those of their kind."""

    def numbered_in(self, groups: Sequence[Tags]) -> "Chosen":
        """The same with more answers beside its own."""
        number = {tags: place for place, tags in enumerate(groups)}
        places = np.array([number[tags] for tags in self.groups], np.int64)
        return Chosen(self.series, places[self.group], list(groups), self.few)

    def sums(self, block: Block, columns: Sequence[int], step_ns: int) -> Iterator[Block]:
        """These columns of the rows of these series, added up by answer and step; nothing where there are none."""
        place = np.minimum(np.searchsorted(self.series, block.series), len(self.series) - 1)
        mine = self.series[place] == block.series
        if mine.any():
            start = block.start_ns[mine] if step_ns else np.zeros(mine.sum(), np.int64)
            group = self.group[place[mine]]
            yield add_up(Block(start, group, group, block.values[np.ix_(mine, columns)]), step_ns or 1)


def answer(
    db: sqlite3.Connection, question: Question, parts: Sequence[Piece], fields: Sequence[str]
) -> Iterator[Total]:
    """Sums of these fields, ordered by step and tags. Raises ValueError where a field is no sum of this kind."""
    _check_fields(question.kind, fields)
    columns, step_ns = [KINDS[question.kind].sums.index(field) for field in fields], STEP_NS[question.step]
    chosen = {fleet: choose(db, question, fleet) for fleet in {part.rollup.fleet for part in parts}}
    groups = sorted({tags for one in chosen.values() for tags in one.groups})
    found: list[Block] = []
    for part in parts:
        one = chosen[part.rollup.fleet].numbered_in(groups)
        for block in _read(Table(db, question.kind, part.rollup), part, one):
            found += one.sums(block, columns, step_ns)
    if not found:
        return
    total = found[0] if len(found) == 1 else add_up(joined({"": block} for block in found)[""], step_ns or 1)
    for start_ns, group, sums in zip(
        total.start_ns.tolist(), total.series.tolist(), _known(fields, total), strict=True
    ):
        yield Total(start_ns if step_ns else None, dict(zip(question.by, groups[group], strict=True)), sums)


def _known(fields: Sequence[str], total: Block) -> Iterator[dict[str, float]]:
    """The known sums of each row. Mostly the same fields are unknown in all rows, and are left out of all at once."""
    unknown = np.isnan(total.values)
    told = np.logical_not(unknown.all(axis=0))
    names, values = tuple(compress(fields, told.tolist())), total.values[:, told].tolist()
    if unknown[:, told].any():
        return (known(names, row) for row in values)
    return (dict(zip(names, row, strict=True)) for row in values)


def choose(db: sqlite3.Connection, question: Question, fleet: bool) -> Chosen:
    """The series of a question: those without a server, or those with one."""
    tests, values = _tests(question.where)
    named = _fragment("server", "")
    test = f"instr(tags, ?) {'=' if fleet else '>'} 0"
    found = db.execute(
        f"SELECT id, tags FROM series WHERE {' AND '.join(['kind = ?', test, *tests])} ORDER BY id",  # noqa: S608 values are bound
        (question.kind, named, *values),
    ).fetchall()
    of_all = db.execute("SELECT count(*) FROM series WHERE kind = ?", (question.kind,)).fetchone()[0]
    tags = [_values(text, question.by) for _, text in found]
    groups = sorted(set(tags))
    number = {one: place for place, one in enumerate(groups)}
    series, group = np.array([id_ for id_, _ in found], np.int64), np.array([number[one] for one in tags], np.int64)
    return Chosen(series, group, groups, not fleet and len(found) * FEW <= of_all)


def _read(table: Table, part: Piece, chosen: Chosen) -> Iterator[Block]:
    span = table.span()
    if span is None or not len(chosen.series):
        return iter(())
    since_ns, until_ns = max(part.since_ns, span[0]), min(part.until_ns, span[1] + part.rollup.step_ns)
    if chosen.few:
        return table.of_series(chosen.series.tolist(), since_ns, until_ns)
    return table.between(since_ns, until_ns)


def _check_fields(kind: str, fields: Sequence[str]) -> None:
    unknown = set(fields) - set(KINDS[kind].sums)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: no sums of '{kind}' rows")


def _tests(where: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """Tests of a series' tags, and their values. A tag that is not there counts as empty."""
    tests, values = [], []
    for name, texts in where.items():
        tests.append("(" + " OR ".join(f"instr(tags, ?) {'>' if text else '='} 0" for text in texts) + ")")
        values += [_fragment(name, text) for text in texts]
    return [test if test != "()" else "0" for test in tests], values


def _fragment(name: str, text: str) -> str:
    """The part of a series' tags that says this; only its name where the text is empty.

    It stands nowhere else: a quote inside of a name or a text is written with a backslash before it.
    """
    key = msgspec.json.encode(name).decode() + ":"
    return key + msgspec.json.encode(text).decode() if text else key


def _values(tags: str, by: Sequence[str]) -> Tags:
    told = msgspec.json.decode(tags, type=dict[str, str])
    return tuple(told.get(name, "") for name in by)
