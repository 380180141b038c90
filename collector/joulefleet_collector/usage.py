"""Figures from sums: joules per request and per token, each with the reason where it cannot be defended.

Ratios are made last, from sums over the whole time asked about, never as means of ratios. Formulas follow the
accounting definition: E/N, E/T_o, E/(T_p - T_c + T_o), with energy only of work whose requests or tokens are counted.
"""

import math
from collections.abc import Iterable, Mapping

import msgspec

from joulefleet.describe import GRADES
from joulefleet.units import kwh_per_million, wh_per_thousand
from joulefleet_collector.answer.phases import COMPUTED, COMPUTED_J
from joulefleet_collector.answer.phases import TAG as PHASE
from joulefleet_collector.rows import COUNT_FIELDS, METHODS, SENSOR_SUMS
from joulefleet_collector.store.store import Total

OK_COVERAGE = 0.95
PARTIAL_COVERAGE = 0.8
"""From here to OK_COVERAGE a figure is given and marked `partial`; below it is refused."""
GAINS: dict[str, float] = {"reference": 0.01, "platform": 0.03, "onboard": 0.05, "modelled": 0.15}
"""Relative standard uncertainty of each sensor class's gain (MLPerf-class meter, BMC or PSU, GPU counter, model)."""
EDGE_NOTED = 0.05
"""Edge bound from which a note advises a longer time."""
_WHOLE = 1 - 1e-9
_BY_GRADE = tuple((name, f"{name}_j") for name in GRADES)
_BY_METHOD = tuple((name, f"by_{name}_j") for name in METHODS)
_CLASS_GAINS = tuple((f"class_{name}_j", gain) for name, gain in GAINS.items())
_UNMETERED = tuple(f"unmetered_{name}" for name in COUNT_FIELDS)
_COUNTS = (*COUNT_FIELDS, *_UNMETERED, *(f"late_{name}" for name in COUNT_FIELDS))

_MADE_FROM = {
    "output_tokens_per_joule": "joules_per_output_token",
    "wh_per_1k_requests": "joules_per_request",
    "kwh_per_million_output_tokens": "joules_per_output_token",
}

Figures = dict[str, object]


class Ratio(msgspec.Struct, frozen=True):
    """One figure in joules per counted thing: which sums make it."""

    name: str
    joules: str
    count: str
    what: str
    phase: str = ""
    """Where phases are told apart, those that its count is of; empty where every phase has it."""


RATIOS = (
    Ratio("joules_per_output_token", "output_tokens_j", "output_tokens", "output tokens", "decode"),
    Ratio("joules_per_request", "requests_j", "requests_ok", "finished requests"),
    Ratio(
        "joules_per_total_token",
        "total_tokens_j",
        "total_tokens",
        "computed prompt tokens and output tokens",
        "prefill and decode",
    ),
    Ratio("joules_per_output_token_active", "output_tokens_active_j", "output_tokens", "output tokens", "decode"),
    Ratio("joules_per_request_active", "requests_active_j", "requests_ok", "finished requests"),
    Ratio(
        "joules_per_total_token_active",
        "total_tokens_active_j",
        "total_tokens",
        "computed prompt tokens and output tokens",
        "prefill and decode",
    ),
    Ratio("joules_per_prompt_token", COMPUTED_J, COMPUTED, "computed prompt tokens", "prefill"),
)
_ONLY_BY_PHASE = "computed prompt tokens and output tokens share their energy: ask by phase"
_RATIO_NAMES = tuple(ratio.name for ratio in RATIOS)


def usage_figures(total: Total) -> Figures:
    """All figures of one sum of usage rows. A figure that is null has its reason in `reasons`."""
    sums = total.fields
    energy_j = known_sum(sums, ("active_j", "idle_j"))
    covered = share(sums.get("paired_s"), sums.get("window_s"))
    edge = edge_bound(sums)
    ratios, reasons = _ratios(sums, covered, total.tags.get(PHASE))
    return {
        **total.tags,
        "simulated": total.tags.get("simulated") == "true",
        "coverage": covered,
        "status": status(covered),
        **_all_figures(ratios, reasons),
        "energy_j": energy_j,
        "active_j": sums.get("active_j"),
        "idle_j": sums.get("idle_j"),
        "joules_by_grade": nonzero(sums, _BY_GRADE),
        "joules_by_method": nonzero(sums, _BY_METHOD),
        **dict(zip(_COUNTS, map(sums.get, _COUNTS), strict=True)),
        "idle_default_share": share(sums.get("idle_default_j"), energy_j),
        "measured_share": measured_share(sums, energy_j),
        "relative_uncertainty": relative_uncertainty(sums),
        "edge_bound": edge,
        "window_s": sums.get("window_s"),
        "paired_s": sums.get("paired_s"),
        "restarts": sums.get("restarts"),
        "reasons": reasons,
        "notes": _notes(sums, energy_j, edge),
    }


def status(covered: float | None) -> str:
    """`ok`, `partial` or `refused`, by the share of the time in which energy and work pair."""
    if covered is None or covered < PARTIAL_COVERAGE:
        return "refused"
    return "ok" if covered >= OK_COVERAGE else "partial"


def _ratios(
    sums: Mapping[str, float], covered: float | None, phase: str | None
) -> tuple[dict[str, float], dict[str, str]]:
    if covered is None or status(covered) == "refused":
        reason = f"coverage too low: {covered or 0:.1%} of the time pairs, {PARTIAL_COVERAGE:.0%} is needed"
        return {}, dict.fromkeys(_RATIO_NAMES, reason)
    ratios: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for ratio in RATIOS:
        if reason := _refused(ratio, sums, phase):
            reasons[ratio.name] = reason
        else:
            ratios[ratio.name] = sums[ratio.joules] / sums[ratio.count]
    return ratios, reasons


def _refused(ratio: Ratio, sums: Mapping[str, float], phase: str | None) -> str:
    """Why this figure cannot be given where coverage is enough; empty where it can. `phase` is None where all are
    together."""
    if ratio.count not in sums:
        return _not_told(ratio, phase)
    if sums[ratio.count] <= 0:
        return f"no {ratio.what} in this time"
    if ratio.joules not in sums:
        return f"no energy is known for counted {ratio.what}"
    return ""


def _not_told(ratio: Ratio, phase: str | None) -> str:
    if phase is None and ratio.count == COMPUTED:
        return _ONLY_BY_PHASE
    if phase is not None and ratio.phase not in ("", phase):
        return f"{ratio.what} are of {ratio.phase}"
    return f"no {ratio.what} counted: the engine does not tell them"


def _all_figures(ratios: Mapping[str, float], reasons: dict[str, str]) -> dict[str, float | None]:
    """The ratios and what follows from them; a figure made from a refused one is refused for the same reason."""
    figures: dict[str, float | None] = {name: ratios.get(name) for name in _RATIO_NAMES}
    per_token, per_request = figures["joules_per_output_token"], figures["joules_per_request"]
    figures["output_tokens_per_joule"] = 1 / per_token if per_token else None
    figures["wh_per_1k_requests"] = None if per_request is None else wh_per_thousand(per_request)
    figures["kwh_per_million_output_tokens"] = None if per_token is None else kwh_per_million(per_token)
    for name, origin in _MADE_FROM.items():
        if figures[name] is None:
            reasons[name] = reasons.get(origin, "no energy was used")
    return figures


def known_sum(sums: Mapping[str, float], names: Iterable[str]) -> float | None:
    """Sum of those that are known; None where none is."""
    known = [sums[name] for name in names if name in sums]
    return math.fsum(known) if known else None


def share(part: float | None, whole: float | None) -> float | None:
    """part / whole; None where either is unknown or the whole is nothing."""
    return part / whole if part is not None and whole else None


def nonzero(sums: Mapping[str, float], named: Iterable[tuple[str, str]]) -> dict[str, float]:
    """The known and non-zero ones of these sums; each is told by its name and its field."""
    return {name: joules for name, field in named if (joules := sums.get(field))}


def measured_share(sums: Mapping[str, float], energy_j: float | None) -> float | None:
    """Share of the energy that rests on a sensor rather than on a model."""
    modelled = share(sums.get("modelled_j", 0.0), energy_j)
    return None if modelled is None else 1 - modelled


def edge_bound(sums: Mapping[str, float]) -> float | None:
    """Largest relative bias of J/request from requests in flight at the edges: |sum of delta R| / N; None without N."""
    return share(abs(sums["running_delta"]), sums.get("requests_ok")) if "running_delta" in sums else None


def relative_uncertainty(sums: Mapping[str, float]) -> float | None:
    """Relative standard uncertainty (k = 1) of the energy per unit of work; None without energy.

    u^2 = sum over sensor classes (share x gain)^2 + independent terms / E^2 + (allocation / E)^2 + (edge bound)^2 / 3.
    """
    energy_j = known_sum(sums, ("active_j", "idle_j"))
    if not energy_j or energy_j <= 0:
        return None
    gains = [sums.get(field, 0.0) / energy_j * gain for field, gain in _CLASS_GAINS]
    allocation = sums.get("allocation_j", 0.0) / energy_j
    edge = (edge_bound(sums) or 0.0) / math.sqrt(3)
    independent = math.sqrt(sums.get("independent_j2", 0.0)) / energy_j
    return math.hypot(*gains, independent, allocation, edge)


def _notes(sums: Mapping[str, float], energy_j: float | None, edge: float | None) -> list[str]:
    """What a reader must know about figures that are given."""
    notes = []
    for ratio in RATIOS[:3]:
        part = share(sums.get(ratio.joules), energy_j)
        if part is not None and part < _WHOLE and sums.get(ratio.count):
            notes.append(f"{ratio.name}: {ratio.what} are counted for {part:.1%} of the energy")
    if edge is not None and edge > EDGE_NOTED:
        notes.append(f"joules_per_request: may be off by {edge:.0%} from requests in flight; ask about a longer time")
    return notes


def ledger_figures(total: Total) -> Figures:
    """Where the metered joules of one boundary went, and mean power where coverage allows it."""
    sums = total.fields
    covered = share(sums.get("covered_s"), sums.get("window_s"))
    names = ("metered_j", "active_j", "idle_j", "idle_unallocated_j", "unattributed_j", "unmatched_j")
    apart = ("residual_uj", "other_j", "late_j", "rejected_j", "covered_s", "window_s", *SENSOR_SUMS)
    power_w = share(sums.get("metered_j"), sums.get("covered_s"))
    return {
        **total.tags,
        "simulated": total.tags.get("simulated") == "true",
        **{name: sums.get(name) for name in (*names, *apart)},
        "coverage": covered,
        "mean_power_w": power_w if (covered or 0) >= OK_COVERAGE else None,
        "joules_by_grade": nonzero(sums, _BY_GRADE),
        **{name: sums.get(name) for name in _UNMETERED},
    }
