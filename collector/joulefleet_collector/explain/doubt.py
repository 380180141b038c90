"""How far a figure may be off, term by term, as `usage.relative_uncertainty` adds them up."""

import math
from collections.abc import Mapping

import msgspec

from joulefleet_collector.explain.seen import Spread
from joulefleet_collector.usage import GAINS, edge_bound, known_sum, relative_uncertainty

_TINY = 1e-9


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """One term (k = 1)."""

    term: str
    relative: float
    """Of the figure."""
    means: str


def doubts(sums: Mapping[str, float], spread: Spread | None) -> list[Doubt]:
    """The terms above 0, the largest first; their squares add up to that of the whole. None of them without energy.

    `spread` tells the independent terms apart; None where the windows that would tell them are not kept.
    """
    energy_j = known_sum(sums, ("active_j", "idle_j"))
    if not energy_j or energy_j <= 0:
        return []
    found = [
        *(_gain(name, gain, sums.get(f"class_{name}_j", 0.0) / energy_j) for name, gain in GAINS.items()),
        *_independent(sums, spread, energy_j),
        Doubt(
            term="allocation",
            relative=sums.get("allocation_j", 0.0) / energy_j,
            means="splits that are not measured (shared devices, prompts and answers): half of what other methods and"
            " weights would move",
        ),
        Doubt(
            term="edge_bound",
            relative=(edge_bound(sums) or 0.0) / math.sqrt(3),
            means="requests in flight at both ends of the time, in the figures of a request",
        ),
    ]
    return sorted((one for one in found if one.relative > _TINY), key=lambda one: -one.relative)


def _gain(sensor_class: str, gain: float, part: float) -> Doubt:
    return Doubt(
        term=f"gain_{sensor_class}",
        relative=gain * part,
        means=f"gain of {sensor_class} sensors, {gain:.0%}, which told {part:.0%} of the energy;"
        " the same for all windows",
    )


def _independent(sums: Mapping[str, float], spread: Spread | None, energy_j: float) -> list[Doubt]:
    whole_j2 = sums.get("independent_j2", 0.0)
    if spread is None:
        means = "edges of windows, idle power and missing time together"
        return [Doubt(term="independent", relative=math.sqrt(whole_j2) / energy_j, means=means)]
    named = (
        ("edges", spread.edges_j2, "where in time the joules at the windows' edges belong, and steps of counters"),
        ("idle", spread.idle_j2, "idle power, learnt or from a catalogue"),
        ("missing_time", spread.missing_j2, "time of windows that pair in which something was not covered"),
    )
    return [Doubt(term=term, relative=math.sqrt(square_j2) / energy_j, means=means) for term, square_j2, means in named]


def whole(sums: Mapping[str, float]) -> float | None:
    """All terms together; None without energy."""
    return relative_uncertainty(sums)
