"""The independent terms of a charge's uncertainty, as squares that add up over windows.

ACCOUNTING section 9, each in joules (k = 1). What is common to all windows of a class of sensor, its gain, is left
to whoever adds rows up, and so is the lag of requests, whose signed change telescopes.
"""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

from joulefleet.units import uj_to_j
from joulefleet.window import MeterWindow
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.split import Term


class Origin(NamedTuple):
    """One meter, and which of an engine's terms it measured, by place."""

    source: MeterWindow
    places: list[int]
    idle: list[tuple[int, float]]
    """Those that are idle, each with the relative uncertainty of its idle power."""


def origins_of(terms: Sequence[Term], policy: Policy) -> list[Origin]:
    """The meters that measured these terms."""
    found: dict[str, Origin] = {}
    for place, term in enumerate(terms):
        origin = found.get(term.source.meter.id)
        if origin is None:
            origin = found[term.source.meter.id] = Origin(term.source, [], [])
        origin.places.append(place)
        if term.bucket == "idle":
            origin.idle.append((place, policy.idle_learnt_error if term.learnt else policy.idle_catalogue_error))
    return list(found.values())


def independent_j2(origins: Sequence[Origin], parts_uj: Sequence[int], covered_ns: int, step_ns: int) -> float:
    """Sum of squares of what the edges, idle power and missing time leave open, in J^2, of these parts of the terms.

    With E the charge from one meter: edges `(E / covered * refresh)^2 / 6` and, for a counter's own step,
    `(E / energy of the meter * resolution)^2 / 6` (two edges, each uniform over a step); idle `(idle * u)^2` with
    u of the policy; missing time `(all of E * (1 - coverage))^2 / 3`. The edges of neighbouring windows cancel in
    part, so that their sum is an upper bound.
    """
    meters = sum([_of_meter(origin, parts_uj) for origin in origins])
    missing = uj_to_j(sum(parts_uj)) * (1 - covered_ns / step_ns) / sqrt(3)
    return float(meters + missing**2)


def _of_meter(origin: Origin, parts_uj: Sequence[int]) -> float:
    energy_j = uj_to_j(sum([parts_uj[place] for place in origin.places]))
    idle_j = sum([uj_to_j(parts_uj[place]) * error for place, error in origin.idle])
    return _edges_j2(origin.source, energy_j) + idle_j**2


def _edges_j2(source: MeterWindow, energy_j: float) -> float:
    if not source.covered_ns or not source.energy_uj:
        return 0.0
    # A sensor that does not say how often it makes a value is at best as quick as it is read.
    blur_ns = source.meter.refresh_ns or source.meter.period_ns
    time_j = energy_j * blur_ns / source.covered_ns
    step_j = energy_j * source.meter.resolution_uj / source.energy_uj
    return (time_j**2 + step_j**2) / 6
