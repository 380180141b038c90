"""Usage rows: the joules of each boundary, engine and model, beside the work that they paid for."""

from collections.abc import Iterator

from joulefleet.reading import Counts
from joulefleet.units import ns_to_s, uj_to_j
from joulefleet.window import EngineWindow
from joulefleet_collector.account.books import Books
from joulefleet_collector.account.charge import charges, half_ranges_j, total_uj
from joulefleet_collector.account.identity import Entry, Tags
from joulefleet_collector.account.scene import Scene
from joulefleet_collector.account.sensor import by_sensor
from joulefleet_collector.account.share import share_out
from joulefleet_collector.account.split import Term
from joulefleet_collector.account.uncertainty import independent_j2
from joulefleet_collector.account.work import counted, full_sum, model_weights
from joulefleet_collector.rows import METHODS

Fields = dict[str, float]


def usage(books: Books, scene: Scene, tags: list[Tags]) -> Iterator[Entry]:
    """One entry for each engine and model at this boundary; `tags` are the engines', by number.

    An engine that does not pair has one too: without energy, and its work among the unmetered.
    """
    charged = charges(books, scene)
    half_ranges = half_ranges_j(charged, books, scene)
    for number, engine in enumerate(scene.engines):
        works, paired_ns = scene.works[number], books.paired_ns.get(number)
        loads = _loads(engine, model_weights(works, scene.policy), paired_ns is not None)
        for place, (work, load) in enumerate(zip(works, loads, strict=True)):
            terms = charged[number, place]
            fields = {
                "window_s": ns_to_s(scene.step_ns),
                "paired_s": ns_to_s(paired_ns or 0),
                **_energy(terms),
                **_paid_for(terms, work.counts),
                **_work(work.counts, paired_ns is not None),
                **counted(work.late, "late_"),
                **load,
                "independent_j2": independent_j2(terms, paired_ns or 0, scene.step_ns, scene.policy),
                "allocation_j": half_ranges[number, place],
            }
            model = {"boundary": books.cover.boundary, "model": work.model, "revision": work.revision}
            yield Entry("usage", tags[number] | model, fields)


def _energy(terms: list[Term]) -> Fields:
    idle = [term for term in terms if term.bucket == "idle"]
    return {
        "active_j": _j([term for term in terms if term.bucket == "active"]),
        "idle_j": _j(idle),
        "idle_default_j": _j([term for term in idle if not term.learnt]),
        **by_sensor((term.source.meter, term.energy_uj) for term in terms),
        **{f"by_{method}_j": _j([term for term in terms if term.method == method]) for method in METHODS},
    }


def _paid_for(terms: list[Term], counts: Counts) -> Fields:
    """Numerators: the energy of this row once for each count that is known."""
    total_tokens = _total_tokens(counts)
    whole, active = _j(terms), _j([term for term in terms if term.bucket == "active"])
    known = {"requests": counts.requests_ok, "output_tokens": counts.output_tokens, "total_tokens": total_tokens}
    fields: Fields = {}
    for what, count in known.items():
        if count is not None:
            fields |= {f"{what}_j": whole, f"{what}_active_j": active}
    return fields


def _work(counts: Counts, pairs: bool) -> Fields:
    """The counts where they belong, and 0 where they do not."""
    done, total_tokens = counted(counts), _total_tokens(counts)
    if total_tokens is not None:
        done["total_tokens"] = float(total_tokens) if pairs else 0.0
    unmetered = counted(counts, "unmetered_")
    if pairs:
        return done | dict.fromkeys(unmetered, 0.0)
    return dict.fromkeys(done, 0.0) | unmetered


def _total_tokens(counts: Counts) -> int | None:
    computed = full_sum((counts.prompt_tokens, None if counts.cached_tokens is None else -counts.cached_tokens))
    # Two counters read at one instant need not agree: what was computed is not less than nothing.
    return full_sum((None if computed is None else max(computed, 0), counts.output_tokens))


def _loads(engine: EngineWindow, weights: list[int], pairs: bool) -> list[Fields]:
    """What is known of an engine as a whole, shared among its models so that it still adds up."""
    loads: list[Fields] = [{"restarts": float(part)} for part in share_out(engine.restarts, weights)]
    if pairs and engine.running_ns is not None:
        for load, part_ns in zip(loads, share_out(engine.running_ns, weights), strict=True):
            load["running_s"] = ns_to_s(part_ns)
    if pairs and engine.running_start is not None and engine.running_end is not None:
        change = engine.running_end - engine.running_start
        for load, part in zip(loads, share_out(abs(change), weights), strict=True):
            load["running_delta"] = float(part if change > 0 else -part)
    return loads


def _j(terms: list[Term]) -> float:
    return uj_to_j(total_uj(terms))
