"""Accounting against simulated boards whose law it does not know: how far it is off, and whether it says so."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.attributed import SHORT_NS, WAYS, Found, Prefill, by_tenant, coverage, fitted, found, prefills, rms, said
from fixtures.laws.drawn import Lawful, apart, concave, mig, time_sliced, truth
from fixtures.laws.shapley import shapley
from fixtures.laws.telling import Gains, drawn_gains, windows
from joulefleet_collector.usage import GAINS

SEEDS = (1, 2)
EXACT = Gains((1.0, 1.0, 1.0), 1.0, 1.0)


@pytest.fixture(scope="module")
def servers() -> list[Lawful]:
    return [time_sliced(seed) for seed in SEEDS]


def on_boards(several: list[Found]) -> list[Found]:
    return [one for one in several if one.boundary == "accelerator"]


@pytest.mark.parametrize("make", [apart, time_sliced, concave, mig])
def test_a_law_shares_out_all_joules_of_its_boards(make: Callable[[int], Lawful]) -> None:
    server = make(1)
    true = truth(server)
    dynamic_j = sum(moments[-1].dynamic_j for moments in server.boards)
    assert sum(one.active_j for one in true.values()) == pytest.approx(dynamic_j)
    for one in true.values():
        assert sum(one.by_tenant.values()) == pytest.approx(one.active_j)
    assert not any(engine.running or engine.queued for engines in server.engines for engine in engines)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.floats(0.4, 0.9))
def test_the_shapley_values_of_a_concave_cost_add_up_and_follow_the_loads(loads: list[float], alpha: float) -> None:
    values = shapley(len(loads), lambda these: sum(loads[one] for one in these) ** alpha if these else 0.0)
    assert sum(values) == pytest.approx(sum(loads) ** alpha if any(loads) else 0.0, abs=1e-9)
    by_load = [value for _, value in sorted(zip(loads, values, strict=True))]
    assert by_load == pytest.approx(sorted(values), abs=1e-9)


def test_a_seed_draws_the_same_server_again(servers: list[Lawful]) -> None:
    assert time_sliced(1).boards == servers[0].boards != servers[1].boards


@pytest.mark.parametrize("way", ["activity", "busy", "running", "work, equal sizes", "work, model sizes", "equal"])
def test_a_method_is_forced_by_what_sources_tell(servers: list[Lawful], way: str) -> None:
    for one in on_boards(found(servers[0], WAYS[way], EXACT)):
        assert one.by_way > 0.5, "idle energy aside, by the method asked for"


def test_by_busy_seconds_only_the_watts_that_are_not_told_are_missed(servers: list[Lawful]) -> None:
    drawn = [one for server in servers for one in on_boards(found(server, WAYS["busy"], EXACT))]
    assert rms([one.active_error for one in drawn]) < 0.1
    assert max(abs(one.active_error) for one in drawn) < 0.2
    even = on_boards(found(time_sliced(1, even=True), WAYS["busy"], EXACT))
    assert rms([one.active_error for one in even]) < 0.01
    assert rms([one.error for one in even]) < 0.005


@pytest.mark.parametrize("way", ["busy, fitted watts", "busy, watts of other half"])
def test_with_fitted_watts_busy_seconds_are_off_by_less_than_2_percent(servers: list[Lawful], way: str) -> None:
    exact = on_boards(found(servers[0], WAYS[way], EXACT))
    assert max(abs(one.active_error) for one in exact) < 0.02
    assert all(one.by_way > 0.5 for one in exact), "what is above idle, by busy seconds"


def test_watts_that_are_fitted_are_those_of_the_law(servers: list[Lawful]) -> None:
    policy = fitted(windows(servers[0], WAYS["busy, fitted watts"].speech, EXACT, SHORT_NS))
    assert policy is not None
    assert all(each.prefill_w > each.decode_w > 0 for each in policy.busy_watts), "prompts draw more under this law"
    by_the_minute = windows(servers[0], WAYS["busy, fitted watts"].speech, EXACT)
    assert fitted(by_the_minute) is None, "three hours are too few windows"


def test_engines_that_time_their_prompts_tell_phases_and_tenants_better_than_weights_do(servers: list[Lawful]) -> None:
    shares: dict[str, list[Prefill]] = {"busy": [], "busy, told by phase": []}
    tenants: dict[str, list[float]] = {"busy": [], "busy, told by phase": []}
    for server in servers:
        for way in shares:
            told = said(windows(server, WAYS[way].speech, EXACT), WAYS[way].policy)
            shares[way] += prefills(told, truth(server))
            tenants[way] += [one.error for one in by_tenant(told, truth(server), WAYS[way].policy)]
    by_weights, timed = (rms([one.told - one.true for one in several]) for several in shares.values())
    assert timed < 0.1 < by_weights
    assert max(map(abs, tenants["busy, told by phase"])) < 0.25 < max(map(abs, tenants["busy"]))
    for one in shares["busy"]:
        assert one.low <= one.told <= one.high


def test_a_board_of_its_own_is_as_good_as_its_meter() -> None:
    exact = on_boards(found(apart(1), WAYS["exclusive"], EXACT))
    assert max(abs(one.error) for one in exact) < 0.001
    assert max(abs(one.active_error) for one in exact) < 0.03, "the learnt idle power is a low percentile"


def test_what_is_stated_covers_errors_by_busy_seconds_and_of_a_board_of_its_own(servers: list[Lawful]) -> None:
    cases = [("busy", server) for server in servers] + [("exclusive", apart(seed)) for seed in SEEDS]
    for seed, (way, server) in zip(SEEDS * 2, cases, strict=True):
        gains = drawn_gains(seed, len(server.boards), GAINS["onboard"], GAINS["platform"], catalogue=0.25)
        told = on_boards(found(server, WAYS[way], gains))
        assert coverage([one.error for one in told], [one.stated for one in told], 2) == 1.0
        assert all(one.stated < (0.06 if way == "exclusive" else 1.0) for one in told)
