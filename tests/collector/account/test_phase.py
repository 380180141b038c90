"""Prefill and decode: what is measured, what tokens tell, and what is of no phase."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import Engine
from joulefleet.reading import Counts
from joulefleet.units import j_to_uj
from joulefleet_collector.account.account import account
from joulefleet_collector.account.phase import by_phase, phase_weights
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.share import share_out
from joulefleet_collector.account.work import ModelWork

DEFAULT = Policy()
TOKENS = Counts(prompt_tokens=1_500, cached_tokens=800, output_tokens=2_000)
FIELDS = ("prefill_active_j", "prefill_idle_j", "decode_active_j", "decode_idle_j")


def ways(counts: Counts = TOKENS, policy: Policy = DEFAULT, **declared: object) -> tuple[tuple[int, int], ...]:
    engine = Engine(id="e", software="vllm", **declared)
    return phase_weights(engine, ModelWork(model="m", counts=counts), policy)


def test_tokens_are_weighted_and_cached_ones_are_no_work() -> None:
    assert ways() == ((700, 20_000), (700, 10_000), (700, 50_000))


def test_a_model_has_weights_of_its_own() -> None:
    policy = Policy(phase_weights={"m": (2, 3), "other": (5, 5)})
    assert ways(policy=policy)[0] == (1_400, 6_000)
    assert ways(policy=policy)[1:] == ways()[1:]


@pytest.mark.parametrize(("phase", "weights"), [("prefill", (1, 0)), ("decode", (0, 1))])
def test_an_engine_of_one_phase_is_all_of_it(phase: str, weights: tuple[int, int]) -> None:
    assert ways(phase=phase) == ways(Counts(), phase=phase) == (weights,)


def test_time_that_the_engine_tells_is_better_than_tokens() -> None:
    told = Counts(prompt_tokens=200, output_tokens=300, busy_ns=390, prefill_busy_ns=84)
    assert ways(told) == ((84, 306),)
    assert ways(Counts(busy_ns=10, prefill_busy_ns=11)) == ((10, 0),)


@pytest.mark.parametrize("busy", [{"busy_ns": 5}, {"prefill_busy_ns": 5}, {"busy_ns": 0, "prefill_busy_ns": 0}])
def test_time_that_is_not_told_whole_says_nothing(busy: dict[str, int]) -> None:
    assert ways(Counts(prompt_tokens=7, output_tokens=1, **busy))[0] == (7, 10)


@pytest.mark.parametrize("counts", [Counts(), Counts(prompt_tokens=7), Counts(output_tokens=7)])
def test_where_tokens_are_not_counted_nothing_is_known(counts: Counts) -> None:
    assert ways(counts) == ()
    assert by_phase(5, 7, ways(counts)) == {}


def test_where_no_token_was_made_the_energy_is_of_no_phase() -> None:
    none = by_phase(5_000_000, 7, ways(Counts(prompt_tokens=0, output_tokens=0)))
    assert set(none) == {*FIELDS, "prefill_low_j", "prefill_high_j"} and not any(none.values())


def test_what_is_measured_has_no_range() -> None:
    fields = by_phase(1_000_000, 500_000, ((1, 3),))
    assert fields["prefill_low_j"] == fields["prefill_high_j"] == 0.375
    assert [fields[name] for name in FIELDS] == [0.25, 0.125, 0.75, 0.375]


amounts = st.integers(0, 10**12)
weights = st.tuples(st.integers(0, 10**12), st.integers(0, 10**12))


@given(active=amounts, idle=amounts, several=st.lists(weights.filter(any), min_size=1, max_size=3))
def test_phases_add_up_to_the_microjoule_within_their_range(
    active: int, idle: int, several: list[tuple[int, int]]
) -> None:
    fields = by_phase(active, idle, tuple(several))
    assert j_to_uj(fields["prefill_active_j"]) + j_to_uj(fields["decode_active_j"]) == active
    assert j_to_uj(fields["prefill_idle_j"]) + j_to_uj(fields["decode_idle_j"]) == idle
    assert j_to_uj(fields["prefill_active_j"]) == share_out(active, several[0])[0]
    prefill_uj = j_to_uj(fields["prefill_active_j"]) + j_to_uj(fields["prefill_idle_j"])
    assert j_to_uj(fields["prefill_low_j"]) <= prefill_uj <= j_to_uj(fields["prefill_high_j"])


def test_rows_tell_the_phases_of_each_model(build: SimpleNamespace) -> None:
    works = [
        build.work("told", prompt_tokens=700, output_tokens=2_000, requests_ok=1),
        build.work("prompts", prompt_tokens=20_700, output_tokens=0, requests_ok=1),
    ]
    rows = account(build.window([build.meter("gpu", 4_000)], [build.engine("e", ["gpu"], works)]), DEFAULT)
    told, prompts = (build.find(rows, "usage", model=model) for model in ("told", "prompts"))
    assert told["prefill_active_j"] == pytest.approx(67.633, abs=1e-3)
    assert told["prefill_active_j"] + told["decode_active_j"] == told["active_j"] == 2_000
    assert (prompts["prefill_active_j"], prompts["decode_active_j"]) == (2_000, 0)


def test_what_does_not_pair_has_energy_of_no_phase(build: SimpleNamespace) -> None:
    engine = build.engine("e", ["gpu"], [build.work(prompt_tokens=7, output_tokens=2)], covered_s=5)
    fields = build.find(account(build.window([build.meter("gpu", 4_000)], [engine]), DEFAULT), "usage")
    assert [fields[name] for name in FIELDS] == [0, 0, 0, 0]
