"""Weights of several who share: the best that all of them tell."""

import pytest

from joulefleet_collector.account.policy import Policy
from joulefleet_collector.answer.weights import Work, computed, weights


@pytest.mark.parametrize(
    ("works", "expected"),
    [
        ([{"prompt_tokens": 70, "output_tokens": 1}, {"prompt_tokens": 10, "output_tokens": 2}], [80, 30]),
        (
            [{"prompt_tokens": 7, "cached_tokens": 7, "output_tokens": 1}, {"prompt_tokens": 5, "output_tokens": 0}],
            [10, 5],
        ),
        ([{"prompt_tokens": 7, "output_tokens": 1}, {"output_tokens": 3}], [10, 30]),
        (
            [{"output_tokens": 0, "requests_ok": 3}, {"output_tokens": 0, "requests_ok": 1, "requests_failed": 1}],
            [3, 2],
        ),
        ([{"output_tokens": 9, "requests_ok": 3}, {"requests_ok": 1}], [3, 1]),
        ([{"output_tokens": 9}, {"requests_ok": 1}], [1, 1]),
        ([{}], [1]),
    ],
)
def test_tokens_else_requests_else_equal(works: list[Work], expected: list[int]) -> None:
    assert weights(works, Policy()) == expected


def test_the_policy_weighs_tokens() -> None:
    works: list[Work] = [{"prompt_tokens": 1, "output_tokens": 1}]
    assert weights(works, Policy(prefill_weight=2, decode_weight=5)) == [7]


def test_nothing_is_computed_twice_or_less_than_nothing() -> None:
    assert computed({"prompt_tokens": 5, "cached_tokens": 9}) == 0
    assert computed({}) == 0
