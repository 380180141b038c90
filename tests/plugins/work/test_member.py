"""An engine without work: what it declares, and that its joules are metered as its own."""

from typing import Any

import pytest

from fixtures.virtual_agent import Clock, each_s
from joulefleet.config import ConfigError
from joulefleet.describe import Engine, Meter, Reservation
from joulefleet.reading import MeterReading
from joulefleet.units import NS_PER_S, j_to_uj
from joulefleet_agent.cutter import Cutter, CutterState, Identity
from joulefleet_agent.sampler import stamped
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy
from joulefleet_plugins.work.member import open

TABLE = {"software": "vllm", "group": "chat", "group_size": 2, "devices": ["gpu-0"], "hardware": "chip"}
BOARD = Meter(id="gpu-0", kind="accelerator", grade="counter", sensor_class="onboard")
BEGAN_NS = 1_790_000_040 * NS_PER_S


def test_what_is_declared() -> None:
    assert open(TABLE).declares == (
        Engine(
            id="member@chat",
            software="vllm",
            group="chat",
            group_size=2,
            devices=(Reservation("gpu-0"),),
            hardware="chip",
            period_ns=5 * NS_PER_S,
        ),
    )
    assert open({**TABLE, "id": "second"}).declares[0].id == "second"


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"group": ""}, "`group`"), ({"software": ""}, "software"), ({"model": "x"}, "model"), ({"phase": "x"}, "phase")],
)
def test_a_config_that_cannot_be_used(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open({**TABLE, **changes})


def test_its_joules_are_its_own_and_it_counts_nothing() -> None:
    source, clock = open({**TABLE, "period_s": 1}), Clock(BEGAN_NS)
    cutter = Cutter(CutterState(timeline=1, step_ns=60 * NS_PER_S), Identity(server="s"))
    cutter.declare((*source.declares, BOARD), clock())
    for second in each_s(clock, 120):
        power = MeterReading(meter="gpu-0", at_ns=clock(), counter_uj=j_to_uj(second * 50))
        cutter.feed([*stamped(source.read(), clock(), source.declares), power], clock())
    windows = cutter.close(clock())
    assert len(windows) == 2, "a window does not wait for work that never comes"
    for window in windows:
        assert (window.engines[0].work, window.engines[0].covered_ns) == ((), 60 * NS_PER_S)
        (row,) = [
            one for one in account(window, Policy()) if one.kind == "usage" and one.tags["boundary"] == "accelerator"
        ]
        assert (row.tags["group"], row.tags["model"], row.tags["hardware"]) == ("chat", "", "chip")
        assert (row.fields["active_j"], row.fields["paired_s"]) == (3_000.0, 60.0)
        assert "output_tokens" not in row.fields and "requests_ok" not in row.fields
