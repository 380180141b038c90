"""Every text, number and list of a window has its bound, wherever it stands."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from joulefleet.describe import Engine, Meter, Reservation
from joulefleet.reading import Counts, WorkKey
from joulefleet.window import EngineWindow, MeterWindow, Window, Work
from joulefleet_collector.bounds import MAX_ENTRIES, MAX_INTEGER, MAX_TEXT, unbounded

FULL = Window(
    server="s",
    timeline=1,
    start_ns=0,
    step_ns=60,
    labels={"rack": "r"},
    facts={"driver": "1"},
    meters=(
        MeterWindow(
            meter=Meter(id="m", kind="server", grade="counter", sensor_class="onboard", contains=("dram",)),
            trace_mw=(1, None),
            gaps_ns={"gap": 1},
            idle_mw=1,
            gauges={"utilisation_pct": 1.0},
        ),
    ),
    engines=(
        EngineWindow(
            engine=Engine(id="e", software="s", devices=(Reservation("m"),)),
            work=(Work(key=WorkKey("model"), counts=Counts(requests_ok=1), latency={"ttft": {1: 1}}),),
            gaps_ns={"gap": 1},
            running_start=1,
            running_end=1,
            running_ns=1,
            queued_ns=1,
        ),
    ),
)
Put = Callable[[Any], Any]


def places(value: Any, put: Put) -> Iterator[tuple[Any, Put]]:
    """Every text, number and list in this value, and what makes the whole with something else in its place."""
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from places(getattr(value, name), lambda new, n=name: put(msgspec.structs.replace(value, **{n: new})))
        return
    if isinstance(value, tuple | dict):
        yield value, put
    if isinstance(value, tuple):
        for at, one in enumerate(value):
            yield from places(one, lambda new, k=at: put((*value[:k], new, *value[k + 1 :])))
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from places(key, lambda new, o=one: put({new: o}))
            yield from places(one, lambda new, k=key: put({k: new}))
    elif value is not None:
        yield value, put


def too_much(value: Any) -> list[Any]:
    """What goes over the bound in the place of this."""
    if isinstance(value, bool):
        return []
    if isinstance(value, str):
        return ["x" * (MAX_TEXT + 1)]
    if isinstance(value, int):
        return [MAX_INTEGER + 1, -MAX_INTEGER - 1, 2**80]
    if isinstance(value, float):
        return [math.nan, math.inf, -math.inf]
    if isinstance(value, tuple):
        return [(value or ("x",))[:1] * (MAX_ENTRIES + 1)]
    key = next(iter(value), "x")
    return [{(f"k{n}" if isinstance(key, str) else n): next(iter(value.values()), "v") for n in range(MAX_ENTRIES + 1)}]


SPOILT = [put(bad) for value, put in places(FULL, lambda whole: whole) for bad in too_much(value)]


def test_a_full_window_is_within_all_bounds() -> None:
    assert list(unbounded(FULL)) == []
    assert len(SPOILT) > 100


@pytest.mark.parametrize("window", SPOILT, ids=range(len(SPOILT)))
def test_one_leaf_over_its_bound_is_found_and_named(window: Window) -> None:
    (said, *_) = unbounded(window)
    assert "window" in said
