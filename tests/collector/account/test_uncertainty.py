"""Each independent term of the uncertainty, alone."""

from types import SimpleNamespace

import pytest

from joulefleet.units import j_to_uj, s_to_ns
from joulefleet.window import MeterWindow
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.split import Bucket, Term
from joulefleet_collector.account.uncertainty import independent_j2, origins_of

STEP_NS = s_to_ns(60)
POLICY = Policy(idle_learnt_error=0.05, idle_catalogue_error=0.25)


def term(source: MeterWindow, energy_j: float, bucket: Bucket = "active", learnt: bool = True) -> Term:
    return Term(source=source, bucket=bucket, energy_uj=j_to_uj(energy_j), engine=0, learnt=learnt)


def exact(build: SimpleNamespace, energy_j: float = 6_000, **declared: int) -> MeterWindow:
    """A meter whose edges are sharp, unless it declares otherwise."""
    return build.meter("gpu", energy_j, **({"refresh_ns": 0, "period_ns": 0} | declared))


def j2(*terms: Term, covered_ns: int = STEP_NS) -> float:
    return independent_j2(origins_of(terms, POLICY), [term.energy_uj for term in terms], covered_ns, STEP_NS)


def test_edges_are_mean_power_times_the_sensors_step(build: SimpleNamespace) -> None:
    source = exact(build, refresh_ns=s_to_ns(1))
    assert j2(term(source, 6_000)) == pytest.approx(100**2 / 6)
    assert j2(term(source, 3_000)) == pytest.approx(50**2 / 6)
    assert j2(term(source, 3_000), term(source, 3_000)) == pytest.approx(100**2 / 6), "one meter has one edge"


def test_a_sensor_that_does_not_tell_its_step_is_as_quick_as_it_is_read(build: SimpleNamespace) -> None:
    assert j2(term(exact(build, period_ns=s_to_ns(2)), 6_000)) == pytest.approx(200**2 / 6)


def test_a_counters_own_step_counts_in_proportion_to_the_charge(build: SimpleNamespace) -> None:
    source = exact(build, resolution_uj=j_to_uj(36))
    assert j2(term(source, 6_000)) == pytest.approx(36**2 / 6)
    assert j2(term(source, 1_000)) == pytest.approx(6**2 / 6)


def test_idle_is_less_sure_from_a_catalogue(build: SimpleNamespace) -> None:
    source = exact(build)
    assert j2(term(source, 1_000, "idle"), term(source, 500)) == pytest.approx(50**2)
    assert j2(term(source, 1_000, "idle", learnt=False)) == pytest.approx(250**2)


def test_missing_time_is_uniform_between_nothing_and_the_mean(build: SimpleNamespace) -> None:
    assert j2(term(exact(build), 6_000), covered_ns=s_to_ns(57)) == pytest.approx((6_000 * 0.05) ** 2 / 3)


def test_meters_are_independent(build: SimpleNamespace) -> None:
    gpu = exact(build, refresh_ns=s_to_ns(1))
    cpu = build.meter("p", 600, kind="cpu_package", refresh_ns=s_to_ns(1))
    assert j2(term(gpu, 6_000), term(cpu, 600)) == pytest.approx((100**2 + 10**2) / 6)


def test_no_charge_has_no_uncertainty(build: SimpleNamespace) -> None:
    assert j2(covered_ns=0) == 0
    assert j2(term(build.meter("gpu", 0, covered_s=0), 0)) == 0
