"""Reading the numbers of a window alone: as much as the whole, and as strict."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.reading import Counts, WorkKey
from joulefleet.window import SCHEMA, AgentCost, EngineWindow, Losses, MeterWindow, Window, Work
from joulefleet_collector.account import skim as module
from joulefleet_collector.account.skim import UNKNOWN, digest, head, skim


def four(build: SimpleNamespace, **changed: Any) -> Window:
    meters = [build.meter(name, 600.0, idle_w=70) for name in ("gpu0", "gpu1")]
    engines = [build.engine("e", ["gpu0", "gpu1"], [build.work(output_tokens=5)])]
    window = build.window(meters, engines, labels={"rack": "r1"}, facts={"driver": "1"})
    return msgspec.structs.replace(window, **changed)


@pytest.mark.parametrize(
    ("skimmed", "whole"),
    [
        (module.Skimmed, Window),
        (module.SkimmedMeter, MeterWindow),
        (module.SkimmedEngine, EngineWindow),
        (module.SkimmedWork, Work),
        (module.SkimmedCounts, Counts),
        (module.SkimmedLosses, Losses),
        (module.SkimmedCost, AgentCost),
    ],
)
def test_no_field_is_forgotten(skimmed: type[msgspec.Struct], whole: type[msgspec.Struct]) -> None:
    assert skimmed.__struct_fields__ == whole.__struct_fields__


def test_it_reads_the_schema_that_windows_are_written_in(build: SimpleNamespace) -> None:
    assert skim(four(build, schema=SCHEMA).encode()) is not None
    assert skim(four(build, schema=SCHEMA + 1).encode()) is None


def test_numbers_are_those_of_the_window_and_what_is_not_told_is_unknown(build: SimpleNamespace) -> None:
    window = four(build)
    found = skim(window.encode())
    assert found is not None
    assert [one.energy_uj for one in found.meters] == [one.energy_uj for one in window.meters]
    assert found.engines[0].work[0].counts.output_tokens == 5
    assert found.engines[0].work[0].counts.requests_ok == UNKNOWN
    assert (head(found).key, head(found).end_ns) == (window.key, window.end_ns)


def changed_meter(window: Window, **changed: Any) -> Window:
    first = msgspec.structs.replace(window.meters[0], **changed)
    return msgspec.structs.replace(window, meters=(first, *window.meters[1:]))


def changed_engine(window: Window, **changed: Any) -> Window:
    return msgspec.structs.replace(window, engines=(msgspec.structs.replace(window.engines[0], **changed),))


METER_FAULTS: list[dict[str, Any]] = [
    {"energy_uj": -1, "last_uj": -1},
    {"last_uj": 5},
    {"covered_ns": 61 * 10**9},
    {"interpolated_ns": 61 * 10**9},
    {"idle_mw": -1},
    {"gaps_ns": {"hung": -1}},
    {"gaps_ns": {"x" * 300: 1}},
    {"gauges": {"temperature_c": float("inf")}},
    {"activity_ns": {"e": -1}},
    {"gauges": {"temperature_c": float("nan")}},
    {"trace_mw": (1,) * 600},
    {"trace_mw": (2**63,)},
    {"rejected_uj": 2**60},
]
ENGINE_FAULTS: list[dict[str, Any]] = [
    {"covered_ns": 61 * 10**9},
    {"running_ns": -5},
    {"restarts": -1},
    {"work": (Work(key=WorkKey("m"), counts=Counts(output_tokens=-1)),)},
]
WINDOW_FAULTS: list[dict[str, Any]] = [
    {"start_ns": 5},
    {"losses": Losses(seconds=-1.0)},
    {"losses": Losses(seconds=float("nan"))},
    {"agent": AgentCost(cpu_ns=-1)},
    {"agent": AgentCost(clock_error_ns=-1)},
]


@pytest.mark.parametrize("fault", METER_FAULTS, ids=str)
def test_a_meter_that_would_be_refused_is_not_skimmed(build: SimpleNamespace, fault: dict[str, Any]) -> None:
    assert skim(changed_meter(four(build), **fault).encode()) is None


@pytest.mark.parametrize("fault", ENGINE_FAULTS, ids=["covered", "running", "restarts", "counts"])
def test_an_engine_that_would_be_refused_is_not_skimmed(build: SimpleNamespace, fault: dict[str, Any]) -> None:
    assert skim(changed_engine(four(build), **fault).encode()) is None


@pytest.mark.parametrize("fault", WINDOW_FAULTS, ids=str)
def test_a_window_that_would_be_refused_is_not_skimmed(build: SimpleNamespace, fault: dict[str, Any]) -> None:
    assert skim(four(build, **fault).encode()) is None


def test_a_clock_that_is_behind_is_skimmed_and_one_that_is_months_off_is_read_whole(build: SimpleNamespace) -> None:
    behind = skim(four(build, agent=AgentCost(clock_ahead_ns=-5)).encode())
    assert behind is not None and behind.agent.clock_ahead_ns == -5
    assert skim(four(build, agent=AgentCost(clock_ahead_ns=-(2**54))).encode()) is None


def test_a_none_that_is_spelt_out_is_read_whole(build: SimpleNamespace) -> None:
    told = msgspec.to_builtins(four(build))
    told["engines"][0]["running_ns"] = None
    assert skim(msgspec.msgpack.encode(told)) is None


@given(body=st.binary(max_size=200))
def test_any_bytes_are_skimmed_or_not(body: bytes) -> None:
    assert skim(body) is None


def test_a_window_cut_anywhere_is_not_skimmed(build: SimpleNamespace) -> None:
    whole = four(build).encode()
    assert all(skim(whole[:cut]) is None for cut in range(len(whole)))


def mark(window: Window) -> bytes:
    found = skim(window.encode())
    assert found is not None
    return digest(found)


def test_windows_that_differ_in_numbers_alone_have_one_digest(build: SimpleNamespace) -> None:
    window = four(build)
    later = msgspec.structs.replace(window, start_ns=window.start_ns + window.step_ns, agent=AgentCost(cpu_ns=7))
    assert mark(changed_meter(later, energy_uj=5, last_uj=5, gauges={"x_pct": 1.0})) == mark(window)
    assert mark(changed_engine(later, running_start=3)) == mark(window)


def test_anything_else_changes_the_digest(build: SimpleNamespace) -> None:
    window = four(build)
    board, other = window.meters
    engine = window.engines[0]
    others = [
        four(build, server="n2"),
        four(build, timeline=2),
        four(build, pool="p"),
        four(build, site="s"),
        four(build, hardware="h"),
        four(build, simulated=True),
        four(build, labels={"rack": "r2"}),
        four(build, facts={"driver": "2"}),
        four(build, meters=(other, board)),
        four(build, meters=(board,)),
        changed_meter(window, meter=msgspec.structs.replace(board.meter, hw_model="B200")),
        changed_engine(window, engine=msgspec.structs.replace(engine.engine, version="2")),
        changed_engine(window, work=()),
        changed_engine(window, work=(build.work("other", output_tokens=5),)),
        changed_engine(window, work=(build.work(tenant="t", output_tokens=5),)),
    ]
    assert len({mark(one) for one in [window, *others]}) == 1 + len(others)
