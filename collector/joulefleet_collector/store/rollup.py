"""Adding rows up to minutes, hours and days, where unknown plus known is known."""

from collections.abc import Iterable

import msgspec

from joulefleet.grid import HOUR_NS
from joulefleet_collector.rows import AGENT, KINDS, WINDOW_TAGS, Row
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS

FLEET_KINDS = ("usage", "ledger")
"""Kinds that are kept without the server too, so that a question about a fleet reads few rows."""


class Rollup(msgspec.Struct, frozen=True):
    """One grain in which sums are kept."""

    name: str
    step_ns: int
    fleet: bool
    """Whether rows of different servers are added up."""
    kinds: tuple[str, ...]

    def table(self, kind: str) -> str:
        """Name of the table that keeps this kind in this grain."""
        return f"{kind}_{self.name}"

    def key(self, row: Row) -> Row:
        """The row as this grain keeps it: at the start of its step, without the tags that are dropped."""
        dropped = {"server"} if self.fleet else set()
        tags = {name: value for name, value in row.tags.items() if name not in dropped}
        return Row(row.kind, row.start_ns - row.start_ns % self.step_ns, tags, row.fields)


MINUTE = Rollup("minute", MINUTE_NS, False, tuple(KINDS))
ROLLUPS = (
    MINUTE,
    Rollup("hour", HOUR_NS, False, tuple(KINDS)),
    Rollup("day", DAY_NS, False, tuple(KINDS)),
    Rollup("fleet_hour", HOUR_NS, True, FLEET_KINDS),
    Rollup("fleet_day", DAY_NS, True, FLEET_KINDS),
)


def lasting(row: Row) -> Row:
    """The row without the tags that tell windows apart; an agent keeps the timeline of its totals.

    Raises ValueError where the row has a field that its kind does not have: it would vanish in silence.
    """
    shape = KINDS[row.kind]
    unknown = row.fields.keys() - {*shape.sums, *shape.latest}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: no fields of '{row.kind}' rows")
    kept = AGENT.tags if row.kind == "agent" else ()
    tags = {name: value for name, value in row.tags.items() if name not in WINDOW_TAGS or name in kept}
    return Row(row.kind, row.start_ns, tags, row.fields)


def canonical(tags: dict[str, str]) -> str:
    """Tags as JSON text, equal for equal tags. Empty values are left out: an absent tag counts as empty."""
    return msgspec.json.encode({name: tags[name] for name in sorted(tags) if tags[name]}).decode()


def add_up(rows: Iterable[Row], rollup: Rollup) -> list[Row]:
    """Rows of one key in this grain added up; kinds that it does not keep are left out."""
    sums: dict[tuple[str, int, str], Row] = {}
    for row in rows:
        if row.kind not in rollup.kinds:
            continue
        kept = rollup.key(row)
        key = (kept.kind, kept.start_ns, canonical(kept.tags))
        sums[key] = _plus(sums[key], kept) if key in sums else kept
    return list(sums.values())


def _plus(one: Row, other: Row) -> Row:
    fields = dict(one.fields)
    for name, value in other.fields.items():
        fields[name] = fields.get(name, 0) + value
    return Row(one.kind, one.start_ns, one.tags, fields)


class Piece(msgspec.Struct, frozen=True):
    """A part of the time asked about, and the grain from which it is read."""

    rollup: Rollup
    since_ns: int
    until_ns: int


def pieces(since_ns: int, until_ns: int, rollups: tuple[Rollup, ...]) -> list[Piece]:
    """Cover [since, until) without a gap or an overlap, each part from the coarsest of these grains that fits.

    `rollups` go from coarse to fine; the time must be whole steps of the finest. Raises ValueError otherwise.
    """
    if since_ns >= until_ns:
        return []
    if not rollups:
        raise ValueError("a question must begin and end at whole minutes of UTC")
    coarsest, finer = rollups[0], rollups[1:]
    first = -(-since_ns // coarsest.step_ns) * coarsest.step_ns
    last = until_ns - until_ns % coarsest.step_ns
    if first >= last:
        return pieces(since_ns, until_ns, finer)
    inner = Piece(coarsest, first, last)
    return [*pieces(since_ns, first, finer), inner, *pieces(last, until_ns, finer)]


def grains(kind: str, step_ns: int, fleet: bool) -> tuple[Rollup, ...]:
    """Grains that can answer a question of this step, from coarse to fine.

    `fleet` says that the question does not tell servers apart; only then are sums over servers read.
    """
    fit = [
        rollup
        for rollup in ROLLUPS
        if kind in rollup.kinds and (not step_ns or rollup.step_ns <= step_ns) and (fleet or not rollup.fleet)
    ]
    best = {rollup.step_ns: rollup for rollup in sorted(fit, key=lambda rollup: rollup.fleet)}
    return tuple(best[step] for step in sorted(best, reverse=True))
