"""Which part of an engine's energy went into reading prompts and which into writing output, as far as that is known."""

from joulefleet.describe import Engine
from joulefleet.reading import Counts
from joulefleet.units import uj_to_j
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.work import ModelWork, computed, output

Weights = tuple[int, int]
"""Of prefill and of decode."""


def phase_weights(engine: Engine, work: ModelWork, policy: Policy) -> tuple[Weights, ...]:
    """How one model's energy is split, and how it would be at both ends of `Policy.decode_weight_range`.

    All of it is of the one phase that an engine is declared to do; else it goes by the time that the engine says it
    read prompts, which leaves no range; else by weighted tokens (ACCOUNTING section 4). Empty where none is known.
    """
    if engine.phase:
        return ((1, 0) if engine.phase == "prefill" else (0, 1),)
    return _measured(work.counts) or _by_tokens(work, policy)


def _measured(counts: Counts) -> tuple[Weights, ...]:
    if not counts.busy_ns or counts.prefill_busy_ns is None:
        return ()
    # Two counters read at one instant need not agree.
    prefill_ns = min(counts.prefill_busy_ns, counts.busy_ns)
    return ((prefill_ns, counts.busy_ns - prefill_ns),)


def _by_tokens(work: ModelWork, policy: Policy) -> tuple[Weights, ...]:
    if work.counts.prompt_tokens is None or work.counts.output_tokens is None:
        return ()
    usual = policy.phase_weights.get(work.model, (policy.prefill_weight, policy.decode_weight))
    ends = [(policy.prefill_weight, weight) for weight in policy.decode_weight_range]
    return tuple((prefill * computed(work), decode * output(work)) for prefill, decode in (usual, *ends))


def by_phase(active_uj: int, idle_uj: int, ways: tuple[Weights, ...]) -> dict[str, float]:
    """Fields of a row, in joules. None where `ways` is empty; all 0 where nothing was done, since energy is then of no
    phase. What prefill takes at the ends of the range bounds it, the usual weights included."""
    if not ways:
        return {}
    active, idle = ([_prefill(energy_uj, *weights) for weights in ways] for energy_uj in (active_uj, idle_uj))
    prefill_uj = [one + other for one, other in zip(active, idle, strict=True)]
    done = any(ways[0])
    return {
        "prefill_active_j": uj_to_j(active[0]),
        "prefill_idle_j": uj_to_j(idle[0]),
        "decode_active_j": uj_to_j(active_uj - active[0]) if done else 0.0,
        "decode_idle_j": uj_to_j(idle_uj - idle[0]) if done else 0.0,
        "prefill_low_j": uj_to_j(min(prefill_uj)),
        "prefill_high_j": uj_to_j(max(prefill_uj)),
    }


def _prefill(energy_uj: int, prefill: int, decode: int) -> int:
    """The first of two parts by `share_out`: rounded to the nearest, and up from the middle; 0 where both weigh 0."""
    both = prefill + decode
    return (2 * energy_uj * prefill + both) // (2 * both) if both else 0
