"""Phases of many windows at once are those of the definition."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.reading import COUNT_FIELDS, TIME_FIELDS
from joulefleet.window import Window
from joulefleet_collector.account import phase as definition
from joulefleet_collector.account.models import by_model
from joulefleet_collector.account.numbers import Numbers, numbers_of, told
from joulefleet_collector.account.phases import by_phase, split_exactly, ways_of
from joulefleet_collector.account.plan import Plan, plan_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.skim import skim
from joulefleet_collector.account.work import by_model as works_of

DEFAULT = Policy()
POLICIES = (DEFAULT, Policy(prefill_weight=7, decode_weight_range=(1, 99)), Policy(phase_weights={"a": (3, 2)}))
some = st.one_of(st.none(), st.just(0), st.integers(0, 10**7))
times = st.one_of(st.none(), st.just(0), st.integers(0, 6 * 10**10))
counts = st.fixed_dictionaries({name: times if name in TIME_FIELDS else some for name in COUNT_FIELDS})


def read(window: Window, policy: Policy = DEFAULT) -> tuple[Plan, Numbers]:
    planned, found = plan_of(window, policy), skim(window.encode())
    assert planned is not None and found is not None
    return planned[0], numbers_of(planned[0], [told(found)])


@given(
    data=st.data(),
    policy=st.sampled_from(POLICIES),
    phase=st.sampled_from(["", "", "prefill", "decode"]),
    energy_uj=st.tuples(st.integers(0, 2**44), st.integers(0, 2**44)),
)
def test_phases_are_those_of_the_definition(
    data: st.DataObject, policy: Policy, phase: str, energy_uj: tuple[int, int], build: SimpleNamespace
) -> None:
    names = data.draw(st.lists(st.sampled_from("ab"), unique=True, min_size=1))
    works = [build.work(model, **data.draw(counts)) for model in names]
    engine = build.engine("e", ["gpu"], works, phase=phase)
    plan, numbers = read(build.window([build.meter("gpu", 9)], [engine]), policy)
    read_counts, _ = by_model(plan, numbers.counts, numbers.late)
    ways = ways_of(plan, read_counts, policy)
    assert split_exactly(ways, np.array([[0.0]])).tolist() == [True]
    for model, work in enumerate(works_of(engine)):
        wanted = definition.by_phase(*energy_uj, definition.phase_weights(engine.engine, work, policy))
        active, idle = (np.array([each]) for each in energy_uj)
        found = by_phase(ways[model], active, idle)
        assert {name: each[0] for name, each in found.items() if not np.isnan(each[0])} == wanted


@pytest.mark.parametrize(
    ("busy_ns", "energy_uj", "exact"),
    [(2**39, 2.0**44, True), (2**40, 1.0, False), (1, 2.0**45, False)],
    ids=["usual", "long", "much energy"],
)
def test_what_runs_over_is_told(build: SimpleNamespace, busy_ns: int, energy_uj: float, exact: bool) -> None:
    work = build.work(busy_ns=busy_ns, prefill_busy_ns=1)
    plan, numbers = read(build.window([build.meter("gpu", 9)], [build.engine("e", ["gpu"], [work])]))
    assert split_exactly(ways_of(plan, numbers.counts, DEFAULT), np.array([[energy_uj]])).tolist() == [exact]
