"""Accounting: one window in, its rows out."""

from collections.abc import Iterable, Iterator

from joulefleet.window import Window
from joulefleet_collector.account.books import keep
from joulefleet_collector.account.cover import covers
from joulefleet_collector.account.identity import Entry, engine_tags, window_tags
from joulefleet_collector.account.ledger import ledger
from joulefleet_collector.account.measured import agent, facts, meter, work
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.scene import scene_of
from joulefleet_collector.account.usage import usage
from joulefleet_collector.rows import Row


def account(window: Window, policy: Policy) -> list[Row]:
    """All rows of a window, each key once. Which keys there are depends on the window alone, never on the policy.

    Raises ValueError where a window holds negative energy, reservations or work, which ingest refuses.
    """
    return _merged(_entries(window, policy), window)


def _entries(window: Window, policy: Policy) -> Iterator[Entry]:
    scene = scene_of(window, policy)
    found = covers(scene.meters, window.step_ns)
    tags = [engine_tags(engine.engine, window, found) for engine in scene.engines]
    for cover in found:
        books = keep(cover, scene)
        yield from usage(books, scene, tags)
        yield ledger(books, scene)
    for engine, its_tags in zip(scene.engines, tags, strict=True):
        yield from work(engine, its_tags, window.step_ns)
    for reading in scene.meters:
        yield meter(reading, window.step_ns)
    yield agent(window)
    yield from facts(window)


def _merged(entries: Iterable[Entry], window: Window) -> list[Row]:
    """Rows with the window's tags; entries of one key are summed, a field that only one of them knows is kept."""
    shared = window_tags(window)
    rows: dict[tuple[str, frozenset[tuple[str, str]]], Row] = {}
    for entry in entries:
        tags = shared | entry.tags
        fields = rows.setdefault(
            (entry.kind, frozenset(tags.items())), Row(entry.kind, window.start_ns, tags, {})
        ).fields
        for name, value in entry.fields.items():
            fields[name] = fields.get(name, 0.0) + value
    return list(rows.values())
