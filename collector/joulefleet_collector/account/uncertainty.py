"""The independent terms of a charge's uncertainty, as squares that add up over windows.

ACCOUNTING section 9, each in joules (k = 1). What is common to all windows of a class of sensor, its gain, is left
to whoever adds rows up, and so is the lag of requests, whose signed change telescopes.
"""

from math import sqrt

from joulefleet.units import uj_to_j
from joulefleet.window import MeterWindow
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.split import Term


def independent_j2(terms: list[Term], covered_ns: int, step_ns: int, policy: Policy) -> float:
    """Sum of squares of what the edges, idle power and missing time leave open, in J^2.

    With E the charge from one meter: edges `(E / covered * refresh)^2 / 6` and, for a counter's own step,
    `(E / energy of the meter * resolution)^2 / 6` (two edges, each uniform over a step); idle `(idle * u)^2` with
    u of the policy; missing time `(all of E * (1 - coverage))^2 / 3`. The edges of neighbouring windows cancel in
    part, so that their sum is an upper bound.
    """
    sources = {term.source.meter.id: term.source for term in terms}
    meters = sum(_of_meter(source, [t for t in terms if t.source is source], policy) for source in sources.values())
    missing = uj_to_j(sum(term.energy_uj for term in terms)) * (1 - covered_ns / step_ns) / sqrt(3)
    return float(meters + missing**2)


def _of_meter(source: MeterWindow, terms: list[Term], policy: Policy) -> float:
    energy_j = uj_to_j(sum(term.energy_uj for term in terms))
    idle_j = sum(uj_to_j(term.energy_uj) * _idle_error(term, policy) for term in terms if term.bucket == "idle")
    return _edges_j2(source, energy_j) + idle_j**2


def _edges_j2(source: MeterWindow, energy_j: float) -> float:
    if not source.covered_ns or not source.energy_uj:
        return 0.0
    # A sensor that does not say how often it makes a value is at best as quick as it is read.
    blur_ns = source.meter.refresh_ns or source.meter.period_ns
    time_j = energy_j * blur_ns / source.covered_ns
    step_j = energy_j * source.meter.resolution_uj / source.energy_uj
    return (time_j**2 + step_j**2) / 6


def _idle_error(term: Term, policy: Policy) -> float:
    return policy.idle_learnt_error if term.learnt else policy.idle_catalogue_error
