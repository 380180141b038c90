"""The figures that can be explained, and how each is made of sums, in words."""

from collections.abc import Mapping

import msgspec

from joulefleet_collector.api import BadQuestion
from joulefleet_collector.report_table import number
from joulefleet_collector.usage import RATIOS, Ratio

DEFAULT = "joules_per_output_token"

Sums = Mapping[str, float]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure: a ratio of sums, something made from one, or a sum itself."""

    name: str
    unit: str
    ratio: Ratio | None = None
    made: str = ""
    """What is done with the ratio in the end; empty where it is the figure."""
    parts: tuple[str, ...] = ()
    """The fields of which a figure that is no ratio is the sum."""
    rated: str = ""
    """What is done with that sum at the rates of a site, which only the boundary `facility` has; names counts."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of usage rows of which it is made."""
        return self.parts if self.ratio is None else (self.ratio.joules, self.ratio.count)


def _unit(ratio: Ratio) -> str:
    return f"J/{ratio.what.split()[-1].removesuffix('s')}"


_RATIOS = {ratio.name: ratio for ratio in RATIOS}
_MADE = (
    ("output_tokens_per_joule", "joules_per_output_token", "1 / {}", "tokens/J"),
    ("wh_per_1k_requests", "joules_per_request", "{} x 1,000 / 3,600 J/Wh", "Wh/1k requests"),
    (
        "kwh_per_million_output_tokens",
        "joules_per_output_token",
        "{} x 10^6 / (3.6 x 10^6 J/kWh)",
        "kWh/M output tokens",
    ),
)
_ENERGY = ("active_j", "idle_j")
_PRICE, _CARBON = "at the price of power of each hour", "at the carbon intensity of each hour"
_OF_TOKENS, _OF_REQUESTS = " / {output_tokens} output tokens x 10^6", " / {requests_ok} finished requests"
_RATED = (
    ("cost", "{currency}", _PRICE),
    ("cost_per_million_output_tokens", "{currency}/M output tokens", _PRICE + _OF_TOKENS),
    ("co2_kg", "kg CO2e", _CARBON),
    ("co2_kg_per_million_output_tokens", "kg CO2e/M output tokens", _CARBON + _OF_TOKENS),
    ("co2_g_per_request", "g CO2e/request", _CARBON + _OF_REQUESTS),
    ("sci_g_per_request", "g CO2e/request", f"{_CARBON}, and the making of hardware{_OF_REQUESTS}"),
)
FIGURES: dict[str, Figure] = {
    **{ratio.name: Figure(name=ratio.name, unit=_unit(ratio), ratio=ratio) for ratio in RATIOS},
    **{name: Figure(name=name, unit=unit, ratio=_RATIOS[of], made=made) for name, of, made, unit in _MADE},
    **{
        name: Figure(name=name, unit="J", parts=parts)
        for name, parts in (("energy_j", _ENERGY), ("active_j", _ENERGY[:1]), ("idle_j", _ENERGY[1:]))
    },
    **{name: Figure(name=name, unit=unit, parts=_ENERGY, rated=rated) for name, unit, rated in _RATED},
}


def figure_named(name: str) -> Figure:
    """The figure of this name. Raises BadQuestion."""
    if name not in FIGURES:
        raise BadQuestion(f"'{name}' is no figure; there are {', '.join(FIGURES)}")
    return FIGURES[name]


def equation(figure: Figure, sums: Sums, value: float | None, reason: str, basis: str) -> str:
    """How the figure comes about; `basis` tells of how many windows the joules are, `reason` why there is none."""
    outcome = f"no figure: {reason}" if value is None else f"{number(value)} {figure.unit}"
    if figure.ratio is None:
        parts = " + ".join(f"{_joules(sums, part)} {part.removesuffix('_j')}" for part in figure.parts)
        if figure.rated:
            return f"{parts} ({basis}), {_rated(figure.rated, sums)} = {outcome}"
        return f"{parts} = {outcome} ({basis})"
    divided = f"{_joules(sums, figure.ratio.joules)} ({basis}) / {_counted(sums, figure.ratio)}"
    if value is None:
        return f"{divided}: {outcome}"
    if not figure.made:
        return f"{divided} = {outcome}"
    ratio = number(sums[figure.ratio.joules] / sums[figure.ratio.count])
    return f"{divided} = {ratio} {_unit(figure.ratio)}; {figure.made.format(ratio)} = {outcome}"


def _rated(words: str, sums: Sums) -> str:
    return words.format(**{name: f"{sums.get(name, 0):,.0f}" for name in ("output_tokens", "requests_ok")})


def _joules(sums: Sums, field: str) -> str:
    return f"{sums[field]:,.1f} J" if field in sums else "an unknown number of J"


def _counted(sums: Sums, ratio: Ratio) -> str:
    return f"{sums[ratio.count]:,.0f} {ratio.what}" if ratio.count in sums else f"an unknown number of {ratio.what}"
