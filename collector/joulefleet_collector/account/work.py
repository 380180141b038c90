"""What an engine did for each of its models, and the weights by which energy is split among engines and models."""

from collections.abc import Iterable, Sequence
from operator import attrgetter

import msgspec

from joulefleet.reading import COUNT_FIELDS, Counts
from joulefleet.window import EngineWindow, Work
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.rows import COUNT_FIELDS as ROW_FIELDS

_row_counts, _counts = attrgetter(*ROW_FIELDS), attrgetter(*COUNT_FIELDS)


Ways = dict[str, list[int]]
"""Weights by each method that is known, the best first."""

_PROMPTS = ("prompt_tokens", "cached_tokens")
OF_OTHERS = {"prefill": tuple(name for name in ROW_FIELDS if name not in _PROMPTS), "decode": _PROMPTS}
"""Counts that the engines of another phase tell of the same requests."""


class ModelWork(msgspec.Struct, frozen=True, kw_only=True):
    """Work for one model, tenants summed."""

    model: str = ""
    revision: str = ""
    counts: Counts = Counts()
    """None where a tenant's count is not known: a sum without it would be too small."""
    late: Counts = Counts()
    """What is known of it; None where nothing came late."""


def by_model(engine: EngineWindow) -> list[ModelWork]:
    """An engine's work by model and revision, in their order; one without a name where it was never read."""
    by_key: dict[tuple[str, str], list[Work]] = {}
    for work in engine.work:
        by_key.setdefault((work.key.model, work.key.revision), []).append(work)
    return [_together(*key, by_key[key]) for key in sorted(by_key)] or [ModelWork()]


def own_work(read: EngineWindow) -> EngineWindow:
    """An engine with the counts of its phase: where prefill and decode are apart both count the same requests, so that
    prompts are told by the one and all else by the other. What the other one tells is 0: the joules of both pay for it.
    """
    others = OF_OTHERS.get(read.engine.phase)
    if others is None:
        return read
    work = [
        msgspec.structs.replace(each, counts=_zeroed(each.counts, others), late=_zeroed(each.late, others))
        for each in read.work
    ]
    return msgspec.structs.replace(read, work=tuple(work))


def _zeroed(counts: Counts, names: Iterable[str]) -> Counts:
    return msgspec.structs.replace(counts, **{name: 0 for name in names if getattr(counts, name) is not None})


def known_sum(counts: Iterable[int | None]) -> int | None:
    """The sum of those that are known; None where none is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def full_sum(counts: Iterable[int | None]) -> int | None:
    """The sum, if all are known."""
    counts = list(counts)
    return known_sum(counts) if None not in counts else None


def counted(counts: Counts, prefix: str = "") -> dict[str, float]:
    """Those counts that are known, as fields of a row; what is not known has no field."""
    names = ROW_FIELDS if not prefix else [prefix + field for field in ROW_FIELDS]
    known = zip(names, _row_counts(counts), strict=True)
    return {name: float(count) for name, count in known if count is not None}


def computed(work: ModelWork) -> int:
    """Prompt tokens that were computed: cached ones are no work (ACCOUNTING I10). Two counters that are read at one
    instant need not agree: never less than none."""
    return max((work.counts.prompt_tokens or 0) - (work.counts.cached_tokens or 0), 0)


def output(work: ModelWork) -> int:
    """Output tokens; 0 where they are not counted."""
    return work.counts.output_tokens or 0


def work_units(works: Sequence[ModelWork], policy: Policy) -> list[int] | None:
    """Weight of each by its tokens; None where not all count them.

    A sort of token that one of them does not count is left out for all, since they could not be compared by it.
    """
    prompts = all(work.counts.prompt_tokens is not None for work in works)
    outputs = all(work.counts.output_tokens is not None for work in works)
    if not prompts and not outputs:
        return None
    sizes = _sizes(works, policy)
    return [
        size * (prompts * policy.prefill_weight * computed(work) + outputs * policy.decode_weight * output(work))
        for size, work in zip(sizes, works, strict=True)
    ]


def model_ways(works: Sequence[ModelWork], policy: Policy) -> Ways:
    """How the models of one engine may share what is the engine's: busy time, tokens, else requests, else equally."""
    requests = _all_known([full_sum((w.counts.requests_ok, w.counts.requests_failed or 0)) for w in works])
    ways = {"busy": _all_known([work.counts.busy_ns for work in works]), "work": work_units(works, policy)}
    return _telling(ways) or _telling({"requests": requests}) or {"equal": [1] * len(works)}


def engine_ways(engines: Sequence[EngineWindow], policy: Policy) -> Ways:
    """How engines on one device may share its dynamic energy (ACCOUNTING section 4); `equal` only where no other is
    known. None where nothing tells that any of them did something."""
    running = {"running": _all_known([engine.running_ns for engine in engines])}
    tokens = {"work": _token_weights(engines, policy)}
    # Tokens that are counted when a request ends say little about a window that is shorter than the request.
    at_finish = any(engine.engine.counts_at_finish for engine in engines)
    busy = {"busy": _all_known([known_sum(work.counts.busy_ns for work in engine.work) for engine in engines])}
    ways = busy | (running | tokens if at_finish else tokens | running)
    return _telling(ways) or _telling({"equal": [int(_was_active(engine)) for engine in engines]})


def _telling(ways: dict[str, list[int] | None]) -> Ways:
    return {method: weights for method, weights in ways.items() if weights is not None and any(weights)}


def _token_weights(engines: Sequence[EngineWindow], policy: Policy) -> list[int] | None:
    works = [by_model(engine) for engine in engines]
    units = work_units([work for each in works for work in each], policy)
    if units is None:
        return None
    one_by_one = iter(units)
    return [sum(next(one_by_one) for _ in each) for each in works]


def _was_active(engine: EngineWindow) -> bool:
    done = [
        getattr(work.counts, field)
        for work in engine.work
        for field in COUNT_FIELDS
        if field not in ("prompt_tokens", "cached_tokens")
    ]
    prompts = [computed(work) for work in by_model(engine)]
    return any((*done, *prompts, engine.running_start, engine.running_end, engine.running_ns))


def _all_known(weights: list[int | None]) -> list[int] | None:
    known = [weight for weight in weights if weight is not None]
    return known if len(known) == len(weights) else None


def _sizes(works: Sequence[ModelWork], policy: Policy) -> list[int]:
    if all(work.model in policy.model_weights for work in works):
        return [policy.model_weights[work.model] for work in works]
    return [1] * len(works)


def _together(model: str, revision: str, tenants: Sequence[Work]) -> ModelWork:
    if len(tenants) == 1:
        return ModelWork(model=model, revision=revision, counts=tenants[0].counts, late=tenants[0].late)
    counts = zip(*[_counts(work.counts) for work in tenants], strict=True)
    late = zip(*[_counts(work.late) for work in tenants], strict=True)
    return ModelWork(
        model=model,
        revision=revision,
        counts=Counts(**dict(zip(COUNT_FIELDS, map(full_sum, counts), strict=True))),
        late=Counts(**dict(zip(COUNT_FIELDS, map(known_sum, late), strict=True))),
    )
