"""Figures of cost and CO2 from sums: per question, per million output tokens, per request, each with its reason.

`cost` and `co2_kg` are those of the row's `energy_j`, given where price or intensity is known for all of it; a ratio
where they are known for 80 % of it, and then of that part. What is missing is told, and never taken as nothing.
SCI is that of ISO/IEC 21031, (E x I + M) / R, with a finished request as R.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from joulefleet.units import g_to_kg, per_million
from joulefleet_collector.answer.costs import CO2, COST, COST_OF, EMBODIED_G, EMBODIED_REQUESTS, GRAMS, Kind
from joulefleet_collector.answer.facility import WITHOUT_PUE
from joulefleet_collector.answer.overhead import energy_j
from joulefleet_collector.store.store import Total
from joulefleet_collector.usage import PARTIAL_COVERAGE, Figures, share

SCI = "sci_g_per_request"
_WHOLE = 1 - 1e-9
_GIVE = "[[sites]] in the collector's configuration gives it"
_COUNTS = {"output_tokens": "output tokens", "requests_ok": "finished requests"}


class Figure(msgspec.Struct, frozen=True):
    """One figure of the table below."""

    name: str
    kind: Kind
    made: Callable[[float, float], float]
    """From the amount and the count."""
    count: str = ""
    """Field of what it is given for one of; empty for all that was asked about."""


PER_REQUEST = Figure("co2_g_per_request", CO2, lambda grams, count: grams / count, "requests_ok")
FIGURES = (
    Figure("cost", COST, lambda amount, _: amount),
    Figure("cost_per_million_output_tokens", COST, per_million, "output_tokens"),
    Figure("co2_kg", CO2, lambda grams, _: g_to_kg(grams)),
    Figure("co2_kg_per_million_output_tokens", CO2, lambda g, n: g_to_kg(per_million(g, n)), "output_tokens"),
    PER_REQUEST,
)
NAMES = (*(figure.name for figure in FIGURES), SCI)
"""Of all figures, `currency` aside."""


def with_cost_figures(figures: Mapping[str, Any], total: Total) -> Figures:
    """The figures of a sum at `facility` with these, and with reasons that tell of a missing PUE."""
    sums = total.fields
    currencies = sorted(name.removeprefix(COST_OF) for name in sums if name.startswith(COST_OF))
    paired = _refused(figures, sums)
    reasons = {name: paired or reason for name, reason in figures["reasons"].items()}
    found: Figures = {}
    for figure in FIGURES:
        amount = _amount(figure, currencies)
        reason = _why_not(figure, sums, paired, currencies)
        found[figure.name] = None if reason else figure.made(sums[amount], sums.get(_count(figure), 0.0))
        reasons |= {figure.name: reason} if reason else {}
    reason = reasons.get(PER_REQUEST.name) or _no_embodied(sums)
    grams = sums.get(_amount(PER_REQUEST, []), 0.0) + sums.get(EMBODIED_G, 0.0)
    found |= {SCI: None if reason else grams / sums[EMBODIED_REQUESTS]}
    reasons |= {SCI: reason} if reason else {}
    found["currency"] = currencies[0] if len(currencies) == 1 else None
    return {**figures, **found, "reasons": reasons, "notes": [*figures["notes"], *_notes(sums, paired)]}


def _refused(figures: Mapping[str, Any], sums: Mapping[str, float]) -> str:
    """Why no ratio can be given where too little of the time pairs; empty where enough does."""
    if figures["status"] != "refused":
        return ""
    without = share(sums.get(WITHOUT_PUE), sums.get("window_s"))
    if without is None or without < 1 - PARTIAL_COVERAGE:
        return str(figures["reasons"]["joules_per_request"])
    return f"no PUE is known for {without:.1%} of the time: {_GIVE}"


def _amount(figure: Figure, currencies: list[str]) -> str:
    """The field that holds it."""
    whole = f"{COST_OF}{''.join(currencies[:1])}" if figure.kind is COST else GRAMS
    return f"{figure.count}_{whole}" if figure.count else whole


def _count(figure: Figure) -> str:
    return f"{figure.kind.name}_{figure.count}"


def _why_not(figure: Figure, sums: Mapping[str, float], paired: str, currencies: list[str]) -> str:
    known = _known_share(figure.kind, sums)
    if "active_j" not in sums or (figure.count and paired):
        return paired or "no energy is known at this boundary"
    if figure.kind is COST and len(currencies) > 1:
        return f"in several currencies ({', '.join(currencies)}): ask by site"
    if known < (PARTIAL_COVERAGE if figure.count else _WHOLE):
        return f"the {figure.kind.needs} is known for {known:.1%} of the energy: {_GIVE}"
    if figure.count and _count(figure) not in sums:
        return f"no {_COUNTS[figure.count]} counted: the engine does not tell them"
    if figure.count and not sums[_count(figure)]:
        return f"no {_COUNTS[figure.count]} in this time"
    return ""


def _known_share(kind: Kind, sums: Mapping[str, float]) -> float:
    """Share of the energy for which the amount is known; all, where there is no energy in an hour that is known."""
    joules = sums.get(f"{kind.name}_j")
    if joules is None:
        return 0.0
    whole_j = energy_j(sums)
    return joules / whole_j if whole_j else 1.0


def _no_embodied(sums: Mapping[str, float]) -> str:
    made = share(sums.get(EMBODIED_REQUESTS, 0.0), sums.get(f"{CO2.name}_requests_ok")) or 0.0
    if made >= _WHOLE:
        return ""
    return f"embodied emissions are declared for {made:.0%} of the requests: [[embodied]] names hardware and its kg"


def _notes(sums: Mapping[str, float], paired: str) -> list[str]:
    notes = []
    if not paired and (without := share(sums.get(WITHOUT_PUE), sums.get("window_s"))):
        notes.append(f"no PUE is known for {without:.1%} of the time: no figure of the facility contains it")
    shares = ((kind, _known_share(kind, sums)) for kind in (COST, CO2))
    return notes + [
        f"{kind.name} per token and request: the {kind.needs} is known for {known:.1%} of the energy"
        for kind, known in shares
        if PARTIAL_COVERAGE <= known < _WHOLE
    ]
