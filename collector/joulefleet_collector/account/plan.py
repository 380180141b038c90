"""What accounting decides from declarations alone, so that it is decided once for all windows that share them."""

from collections.abc import Sequence, Set

import msgspec

from joulefleet.describe import Phase
from joulefleet.window import EngineWindow, Window
from joulefleet_collector.account.identity import Tags, window_tags
from joulefleet_collector.account.layout import Declared, Placed, layout_of
from joulefleet_collector.account.measured import facts, meter_tags, work
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.residence import Residence
from joulefleet_collector.sheet import Sheet

NOBODY = -1


class CoverPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One boundary. Meters are told by their place in the window, engines by number."""

    boundary: str
    devices: tuple[int, ...]
    holders: tuple[int, ...]
    """Of each device the engine that holds all of it, or NOBODY."""
    rest: tuple[int, ...]
    whole: int | None
    parts: tuple[int, ...]

    @property
    def meters(self) -> tuple[int, ...]:
        """Those whose sum is the energy of the boundary."""
        return self.devices + self.rest if self.whole is None else (self.whole,)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What windows have in common whose servers are built and used alike; equal for such servers."""

    step_ns: int
    resolution_uj: tuple[int, ...]
    blur_ns: tuple[int, ...]
    """How often each sensor makes a value, as far as it is known."""
    grades: tuple[str, ...]
    sensor_classes: tuple[str, ...]
    states: tuple[tuple[str, ...], ...]
    engines: tuple[int, ...]
    """Place of each engine in the window, by number."""
    covers: tuple[CoverPlan, ...]
    model_engines: tuple[int, ...]
    """Engine of each model, by number: models are numbered over all engines, each engine's in their order."""
    model_names: tuple[str | None, ...]
    """None where the policy does not name it, so that it decides nothing."""
    phases: tuple[Phase, ...]
    """Of each engine, by number."""
    group_sizes: tuple[int, ...]
    work_models: tuple[int, ...]
    """Model of each work, engine by engine; a model has as many as it has tenants."""
    usage_rows: tuple[int, ...]
    """Row of each model at each cover, cover by cover; models of one key share a row."""
    work_rows: tuple[int, ...]
    """Row of each work."""
    facts: int

    def bearing(self, state: str) -> list[bool]:
        """Of each meter whether its sensor is in this state."""
        return [state in states for states in self.states]

    def models_of(self, engine: int) -> list[int]:
        """An engine's models."""
        return [model for model, its in enumerate(self.model_engines) if its == engine]


def plan_of(window: Window, policy: Policy) -> tuple[Plan, Sheet] | None:
    """The plan of a good window with its rows' tags; None where accounting is more than a plan can say.

    That is so where engines share a device or use one that is not measured, where an engine was never read or is a
    front, where a boundary has no device, and where there is no boundary at all.
    """
    engines = sorted(window.engines, key=lambda e: e.engine.id)
    if not engines or not all(e.work and not e.engine.front for e in engines):
        return None
    places = sorted(range(len(window.meters)), key=lambda place: window.meters[place].meter.id)
    declared = tuple(window.meters[place].meter for place in places)
    layout = layout_of(Declared(declared, tuple(e.engine for e in engines), window.step_ns, window.hardware))
    found, residences, tags = layout.covers, layout.residences, layout.tags
    if not found or not all(map(_is_exclusive, residences)):
        return None
    usage, usage_rows = _distinct(
        [_usage_tags(cover, tags[number], model) for cover in found for number, model in _models(engines)]
    )
    done, work_rows = _distinct([e.tags for each, its in zip(engines, tags, strict=True) for e in work(each, its, 0)])
    own = [
        *(("usage", each) for each in usage),
        *(("work", each) for each in done),
        *(("ledger", {"boundary": cover.boundary}) for cover in found),
        *(("meter", meter_tags(reading.meter)) for reading in window.meters),
        ("agent", {}),
        *(("facts", fact.tags) for fact in facts(window)),
    ]
    planned = [_cover(cover, residence, places) for cover, residence in zip(found, residences, strict=True)]
    names = policy.model_weights.keys() | policy.phase_weights.keys()
    return _plan(window, engines, planned, usage_rows, work_rows, names), Sheet(window_tags(window), own)


def _plan(  # noqa: PLR0913, PLR0917 all that a plan is made of
    window: Window,
    engines: Sequence[EngineWindow],
    planned: Sequence[CoverPlan],
    usage_rows: tuple[int, ...],
    work_rows: tuple[int, ...],
    names: Set[str],
) -> Plan:
    declared = [reading.meter for reading in window.meters]
    models = _models(engines)
    return Plan(
        step_ns=window.step_ns,
        resolution_uj=tuple(each.resolution_uj for each in declared),
        blur_ns=tuple(each.refresh_ns or each.period_ns for each in declared),
        grades=tuple(each.grade for each in declared),
        sensor_classes=tuple(each.sensor_class for each in declared),
        states=tuple(reading.states for reading in window.meters),
        engines=tuple(_place(engine, window.engines) for engine in engines),
        model_engines=tuple(number for number, _ in models),
        model_names=tuple(key[0] if key[0] in names else None for _, key in models),
        phases=tuple(engine.engine.phase for engine in engines),
        group_sizes=tuple(engine.engine.group_size for engine in engines),
        work_models=tuple(
            models.index((number, (work.key.model, work.key.revision)))
            for number, engine in enumerate(engines)
            for work in engine.work
        ),
        covers=tuple(planned),
        usage_rows=usage_rows,
        work_rows=work_rows,
        facts=len(window.facts),
    )


def _cover(cover: Placed, residence: Residence, places: Sequence[int]) -> CoverPlan:
    return CoverPlan(
        boundary=cover.boundary,
        devices=tuple(places[place] for place in cover.devices),
        holders=tuple(next(iter(held), NOBODY) for held in residence.seats),
        rest=tuple(places[place] for place in cover.rest),
        whole=None if cover.whole is None else places[cover.whole],
        parts=tuple(places[place] for place in cover.parts),
    )


def _is_exclusive(residence: Residence) -> bool:
    """Whether each device is known, and free or held by one engine alone."""
    seated = all(not held or list(held.values()) == [1] for held in residence.seats)
    return seated and not residence.elsewhere and not residence.unmetered and not residence.unplaced


def _models(engines: Sequence[EngineWindow]) -> list[tuple[int, tuple[str, str]]]:
    """Every engine's models, in their order: the engine's number, model and revision."""
    return [
        (number, key)
        for number, engine in enumerate(engines)
        for key in sorted({(work.key.model, work.key.revision) for work in engine.work})
    ]


def _usage_tags(cover: Placed, tags: Tags, model: tuple[str, str]) -> Tags:
    return tags | {"boundary": cover.boundary, "model": model[0], "revision": model[1]}


def _distinct(tags: Sequence[Tags]) -> tuple[list[Tags], tuple[int, ...]]:
    """Tags without repetition, and the place of each among them."""
    found: list[Tags] = []
    for each in tags:
        if each not in found:
            found.append(each)
    return found, tuple(found.index(each) for each in tags)


def _place(one: object, several: Sequence[object]) -> int:
    return next(place for place, other in enumerate(several) if other is one)
