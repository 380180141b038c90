"""One window at one boundary as it was accounted, and what of it belongs to the figure that is explained."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from joulefleet.window import Window
from joulefleet_collector.account.books import Books, keep
from joulefleet_collector.account.charge import Charges, charges
from joulefleet_collector.account.identity import Tags, window_tags
from joulefleet_collector.account.layout import Declared, Layout
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.scene import Scene, scene_of
from joulefleet_collector.account.uncertainty import independent_j2, origins_of
from joulefleet_collector.account.usage import usage
from joulefleet_collector.explain.scope import Wanted, add, answers

Fields = dict[str, float]
LayoutOf = Callable[[Declared], Layout]


class Part(NamedTuple):
    """One model of one engine that belongs to the figure: the engine's number, the model's place."""

    engine: int
    model: int


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A window of which something belongs to the figure."""

    window: Window
    scene: Scene
    layout: Layout
    shared: Tags
    """Those of all rows of the window."""
    parts: tuple[Part, ...]


class Spread(NamedTuple):
    """The independent terms of uncertainty, in J^2 (ACCOUNTING section 9)."""

    edges_j2: float
    idle_j2: float
    missing_j2: float


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The same at the boundary that is explained."""

    stage: Stage
    books: Books
    charged: Charges
    fields: Fields
    """Those of the usage rows that belong to the figure, added up."""

    @property
    def energy_uj(self) -> int:
        """What this window adds to the figure's joules."""
        return sum(sum(self.charged[part]) for part in self.stage.parts)

    def charged_by_meter_uj(self) -> dict[str, int]:
        """The same by id of the meter that measured it."""
        found: dict[str, int] = {}
        for part in self.stage.parts:
            for term, part_uj in zip(self.books.of_engine(part.engine), self.charged[part], strict=True):
                found[term.source.meter.id] = found.get(term.source.meter.id, 0) + part_uj
        return found

    def spread(self) -> Spread:
        """What the edges, idle power and missing time leave open of what belongs to the figure."""
        each = [self._spread(part) for part in self.stage.parts]
        return Spread(*map(sum, zip(*each, strict=True)))

    def _spread(self, part: Part) -> Spread:
        scene, parts_uj = self.stage.scene, self.charged[part]
        origins = origins_of(self.books.of_engine(part.engine), scene.policy)
        whole_ns = scene.step_ns
        edges_j2 = independent_j2([each._replace(idle=[]) for each in origins], parts_uj, whole_ns, whole_ns)
        both_j2 = independent_j2(origins, parts_uj, whole_ns, whole_ns)
        missing_j2 = independent_j2((), parts_uj, self.books.paired_ns.get(part.engine, 0), whole_ns)
        return Spread(edges_j2, max(both_j2 - edges_j2, 0.0), missing_j2)


def stage_of(window: Window, wanted: Wanted, policy: Policy, layout: LayoutOf) -> Stage | None:
    """The window, if something in it belongs to the figure."""
    shared = window_tags(window)
    if not answers(shared, wanted.of_windows):
        return None
    scene = scene_of(window, policy)
    laid_out = layout(Declared(scene.declared, scene.served, window.step_ns, window.hardware))
    parts = tuple(
        Part(number, place)
        for number, tags in enumerate(laid_out.tags)
        for place, work in enumerate(scene.works[number])
        if wanted.takes(shared | tags | _model_tags(wanted, work.model, work.revision))
    )
    return Stage(window=window, scene=scene, layout=laid_out, shared=shared, parts=parts) if parts else None


def _model_tags(wanted: Wanted, model: str, revision: str) -> Tags:
    return {"boundary": wanted.boundary, "model": model, "revision": revision}


def seen_at(stage: Stage, wanted: Wanted) -> Seen | None:
    """The window at the boundary that is explained; None where its meters do not tell that boundary."""
    layout, scene = stage.layout, stage.scene
    place = next((n for n, cover in enumerate(layout.covers) if cover.boundary == wanted.boundary), None)
    if place is None:
        return None
    books = keep(layout.covers[place].of(scene.meters), layout.residences[place], scene)
    fields: Fields = {}
    for entry in usage(books, scene, layout.tags):
        if wanted.takes(stage.shared | entry.tags):
            add(fields, entry.fields)
    return Seen(stage=stage, books=books, charged=charges(books, scene), fields=fields)
