"""Models of one engine side by side share as the definition has it."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.reading import COUNT_FIELDS
from joulefleet.window import Window
from joulefleet_collector.account.models import (
    Weights,
    by_model,
    share,
    share_in_range,
    share_signed,
    shared_exactly,
    weights_of,
)
from joulefleet_collector.account.numbers import Numbers, numbers_of, told
from joulefleet_collector.account.plan import Plan, plan_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.share import share_out
from joulefleet_collector.account.skim import skim
from joulefleet_collector.account.work import ModelWork, model_ways
from joulefleet_collector.account.work import by_model as by_definition

DEFAULT = Policy()
POLICIES = (DEFAULT, Policy(prefill_weight=7, decode_weight=3), Policy(model_weights={"a": 5, "b": 9}))
some = st.one_of(st.none(), st.just(0), st.integers(0, 10**6))
counts = st.one_of(
    st.fixed_dictionaries(dict.fromkeys(COUNT_FIELDS, some)),
    st.fixed_dictionaries(dict.fromkeys(COUNT_FIELDS, st.integers(0, 10**6))),
)
keys = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y"])), unique=True, min_size=1, max_size=5)


def read(window: Window, policy: Policy = DEFAULT) -> tuple[Plan, Numbers]:
    planned, found = plan_of(window, policy), skim(window.encode())
    assert planned is not None and found is not None
    return planned[0], numbers_of(planned[0], [told(found)])


def not_timed(work: ModelWork) -> ModelWork:
    return msgspec.structs.replace(work, counts=msgspec.structs.replace(work.counts, busy_ns=None))


@given(data=st.data(), policy=st.sampled_from(POLICIES))
def test_models_have_the_counts_and_weights_of_the_definition(
    data: st.DataObject, policy: Policy, build: SimpleNamespace
) -> None:
    works = [build.work(model, tenant=tenant, **data.draw(counts)) for model, tenant in data.draw(keys)]
    engine = build.engine("e", ["gpu"], works)
    plan, numbers = read(build.window([build.meter("gpu", 9)], [engine]), policy)
    expected, (told, late) = by_definition(engine), by_model(plan, numbers.counts, numbers.late)
    for name in COUNT_FIELDS:
        assert [None if np.isnan(one) else one for one in told[name][0]] == [getattr(m.counts, name) for m in expected]
        assert np.isnan(late[name]).all()
    if len(expected) > 1:
        (weights, *_) = model_ways([not_timed(work) for work in expected], policy).values()
        assert weights_of(plan, 0, told, policy).usual.tolist() == [weights]


def test_late_work_is_the_sum_of_what_is_known(build: SimpleNamespace) -> None:
    late = [build.work(late=build.work(requests_ok=7).counts), build.work(tenant="x")]
    plan, numbers = read(build.window([build.meter("gpu", 9)], [build.engine("e", ["gpu"], late)]))
    assert by_model(plan, numbers.counts, numbers.late)[1]["requests_ok"].tolist() == [[7.0]]


@given(
    totals=st.lists(st.integers(0, 2**40), min_size=1, max_size=4),
    weights=st.lists(st.integers(0, 2**20), min_size=1, max_size=5).filter(any),
)
def test_shares_are_those_of_share_out(totals: list[int], weights: list[int]) -> None:
    parts = share(np.array([totals]), np.array([weights] * len(totals)))
    assert parts.tolist() == [[share_out(total, weights) for total in totals]]


def test_the_range_is_that_of_the_sums() -> None:
    weights = Weights(np.array([[1, 1]]), (np.array([[1, 0]]), np.array([[1, 3]])))
    shared, ranges = share_in_range(np.array([[40], [80]]), weights)
    assert shared.tolist() == [[[20, 20]], [[40, 40]]]
    assert ranges.tolist() == [[90, 90]]


def test_a_change_keeps_its_sign_and_the_unknown_stays_unknown() -> None:
    found = share_signed({"a": np.array([-7.0, np.nan]), "b": np.array([8.0, 0.0])}, np.array([[1, 1], [1, 1]]))
    assert [each["b"].tolist() for each in found] == [[4, 0], [4, 0]]
    assert [each["a"][0] for each in found] == [-4, -3]
    assert all(np.isnan(each["a"][1]) for each in found)


def test_models_that_tell_how_long_each_was_busy_are_left_to_the_definition(build: SimpleNamespace) -> None:
    works = [build.work(name, output_tokens=1, busy_ns=1) for name in "ab"]
    plan, numbers = read(build.window([build.meter("gpu", 9)], [build.engine("e", ["gpu"], works)]))
    assert shared_exactly(plan, numbers.counts, numbers.late, np.array([1.0]), Policy()).tolist() == [False]


@pytest.mark.parametrize(
    ("tokens", "most", "exact"),
    [(2**20, 2.0**30, True), (2**20, 2.0**50, False), (2**50, 1.0, False), (2**53, 0.0, False)],
    ids=["usual", "much energy", "many tokens", "more tokens than are told apart"],
)
def test_what_runs_over_is_told(build: SimpleNamespace, tokens: int, most: float, exact: bool) -> None:
    works = [build.work("a", output_tokens=tokens), build.work("b", output_tokens=1)]
    plan, numbers = read(build.window([build.meter("gpu", 9)], [build.engine("e", ["gpu"], works)]))
    assert shared_exactly(plan, numbers.counts, numbers.late, np.array([most]), Policy()).tolist() == [exact]
