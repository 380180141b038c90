"""Sums of the store as a table: the start of the step, a column for each tag, a column for each sum."""

import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from math import isnan
from typing import Literal

import msgspec

from joulefleet_collector.rows import KINDS, SERVER_TAGS
from joulefleet_collector.store import retention
from joulefleet_collector.store.rollup import ROLLUPS
from joulefleet_collector.store.store import NotKept
from joulefleet_collector.store.sums import Block
from joulefleet_collector.store.table import Table

Grain = Literal["minute", "hour", "day"]
START = "start"
LINES_AT_ONCE = 20_000
"""Lines that a writer holds in memory."""

Progress = Callable[[int], None]
"""Told how many lines are written."""


class Wanted(msgspec.Struct, frozen=True):
    """Which rows: of one kind, added up to one grain, of steps that start in [since_ns, until_ns)."""

    kind: str
    grain: Grain
    since_ns: int
    until_ns: int


class Line(msgspec.Struct, frozen=True):
    """One row: sums of one combination of tags in one step. Sums stand as in `Listing.sums`; None is unknown."""

    start_ns: int
    tags: dict[str, str]
    sums: tuple[float | None, ...]


class Listing(msgspec.Struct, frozen=True):
    """Rows ordered by start; they are read while `lines` is gone through, once."""

    tags: tuple[str, ...]
    sums: tuple[str, ...]
    lines: Iterator[Line]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns; a label that has the name of another column gets `label_` before it."""
        taken = {START, *self.sums}
        return (START, *(f"label_{name}" if name in taken else name for name in self.tags), *self.sums)

    def pages(self) -> Iterator[list[Line]]:
        """The lines, LINES_AT_ONCE at a time."""
        while page := list(islice(self.lines, LINES_AT_ONCE)):
            yield page


def listing(db: sqlite3.Connection, wanted: Wanted) -> Listing:
    """The rows that are wanted; `db` stays open while they are read. A time from 0 on means all that is kept.

    Raises NotKept where some of the minutes are gone.
    """
    from_ns = retention.minutes_from(db)
    if wanted.grain == "minute" and 0 < wanted.since_ns < from_ns:
        raise NotKept(from_ns)
    shape = KINDS[wanted.kind]
    tags = _series(db, wanted.kind)
    labels = {name for one in tags.values() for name in one} - {*SERVER_TAGS, *shape.tags}
    rollup = next(one for one in ROLLUPS if one.name == wanted.grain)
    blocks = Table(db, wanted.kind, rollup).between(wanted.since_ns, wanted.until_ns)
    lines = (line for block in blocks for line in _lines(block, tags))
    return Listing((*SERVER_TAGS, *shape.tags, *sorted(labels)), shape.sums, lines)


def _lines(block: Block, tags: dict[int, dict[str, str]]) -> Iterator[Line]:
    rows = zip(block.start_ns.tolist(), block.series.tolist(), block.values.tolist(), strict=True)
    for start_ns, series, values in rows:
        yield Line(start_ns, tags[series], tuple(None if isnan(value) else value for value in values))


def _series(db: sqlite3.Connection, kind: str) -> dict[int, dict[str, str]]:
    found = db.execute("SELECT id, tags FROM series WHERE kind = ?", (kind,))
    return {number: msgspec.json.decode(text, type=dict[str, str]) for number, text in found}
