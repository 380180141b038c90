"""One window told in full: raw counters, what each engine did, who was charged what, and why it pairs or not."""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from joulefleet.grid import rfc3339
from joulefleet.topology import LeftOut, topology
from joulefleet.units import mw_to_w, ns_to_s
from joulefleet.window import EngineWindow, MeterWindow
from joulefleet_collector.account.identity import Tags
from joulefleet_collector.account.obstacles import Obstacle, obstacles
from joulefleet_collector.account.split import Bucket, Term
from joulefleet_collector.explain.seen import Seen

Role = Literal["sum", "split_by"]


class MeterStory(msgspec.Struct, frozen=True, kw_only=True):
    """A meter of the boundary: `sum` where the boundary's energy is its, `split_by` where it only tells who used it."""

    meter: str
    role: Role
    kind: str
    grade: str
    sensor_class: str
    hw_model: str
    first_uj: str
    """Raw counters at both edges, as strings since they may be too large for a number of JSON."""
    last_uj: str
    energy_uj: int
    charged_uj: int
    """What of it is in the figure."""
    late_uj: int
    rejected_uj: int
    covered_s: float
    gaps_s: dict[str, float]
    states: tuple[str, ...]
    idle_w: float | None
    idle_learnt: bool
    gain_ppm: int
    calibration: str
    basis: str
    driver: str


class EngineStory(msgspec.Struct, frozen=True, kw_only=True):
    """An engine of the figure: what it runs on, what it did, and whether it pairs."""

    engine: str
    tags: Tags
    devices: dict[str, float]
    """Reserved part of each device that it names; none where it runs on the whole server."""
    covered_s: float
    gaps_s: dict[str, float]
    running_start: int | None
    running_end: int | None
    running_mean: float | None
    restarts: int
    models: list[dict[str, object]]
    """Those of the figure: model, revision, counts that are known, and microjoules charged."""
    paired_s: float | None
    """Least coverage of it and its meters; None where it does not pair."""
    obstacles: list[Obstacle]


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the boundary's energy, of the figure's engines or of their neighbours."""

    meter: str
    engine: str
    """Empty where it is nobody's."""
    bucket: Bucket
    method: str
    energy_uj: int
    charged_uj: int
    """What of it is in the figure: an engine's other models bear the rest."""
    idle_learnt: bool


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """One window at the boundary of the figure."""

    server: str
    timeline: str
    start: str
    step_s: float
    schema: int
    listed_as: tuple[str, ...]
    """Why it is listed: `first`, `largest`, or what is odd about it."""
    energy_uj: int
    """Of the figure."""
    meters: list[MeterStory]
    left_out: list[LeftOut]
    engines: list[EngineStory]
    charges: list[Charge]
    facts: dict[str, str]


def story(seen: Seen, listed_as: Sequence[str]) -> Story:
    """The window in full."""
    window = seen.stage.window
    boundary = seen.books.cover.boundary
    every = topology(seen.stage.scene.declared, window.step_ns).left_out
    return Story(
        server=window.server,
        timeline=f"{window.timeline:08x}",
        start=rfc3339(window.start_ns),
        step_s=ns_to_s(window.step_ns),
        schema=window.schema,
        listed_as=tuple(listed_as),
        energy_uj=seen.energy_uj,
        meters=list(_meters(seen)),
        left_out=[one for one in every if one.boundary in (boundary, "")],
        engines=list(_engines(seen)),
        charges=[_charge(term, seen) for term in seen.books.terms],
        facts=window.facts,
    )


def roles(seen: Seen) -> list[tuple[MeterWindow, Role]]:
    """The meters of the boundary."""
    cover = seen.books.cover
    summed: list[tuple[MeterWindow, Role]] = [(one, "sum") for one in cover.meters]
    return summed + ([(one, "split_by") for one in cover.devices] if cover.whole is not None else [])


def _meters(seen: Seen) -> Iterator[MeterStory]:
    charged = seen.charged_by_meter_uj()
    for one, role in roles(seen):
        declared = one.meter
        yield MeterStory(
            meter=declared.id,
            role=role,
            kind=declared.kind,
            grade=declared.grade,
            sensor_class=declared.sensor_class,
            hw_model=declared.hw_model,
            first_uj=str(one.first_uj),
            last_uj=str(one.last_uj),
            energy_uj=one.energy_uj,
            charged_uj=charged.get(declared.id, 0) if role == "sum" else 0,
            late_uj=one.late_uj,
            rejected_uj=one.rejected_uj,
            covered_s=ns_to_s(one.covered_ns),
            gaps_s=_seconds(one.gaps_ns),
            states=one.states,
            idle_w=None if one.idle_mw is None else mw_to_w(one.idle_mw),
            idle_learnt=one.idle_learnt,
            gain_ppm=declared.gain_ppm,
            calibration=declared.calibration,
            basis=declared.basis,
            driver=declared.driver,
        )


def _engines(seen: Seen) -> Iterator[EngineStory]:
    stage = seen.stage
    for number in dict.fromkeys(part.engine for part in stage.parts):
        one, paired_ns = stage.scene.engines[number], seen.books.paired_ns.get(number)
        yield EngineStory(
            engine=one.engine.id,
            tags=stage.layout.tags[number],
            devices={each.meter: each.share_ppm / 1_000_000 for each in one.engine.devices},
            covered_s=ns_to_s(one.covered_ns),
            gaps_s=_seconds(one.gaps_ns),
            running_start=one.running_start,
            running_end=one.running_end,
            running_mean=_mean(one, stage.scene.step_ns),
            restarts=one.restarts,
            models=[_model(seen, number, part.model) for part in stage.parts if part.engine == number],
            paired_s=None if paired_ns is None else ns_to_s(paired_ns),
            obstacles=obstacles(number, seen.books, stage.scene),
        )


def _mean(one: EngineWindow, step_ns: int) -> float | None:
    return None if one.running_ns is None else one.running_ns / step_ns


def _model(seen: Seen, engine: int, place: int) -> dict[str, object]:
    work = seen.stage.scene.works[engine][place]
    return {
        "model": work.model,
        "revision": work.revision,
        "counts": {name: count for name, count in msgspec.structs.asdict(work.counts).items() if count is not None},
        "charged_uj": sum(seen.charged[engine, place]),
    }


def _charge(term: Term, seen: Seen) -> Charge:
    engines = seen.stage.scene.engines
    return Charge(
        meter=term.source.meter.id,
        engine="" if term.engine is None else engines[term.engine].engine.id,
        bucket=term.bucket,
        method=term.method,
        energy_uj=term.energy_uj,
        charged_uj=_charged_uj(term, seen),
        idle_learnt=term.learnt,
    )


def _charged_uj(term: Term, seen: Seen) -> int:
    if term.engine is None:
        return 0
    place = next(n for n, each in enumerate(seen.books.of_engine(term.engine)) if each is term)
    return sum(seen.charged[part][place] for part in seen.stage.parts if part.engine == term.engine)


def _seconds(gaps_ns: dict[str, int]) -> dict[str, float]:
    return {code: ns_to_s(gap_ns) for code, gap_ns in gaps_ns.items()}
