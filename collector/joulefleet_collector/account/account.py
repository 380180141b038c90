"""Accounting: one window in, its rows out."""

from collections.abc import Callable, Iterable, Iterator

from joulefleet.window import Window
from joulefleet_collector.account.books import keep
from joulefleet_collector.account.identity import Entry, front_tags, window_tags
from joulefleet_collector.account.layout import Declared, Layout, layout_of
from joulefleet_collector.account.ledger import ledger
from joulefleet_collector.account.measured import agent, facts, meter, work
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.scene import Scene, scene_of
from joulefleet_collector.account.usage import usage
from joulefleet_collector.rows import Row


def account(window: Window, policy: Policy, layout: Callable[[Declared], Layout] = layout_of) -> list[Row]:
    """All rows of a window, each key once. Which keys there are depends on the window alone, never on the policy.

    `layout` is `layout_of`, or a memory of what it gave.

    Raises ValueError where a window holds negative energy, reservations or work, which ingest refuses.
    """
    scene = scene_of(window, policy)
    laid_out = layout(Declared(scene.declared, scene.served, window.step_ns, window.hardware))
    return _merged(_entries(window, scene, laid_out), window)


def _entries(window: Window, scene: Scene, laid_out: Layout) -> Iterator[Entry]:
    for placed, residence in zip(laid_out.covers, laid_out.residences, strict=True):
        books = keep(placed.of(scene.meters), residence, scene)
        yield from usage(books, scene, laid_out.tags)
        yield ledger(books, scene)
    for engine, its_tags in zip(scene.engines, laid_out.tags, strict=True):
        yield from work(engine, its_tags, window.step_ns)
    for front in scene.fronts:
        yield from work(front, front_tags(front.engine), window.step_ns)
    for reading in scene.meters:
        yield meter(reading, window.step_ns)
    yield agent(window)
    yield from facts(window)


def _merged(entries: Iterable[Entry], window: Window) -> list[Row]:
    """Rows with the window's tags; entries of one key are summed, a field that only one of them knows is kept."""
    shared = window_tags(window)
    rows: dict[tuple[str, ...], Row] = {}
    for entry in entries:
        # Entries of one kind have the same tags in the same order.
        key = (entry.kind, *entry.tags.values())
        if key not in rows:
            rows[key] = Row(entry.kind, window.start_ns, shared | entry.tags, entry.fields)
            continue
        fields = rows[key].fields
        for name, value in entry.fields.items():
            fields[name] = fields.get(name, 0.0) + value
    return list(rows.values())
