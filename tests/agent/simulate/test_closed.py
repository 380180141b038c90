"""The fast way: the same windows as through the cutter, and changes that reach what they name and nothing else."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from joulefleet.units import NS_PER_S
from joulefleet.window import EngineWindow, MeterWindow, Window
from joulefleet_agent.simulate.closed import closed
from joulefleet_agent.simulate.cutting import cut
from joulefleet_agent.simulate.roster import SimServer

FleetOf = Callable[..., list[SimServer]]


def both(server: SimServer) -> tuple[list[Window], list[Window]]:
    span = server.scenario.begin_ns, server.scenario.end_ns
    return list(closed(server, 1, *span)), list(cut(server, 1, *span))


def fast(server: SimServer) -> list[Window]:
    return list(closed(server, 1, server.scenario.begin_ns, server.scenario.end_ns))


def comparable(window: Window, traced: bool) -> Window:
    """Without what the two ways integrate differently, and without what is tested apart."""
    meters = tuple(_plain(one, traced) for one in window.meters if one.meter.grade == "counter")
    return msgspec.structs.replace(window, meters=meters, engines=tuple(map(_plain_engine, window.engines)))


def _plain(one: MeterWindow, traced: bool) -> MeterWindow:
    return msgspec.structs.replace(one, gauge_uj=0, trace_mw=one.trace_mw if traced else (), states=())


def _plain_engine(one: EngineWindow) -> EngineWindow:
    work = tuple(msgspec.structs.replace(each, latency={}) for each in one.work)
    return msgspec.structs.replace(one, running_ns=0, work=work)


@pytest.mark.parametrize("step_s", [10, 30, 60, 600])
@pytest.mark.parametrize("number", [0, 2, 5, 7])
def test_it_agrees_with_the_cutter(fleet: FleetOf, step_s: int, number: int) -> None:
    changes = [{"kind": "release", "at_h": 1 / 6, "energy_pct": 7, "version": "0.10.0"}]
    server = fleet(servers=8, step_s=step_s, days=1 / 36, changes=changes)[number]
    quick, slow = both(server)
    traced = step_s <= 60
    assert [comparable(window, traced) for window in quick] == [comparable(window, traced) for window in slow]
    for one, other in zip(quick, slow, strict=True):
        for meter, its_meter in zip(one.meters, other.meters, strict=True):
            assert meter.gauge_uj == pytest.approx(its_meter.gauge_uj, rel=0.05)
            assert meter.energy_uj == pytest.approx(its_meter.energy_uj, rel=0.05)
        for engine, its_engine in zip(one.engines, other.engines, strict=True):
            assert engine.running_ns == pytest.approx(its_engine.running_ns, rel=0.1)
            assert [_requests(work.latency) for work in engine.work] == [_requests(w.latency) for w in its_engine.work]


def _requests(latency: dict[str, dict[int, int]]) -> dict[str, int]:
    return {kind: sum(cells.values()) for kind, cells in latency.items()}


def test_requests_have_the_latency_of_their_model(fleet: FleetOf) -> None:
    (work, *_) = fast(fleet(servers=1)[0])[0].engines[0].work
    # 10 s and 0.7 s on a grid of eight cells a decade from 1 ms.
    assert work.latency == {"e2e": {32: work.counts.requests_ok}, "ttft": {23: work.counts.requests_ok}}


def test_the_same_window_comes_again_to_the_byte(fleet: FleetOf) -> None:
    one, again, other = ([window.encode() for window in fast(fleet(servers=3, seed=seed)[2])] for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_windows_longer_than_a_minute_have_no_trace(fleet: FleetOf) -> None:
    for step_s, cells in ((10, 1), (60, 6), (600, 0)):
        made = fast(fleet(servers=1, step_s=step_s)[0])
        assert {len(meter.trace_mw) for window in made for meter in window.meters} == {cells}


def dynamic_uj(window: Window) -> int:
    return sum(one.energy_uj - (one.idle_mw or 0) * window.step_ns // 10**6 for one in window.meters)


def changed(fleet: FleetOf, **change: Any) -> list[tuple[SimServer, list[Window], list[Window]]]:
    """Every server with its windows without and with a change after one of two hours."""
    before = fleet(servers=8)
    after = fleet(servers=8, changes=[{"at_h": 1, **change}])
    return [(one, fast(one), fast(other)) for one, other in zip(before, after, strict=True)]


def test_a_regression_changes_only_dynamic_energy_of_whom_it_names(fleet: FleetOf) -> None:
    for server, plain, worse in changed(fleet, energy_pct=8, model="sim-70b"):
        named = server.model.name == "sim-70b"
        middle_ns = server.scenario.begin_ns + 3_600 * NS_PER_S
        for one, other in zip(plain, worse, strict=True):
            assert [engine.work for engine in one.engines] == [engine.work for engine in other.engines]
            assert [meter.idle_mw for meter in one.meters] == [meter.idle_mw for meter in other.meters]
            assert one.engines[0].engine.version == other.engines[0].engine.version
            factor = 1.08 if named and one.start_ns >= middle_ns else 1
            assert dynamic_uj(other) == pytest.approx(factor * dynamic_uj(one), rel=1e-5 if named else 0)


def test_a_straggler_is_one_server_alone(fleet: FleetOf) -> None:
    for server, plain, slow in changed(fleet, kind="straggler", energy_pct=15, server="sim-0002"):
        ratio = sum(map(dynamic_uj, slow[60:])) / sum(map(dynamic_uj, plain[60:]))
        assert ratio == pytest.approx(1.15 if server.name == "sim-0002" else 1, rel=1e-5)


def test_a_change_may_end(fleet: FleetOf) -> None:
    for _, plain, other in changed(fleet, energy_pct=-20, until_h=1.5):
        factors = [dynamic_uj(b) / dynamic_uj(a) for a, b in zip(plain, other, strict=True)]
        assert factors == pytest.approx([1] * 60 + [0.8] * 30 + [1] * 30, rel=1e-5)
