"""Usage rows: the joules of each boundary, engine and model, beside the work that they paid for."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from joulefleet.describe import Engine, Grade, SensorClass
from joulefleet.reading import Counts
from joulefleet.units import ns_to_s, uj_to_j
from joulefleet.window import EngineWindow
from joulefleet_collector.account.books import Books
from joulefleet_collector.account.charge import charges, half_ranges_j
from joulefleet_collector.account.identity import Entry, Tags
from joulefleet_collector.account.phase import Weights, by_phase, phase_weights
from joulefleet_collector.account.scene import Scene
from joulefleet_collector.account.sensor import by_sensor
from joulefleet_collector.account.share import share_out
from joulefleet_collector.account.split import Bucket, Term
from joulefleet_collector.account.uncertainty import independent_j2, origins_of
from joulefleet_collector.account.work import counted
from joulefleet_collector.rows import METHODS

Fields = dict[str, float]
_BY_METHOD = {method: f"by_{method}_j" for method in METHODS}


class Label(NamedTuple):
    """What decides in which fields of a row a term's energy is."""

    bucket: Bucket
    method: str
    learnt: bool
    grade: Grade
    sensor_class: SensorClass


def usage(books: Books, scene: Scene, tags: Sequence[Tags]) -> Iterator[Entry]:
    """One entry for each engine and model at this boundary; `tags` are the engines', by number.

    An engine that does not pair has one too: without energy, and its work among the unmetered.
    """
    charged = charges(books, scene)
    half_ranges = half_ranges_j(charged, books, scene)
    for number, engine in enumerate(scene.engines):
        works, paired_ns, terms = scene.works[number], books.paired_ns.get(number), books.of_engine(number)
        labels, origins = [_label(term) for term in terms], origins_of(terms, scene.policy)
        loads = _loads(engine, scene.model_weights[number], _held_ns(number, books))
        for place, (work, load) in enumerate(zip(works, loads, strict=True)):
            parts_uj = charged[number, place]
            joules = _by_label(labels, parts_uj)
            fields = {
                "window_s": ns_to_s(scene.step_ns),
                "paired_s": ns_to_s(paired_ns or 0),
                **_group(engine.engine, scene.step_ns),
                **_energy(joules),
                **_phases(joules, phase_weights(engine.engine, work, scene.policy)),
                **_paid_for(joules, work.counts),
                **_work(work.counts, paired_ns is not None),
                **counted(work.late, "late_"),
                **load,
                "independent_j2": independent_j2(origins, parts_uj, paired_ns or 0, scene.step_ns),
                "allocation_j": half_ranges[number, place],
            }
            model = {"boundary": books.cover.boundary, "model": work.model, "revision": work.revision}
            yield Entry("usage", tags[number] | model, fields)


def _label(term: Term) -> Label:
    meter = term.source.meter
    return Label(term.bucket, term.method, term.learnt, meter.grade, meter.sensor_class)


def _by_label(labels: Sequence[Label], parts_uj: Sequence[int]) -> dict[Label, int]:
    sums = dict.fromkeys(labels, 0)
    for label, part_uj in zip(labels, parts_uj, strict=True):
        sums[label] += part_uj
    return sums


def _energy(joules: dict[Label, int]) -> Fields:
    default_uj = sum([each for label, each in joules.items() if label.bucket == "idle" and not label.learnt])
    methods = dict.fromkeys(METHODS, 0)
    for label, each in joules.items():
        methods[label.method] += each
    return {
        "active_j": uj_to_j(_in_bucket(joules, "active")),
        "idle_j": uj_to_j(_in_bucket(joules, "idle")),
        "idle_default_j": uj_to_j(default_uj),
        **by_sensor((label.grade, label.sensor_class, each) for label, each in joules.items()),
        **{_BY_METHOD[method]: uj_to_j(energy_uj) for method, energy_uj in methods.items()},
    }


def _in_bucket(joules: dict[Label, int], bucket: Bucket) -> int:
    return sum([each for label, each in joules.items() if label.bucket == bucket])


def _paid_for(joules: dict[Label, int], counts: Counts) -> Fields:
    """Numerators: the energy of this row once for each count that is known."""
    whole, active = uj_to_j(sum(joules.values())), uj_to_j(_in_bucket(joules, "active"))
    fields: Fields = {}
    if counts.requests_ok is not None:
        fields |= {"requests_j": whole, "requests_active_j": active}
    if counts.output_tokens is not None:
        fields |= {"output_tokens_j": whole, "output_tokens_active_j": active}
    if _total_tokens(counts) is not None:
        fields |= {"total_tokens_j": whole, "total_tokens_active_j": active}
    return fields


def _work(counts: Counts, pairs: bool) -> Fields:
    """The counts where they belong, and 0 where they do not."""
    done, unmetered, total_tokens = counted(counts), counted(counts, "unmetered_"), _total_tokens(counts)
    if total_tokens is not None:
        done["total_tokens"] = float(total_tokens)
    if pairs:
        return done | dict.fromkeys(unmetered, 0.0)
    return dict.fromkeys(done, 0.0) | unmetered


def _total_tokens(counts: Counts) -> int | None:
    prompts, cached, outputs = counts.prompt_tokens, counts.cached_tokens, counts.output_tokens
    if prompts is None or cached is None or outputs is None:
        return None
    # Two counters read at one instant need not agree: what was computed is not less than nothing.
    return max(prompts - cached, 0) + outputs


def _group(engine: Engine, step_ns: int) -> Fields:
    return {"group_s": ns_to_s(step_ns * engine.group_size)} if engine.group_size else {}


def _phases(joules: dict[Label, int], ways: tuple[Weights, ...]) -> Fields:
    return by_phase(_in_bucket(joules, "active"), _in_bucket(joules, "idle"), ways)


def _held_ns(engine: int, books: Books) -> int | None:
    """Device-time that an engine held while it paired, None where it did not: of accelerators without a meter too, and
    where there is none of the server as one device."""
    if engine not in books.paired_ns:
        return None
    return int(books.residence.together.get(engine, 0) * books.paired_ns[engine])


def _loads(engine: EngineWindow, weights: list[int], held_ns: int | None) -> list[Fields]:
    """What is known of an engine as a whole, shared among its models so that it still adds up."""
    pairs, reserved = held_ns is not None, share_out(held_ns or 0, weights)
    loads: list[Fields] = [
        {"restarts": float(part), "reserved_s": ns_to_s(part_ns)}
        for part, part_ns in zip(share_out(engine.restarts, weights), reserved, strict=True)
    ]
    if pairs and engine.running_ns is not None:
        for load, part_ns in zip(loads, share_out(engine.running_ns, weights), strict=True):
            load["running_s"] = ns_to_s(part_ns)
    if pairs and engine.running_start is not None and engine.running_end is not None:
        change = engine.running_end - engine.running_start
        for load, part in zip(loads, share_out(abs(change), weights), strict=True):
            load["running_delta"] = float(part if change > 0 else -part)
    return loads
