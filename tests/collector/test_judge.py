"""Which windows are taken, and what is said of the others."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import Engine, Meter, Reservation
from joulefleet.reading import Counts, WorkKey
from joulefleet.units import NS_PER_S
from joulefleet.window import AgentCost, EngineWindow, Losses, MeterWindow, Window, Work
from joulefleet_collector import judge as bounds
from joulefleet_collector.judge import Refused, faults, judge
from joulefleet_collector.rows import RESERVED_TAGS

AWindow = Callable[..., Window]
LATE = 2**62


def meter(window: Window, **changes: Any) -> Window:
    return msgspec.structs.replace(window, meters=(msgspec.structs.replace(window.meters[0], **changes),))


def engine(window: Window, **changes: Any) -> Window:
    return msgspec.structs.replace(window, engines=(msgspec.structs.replace(window.engines[0], **changes),))


def work(window: Window, **changes: Any) -> Window:
    return engine(window, work=(Work(key=WorkKey("m"), **changes),))


def declared(window: Window, **changes: Any) -> Window:
    return engine(window, engine=Engine(id="e", software="s", **changes))


def test_a_good_window_has_no_fault(a_window: AWindow) -> None:
    assert list(faults(a_window())) == []
    judge(a_window(), 0, LATE)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda w: msgspec.structs.replace(w, server=""), "server"),
        (lambda w: msgspec.structs.replace(w, timeline=2**32), "timeline"),
        (lambda w: msgspec.structs.replace(w, timeline=-1), "timeline"),
        (lambda w: msgspec.structs.replace(w, step_ns=7 * NS_PER_S), "does not divide an hour"),
        (lambda w: msgspec.structs.replace(w, step_ns=0), "does not divide an hour"),
        (lambda w: msgspec.structs.replace(w, start_ns=w.start_ns + 1), "not on the grid"),
        (lambda w: msgspec.structs.replace(w, start_ns=-w.step_ns), "not on the grid"),
        (lambda w: meter(w, last_uj=1), "first + energy + late is not last"),
        (lambda w: meter(w, energy_uj=-1, last_uj=4), "negative"),
        (lambda w: meter(w, energy_uj=1, late_uj=-1, last_uj=5), "negative"),
        (lambda w: meter(w, rejected_uj=-1), "negative"),
        (lambda w: meter(w, gaps_ns={"hung": -1}), "negative"),
        (lambda w: meter(w, activity_ns={"e": -1}), "negative"),
        (lambda w: meter(w, covered_ns=w.step_ns + 1), "covered"),
        (lambda w: meter(w, covered_ns=-1), "covered"),
        (lambda w: meter(w, covered_ns=5, interpolated_ns=6), "covered"),
        (lambda w: engine(w, covered_ns=w.step_ns + 1), "covered"),
        (lambda w: engine(w, running_end=-1), "negative"),
        (lambda w: engine(w, restarts=-1), "negative"),
        (lambda w: work(w, counts=Counts(output_tokens=-1)), "negative count of model 'm'"),
        (lambda w: work(w, late=Counts(requests_ok=-1)), "negative count"),
        (lambda w: work(w, latency={"e2e": {99: 1}}), "outside of the grid"),
        (lambda w: work(w, latency={"e2e": {1: -1}}), "outside of the grid"),
        (lambda w: declared(w, devices=(Reservation("m", -1),)), "reservation"),
        (lambda w: declared(w, devices=(Reservation("m", 2_000_000),)), "reservation"),
        (lambda w: msgspec.structs.replace(w, meters=w.meters * 2), "two have one id"),
        (lambda w: msgspec.structs.replace(w, engines=w.engines * 2), "two have one id"),
        (lambda w: msgspec.structs.replace(w, meters=w.meters * 257), "257 meters; at most 256"),
        (lambda w: msgspec.structs.replace(w, engines=w.engines * 65), "65 engines; at most 64"),
        (lambda w: msgspec.structs.replace(w, labels={f"l{n}": "" for n in range(17)}), "17 labels; at most 16"),
        (lambda w: msgspec.structs.replace(w, labels={"a b": ""}), "is no name"),
        (lambda w: msgspec.structs.replace(w, labels={'a"': ""}), "is no name"),
        (lambda w: engine(w, work=tuple(Work(key=WorkKey(str(n))) for n in range(257))), "257 models and tenants"),
        (lambda w: msgspec.structs.replace(w, facts={"driver": "x" * 257}), "257 characters"),
        (lambda w: msgspec.structs.replace(w, server="x" * 300), "window.server: 300 characters"),
        (lambda w: meter(w, gauges={"t": float("nan")}), "not a finite number"),
        (lambda w: meter(w, first_uj=2**63 - 1, energy_uj=1, last_uj=2**63), "64 bits"),
        (lambda w: meter(w, trace_mw=(1,) * 513), "513 entries"),
        (lambda w: msgspec.structs.replace(w, losses=Losses(seconds=-1.0)), "seconds: negative"),
        (lambda w: msgspec.structs.replace(w, agent=AgentCost(cpu_ns=-1)), "cpu_ns: negative"),
        (lambda w: msgspec.structs.replace(w, agent=AgentCost(clock_error_ns=-1)), "clock_error_ns: negative"),
    ],
)
def test_a_malformed_window_is_refused_with_what_is_wrong(
    a_window: AWindow, spoil: Callable[[Window], Window], said: str
) -> None:
    with pytest.raises(Refused, match="malformed") as refused:
        judge(spoil(a_window()), 0, LATE)
    assert said in refused.value.detail


def test_a_clock_may_be_behind(a_window: AWindow) -> None:
    judge(a_window(agent=AgentCost(clock_ahead_ns=-5, clock_error_ns=1)), 0, LATE)


@pytest.mark.parametrize("name", sorted(RESERVED_TAGS))
def test_a_label_may_not_take_the_name_of_a_tag(a_window: AWindow, name: str) -> None:
    with pytest.raises(Refused, match=f"'{name}' is a tag of its own"):
        judge(a_window(labels={name: "x"}), 0, LATE)


def test_the_start_must_lie_between_the_two_instants(a_window: AWindow, start_ns: int) -> None:
    judge(a_window(), start_ns, start_ns)
    with pytest.raises(Refused) as old:
        judge(a_window(), start_ns + 1, LATE)
    with pytest.raises(Refused) as early:
        judge(a_window(), 0, start_ns - 1)
    assert (old.value.code, early.value.code) == ("too_old", "too_early")
    assert old.value.start_ns == early.value.start_ns == start_ns


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(-3, 3))
def test_only_counters_that_agree_with_themselves_pass(first: int, energy: int, late: int, off: int) -> None:
    declared = Meter(id="m", kind="server", grade="counter", sensor_class="platform")
    last = first + energy + late + off
    told = MeterWindow(meter=declared, first_uj=first, energy_uj=energy, late_uj=late, last_uj=last)
    spoiled = Window(server="a", timeline=1, start_ns=0, step_ns=60 * NS_PER_S, meters=(told,))
    assert (list(faults(spoiled)) == []) == (off == 0)


def test_the_bounds_take_a_large_server(a_window: AWindow) -> None:
    one = a_window()
    meters = tuple(
        msgspec.structs.replace(one.meters[0], meter=msgspec.structs.replace(one.meters[0].meter, id=f"m{n}"))
        for n in range(bounds.MAX_METERS)
    )
    engines = tuple(EngineWindow(engine=Engine(id=f"e{n}", software="s")) for n in range(bounds.MAX_ENGINES))
    judge(msgspec.structs.replace(one, meters=meters, engines=engines), 0, LATE)
