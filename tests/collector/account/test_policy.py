"""A policy is read from a config and refuses what makes no sense."""

import pytest

from joulefleet.config import ConfigError, typed
from joulefleet_collector.account.policy import Policy


def test_a_table_is_a_policy() -> None:
    table = {"decode_weight": 12, "decode_weight_range": [6, 24], "model_weights": {"llama-8b": 8030}}
    policy = typed(table, Policy, "collector.toml")
    assert (policy.decode_weight, policy.decode_weight_range, policy.pair_threshold) == (12, (6, 24), 0.95)
    assert policy.model_weights == {"llama-8b": 8030}


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"idle": "by_chance"}, "idle"),
        ({"phase_weights": {"m": [1]}}, "phase_weights"),
        ({"pair_treshold": 0.9}, "pair_treshold"),
        ({"pair_threshold": 95}, "pair_threshold"),
        ({"prefill_weight": 0}, "prefill_weight"),
        ({"model_weights": {"m": -1}}, "model_weights"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(table: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        typed(table, Policy, "collector.toml")
