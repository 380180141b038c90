"""What makes up each boundary of a server is told from its newest window."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from joulefleet.describe import Meter
from joulefleet.units import NS_PER_S
from joulefleet.window import MeterWindow, Window
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.api import BadQuestion
from joulefleet_collector.meters import answer_meters, meters_of
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import Accounted

AWindow = Callable[..., Window]
GPU = Meter(id="gpu", kind="accelerator", grade="counter", sensor_class="onboard")
SLICE = Meter(id="slice", kind="accelerator", grade="modelled", sensor_class="modelled", inside="gpu", basis="1 of 7")
BMC = Meter(id="bmc", kind="server", grade="integrated", sensor_class="platform")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as opened:
        yield opened


def full(a_window: AWindow, minute: int) -> Window:
    read = [MeterWindow(meter=meter, energy_uj=6_000_000, last_uj=6_000_000) for meter in (GPU, SLICE, BMC)]
    read[0] = msgspec.structs.replace(read[0], covered_ns=60 * NS_PER_S, states=("unvalidated",))
    read[2] = msgspec.structs.replace(read[2], gaps_ns={"stale": 60 * NS_PER_S})
    return a_window("a", minute, meters=tuple(read))


def test_the_boundaries_and_what_is_left_out_are_told(a_window: AWindow) -> None:
    told = msgspec.to_builtins(meters_of(full(a_window, 0)))
    assert told["boundaries"] == [
        {"boundary": "accelerator", "meters": ["gpu"], "split_by": []},
        {"boundary": "server", "meters": ["bmc"], "split_by": ["gpu"]},
    ]
    assert [(one["boundary"], one["meter"], one["code"], one["of"]) for one in told["left_out"]] == [
        ("accelerator", "slice", "part_of", "gpu"),
        ("server", "gpu", "part_of", "bmc"),
        ("server", "slice", "part_of", "bmc"),
    ]
    gpu, part, bmc = told["meters"]
    assert (gpu["coverage"], gpu["mean_power_w"], gpu["states"]) == (1.0, 0.1, ("unvalidated",))
    assert (part["inside"], part["basis"]) == ("gpu", "1 of 7")
    assert (bmc["mean_power_w"], bmc["gaps_s"]) == (None, {"stale": 60.0})


def test_the_newest_window_of_the_server_is_told(store: EmbeddedStore, a_window: AWindow) -> None:
    windows = [a_window("a", 0), full(a_window, 1), a_window("b", 2)]
    store.write([Accounted(one, one.encode(), account(one, Policy())) for one in windows], 1)
    assert answer_meters(store, {"server": "a"}) == meters_of(windows[1])
    assert answer_meters(store, {"server": "b"}) == meters_of(windows[2])


@pytest.mark.parametrize(
    ("query", "said"), [({}, "name one server"), ({"server": "a", "by": "x"}, "nothing else"), ({"server": "c"}, "'c'")]
)
def test_what_cannot_be_told_says_what_to_ask(store: EmbeddedStore, query: dict[str, str], said: str) -> None:
    with pytest.raises(BadQuestion, match=said):
        answer_meters(store, query)
