"""A policy is read from a config and refuses what makes no sense."""

import pytest

from joulefleet.config import ConfigError, typed
from joulefleet_collector.account.policy import BusyWatts, Policy

WATTS = {"hardware": "H100", "model": "m", "prefill_w": 300, "decode_w": 200}


def test_a_table_is_a_policy() -> None:
    table = {"decode_weight": 12, "decode_weight_range": [6, 24], "model_weights": {"llama-8b": 8030}}
    policy = typed(table, Policy, "collector.toml")
    assert (policy.decode_weight, policy.decode_weight_range, policy.pair_threshold) == (12, (6, 24), 0.95)
    assert policy.model_weights == {"llama-8b": 8030}
    table = {"busy_watts": [{"hardware": "H100", "model": "m", "prefill_w": 300, "decode_w": 0}]}
    assert typed(table, Policy, "c.toml").busy_watts == (
        BusyWatts(hardware="H100", model="m", prefill_w=300.0, decode_w=0.0),
    )


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"idle": "by_chance"}, "idle"),
        ({"phase_weights": {"m": [1]}}, "phase_weights"),
        ({"pair_treshold": 0.9}, "pair_treshold"),
        ({"pair_threshold": 95}, "pair_threshold"),
        ({"prefill_weight": 0}, "prefill_weight"),
        ({"model_weights": {"m": -1}}, "model_weights"),
        ({"busy_watts": [WATTS | {"decode_w": -1}]}, "busy_watts"),
        ({"busy_watts": [WATTS | {"prefill_w": 0, "decode_w": 0}]}, "both 0"),
        ({"busy_watts": [WATTS, WATTS]}, "more than once"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(table: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        typed(table, Policy, "collector.toml")
