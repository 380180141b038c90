"""Which windows were counted and are no longer kept, as runs of starts, so that none is ever counted twice.

A timeline is mostly without a gap, so that a year of it is a few runs.
"""

import sqlite3
from collections.abc import Iterable
from itertools import takewhile

from joulefleet_collector.store.store import DAY_NS, Accounted

Key = tuple[str, int, int, int]
"""(server, timeline, step_ns, start_ns), as `Window.key`."""
Run = tuple[int, int]
"""All starts of a step in [first_ns, end_ns)."""

_REACH_NS = "counted_reach_ns"
"""Entry of `meta`: no start in `counted` is at or after it, so that new windows need no look into the table."""


def runs(starts_ns: Iterable[int], step_ns: int) -> list[Run]:
    """These starts as the fewest runs, in order."""
    found: list[Run] = []
    for start in sorted(starts_ns):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], start + step_ns)
        else:
            found.append((start, start + step_ns))
    return found


def add(db: sqlite3.Connection, keys: Iterable[Key]) -> None:
    """Remember these windows for ever. Call it in the transaction that lets go of their bodies."""
    starts: dict[tuple[str, int, int], list[int]] = {}
    for server, timeline, step_ns, start_ns in keys:
        starts.setdefault((server, timeline, step_ns), []).append(start_ns)
    for group, several in starts.items():
        for run in runs(several, group[2]):
            _join(db, group, run)
    _raise_reach(db, 1 + max((start for several in starts.values() for start in several), default=-1))


def _join(db: sqlite3.Connection, group: tuple[str, int, int], run: Run) -> None:
    """Put a run down, as one with those that it touches."""
    before = db.execute(
        "SELECT first_ns, end_ns FROM counted WHERE server = ? AND timeline = ? AND step_ns = ? AND first_ns <= ?"
        " ORDER BY first_ns DESC",
        (*group, run[1]),
    )
    touched = list(takewhile(lambda one: one[1] >= run[0], before))
    first, end = min([run[0], *(one[0] for one in touched)]), max([run[1], *(one[1] for one in touched)])
    for one, _ in touched:
        if one != first:
            db.execute(
                "DELETE FROM counted WHERE server = ? AND timeline = ? AND step_ns = ? AND first_ns = ?",
                (*group, one),
            )
    db.execute("INSERT OR REPLACE INTO counted VALUES (?, ?, ?, ?, ?)", (*group, first, end))


def unknown(db: sqlite3.Connection, accounted: Iterable[Accounted]) -> list[Accounted]:
    """Those that were not counted before, as far as their bodies are no longer kept."""
    reach_ns = reach(db)
    return [one for one in accounted if one.window.start_ns >= reach_ns or not _holds(db, one.window.key)]


def _holds(db: sqlite3.Connection, key: Key) -> bool:
    found = db.execute(
        "SELECT end_ns FROM counted WHERE server = ? AND timeline = ? AND step_ns = ? AND first_ns <= ?"
        " ORDER BY first_ns DESC LIMIT 1",
        key,
    ).fetchone()
    return found is not None and found[0] > key[3]


def reach(db: sqlite3.Connection) -> int:
    """An instant at or after which every counted window is still kept."""
    found = db.execute("SELECT value FROM meta WHERE name = ?", (_REACH_NS,)).fetchone()
    return int(found[0]) if found else 0


def _raise_reach(db: sqlite3.Connection, reach_ns: int) -> None:
    if reach_ns > reach(db):
        db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_REACH_NS, str(reach_ns)))


def number(db: sqlite3.Connection) -> int:
    """How many windows are remembered."""
    return int(db.execute("SELECT coalesce(sum((end_ns - first_ns) / step_ns), 0) FROM counted").fetchone()[0])


def days(db: sqlite3.Connection) -> list[int]:
    """Starts of the UTC days in which a window began that is no longer kept: their sums cannot be made anew."""
    edges = db.execute(
        "SELECT DISTINCT first_ns - first_ns % :day, end_ns - step_ns - (end_ns - step_ns) % :day FROM counted",
        {"day": DAY_NS},
    )
    return sorted({day for first, last in edges for day in range(first, last + DAY_NS, DAY_NS)})
