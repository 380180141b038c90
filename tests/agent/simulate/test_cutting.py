"""Through the real cutter: sums are the truth, and what went wrong is told as late, uncovered or refused."""

from collections.abc import Callable, Iterable
from itertools import groupby, pairwise

import pytest

from joulefleet.reading import COUNT_FIELDS
from joulefleet.units import NS_PER_S
from joulefleet.window import MeterWindow, Window
from joulefleet_agent.simulate.cutting import cut
from joulefleet_agent.simulate.roster import SimServer
from joulefleet_agent.simulate.truth import truth_of

FleetOf = Callable[..., list[SimServer]]
BEGIN_S = 1_767_225_600
ENGINE = "vllm@127.0.0.1:8000"


def windows(server: SimServer) -> list[Window]:
    return list(cut(server, 1, server.scenario.begin_ns, server.scenario.end_ns))


def of_meter(several: Iterable[Window], meter: str) -> list[MeterWindow]:
    return [one for window in several for one in window.meters if one.meter.id == meter]


def energy_uj(several: Iterable[Window], meter: str) -> int:
    return sum(one.energy_uj + one.late_uj for one in of_meter(several, meter))


def work(several: Iterable[Window], field: str) -> int:
    works = (work for window in several for engine in window.engines for work in engine.work)
    return sum((getattr(one.counts, field) or 0) + (getattr(one.late, field) or 0) for one in works)


def one_server(fleet: FleetOf, **changes: object) -> SimServer:
    return fleet(servers=1, **changes)[0]


def fault(kind: str, subject: str = "board-3", **changes: object) -> dict[str, object]:
    return {"kind": kind, "server": "sim-0001", "subject": subject, "at_h": 1, "for_h": 0.25, **changes}


def at_s(window: Window) -> int:
    return window.start_ns // NS_PER_S - BEGIN_S


@pytest.mark.parametrize("step_s", [10, 60, 600])
def test_windows_add_up_to_the_truth_exactly(fleet: FleetOf, step_s: int) -> None:
    for server in fleet(servers=8, step_s=step_s, days=1 / 72)[::3]:
        truth, made = truth_of(server), windows(server)
        assert len(made) == 1_200 // step_s
        for device in server.chassis.metered:
            measured_uj, true_uj = energy_uj(made, device.meter.id), truth.meters_uj[device.meter.id]
            # An integral of power is as good as its readings; a counter is exact.
            assert measured_uj == pytest.approx(true_uj, rel=1e-3) if device.meter.grade == "integrated" else true_uj
        for field in ("requests_ok", "prompt_tokens", "output_tokens"):
            assert work(made, field) == getattr(truth, field)


def test_windows_follow_one_another_whole_and_marked(fleet: FleetOf) -> None:
    made = windows(one_server(fleet))
    assert [at_s(window) for window in made] == list(range(0, 7_200, 60))
    for before, after in pairwise(made):
        assert [one.last_uj for one in before.meters] == [one.first_uj for one in after.meters]
    for window in made:
        assert window.simulated
        assert all(one.covered_ns == window.step_ns for one in (*window.meters, *window.engines))


@pytest.mark.parametrize("kind", ["gap", "hung"])
def test_what_a_silent_meter_counted_comes_late(fleet: FleetOf, kind: str) -> None:
    server = one_server(fleet, faults=[fault(kind)])
    made = windows(server)
    assert energy_uj(made, "board-3") == truth_of(server).meters_uj["board-3"]
    late = [(at_s(window), one.late_uj) for window in made for one in window.meters if one.late_uj]
    assert [second for second, _ in late] == [4_440], "the window that is open when it speaks again"
    silent = [window for window in made if 3_660 <= at_s(window) < 4_440]
    assert {one.covered_ns for one in of_meter(silent, "board-3")} == {0}
    assert all(one.gaps_ns for one in of_meter(silent, "board-3"))
    assert energy_uj(made, "board-4") == truth_of(server).meters_uj["board-4"]


def test_what_a_stuck_counter_missed_is_missing_and_uncovered(fleet: FleetOf) -> None:
    server = one_server(fleet, faults=[fault("stuck", for_h=0.15)])
    plain, made = windows(one_server(fleet)), windows(server)
    missed_uj = energy_uj([window for window in plain if 3_600 <= at_s(window) < 4_140], "board-3")
    assert energy_uj(made, "board-3") == pytest.approx(truth_of(server).meters_uj["board-3"] - missed_uj, rel=1e-6)
    assert any("stuck" in one.gaps_ns for one in of_meter(made, "board-3"))
    assert sum(one.covered_ns for one in of_meter(made, "board-3")) < 7_200 * NS_PER_S * 0.95


def test_of_a_counter_that_is_stuck_for_long_the_gauge_is_told(fleet: FleetOf) -> None:
    server = one_server(fleet, faults=[fault("stuck", for_h=0.5)])
    plain, made = windows(one_server(fleet)), windows(server)
    told, true = of_meter(made, "board-3"), of_meter(plain, "board-3")
    grades = [one.meter.grade for one in told]
    assert [grade for grade, _ in groupby(grades)] == ["counter", "integrated", "counter"]
    assert 19 <= grades.count("integrated") <= 25
    for one, other in zip(told, true, strict=True):
        assert ("stuck" in one.states) == (one.meter.grade == "integrated")
        assert one.energy_uj <= other.energy_uj * 1.02 and not one.late_uj
        assert one.covered_ns == 60 * NS_PER_S or one.meter.grade == "counter"
    assert told[-1].energy_uj == true[-1].energy_uj


def test_a_reset_costs_one_pair_of_readings(fleet: FleetOf) -> None:
    server = one_server(fleet, faults=[fault("reset")])
    made = windows(server)
    assert sum(one.gaps_ns.get("reset", 0) for one in of_meter(made, "board-3")) == 10 * NS_PER_S
    lost_uj = truth_of(server).meters_uj["board-3"] - energy_uj(made, "board-3")
    assert lost_uj == pytest.approx(truth_of(server).meters_uj["board-3"] * 10 / 7_200, rel=0.3)


def test_an_engine_that_began_anew_says_so(fleet: FleetOf) -> None:
    made = windows(one_server(fleet, faults=[fault("reset", ENGINE)]))
    assert [at_s(window) for window in made if any(engine.restarts for engine in window.engines)] == [3_600]


def test_an_outage_of_an_hour_is_told_late_and_none_of_it_is_lost(fleet: FleetOf) -> None:
    server = one_server(fleet, outages=[{"server": "sim-0001", "at_h": 0.5, "for_h": 1.25}])
    truth, made = truth_of(server), windows(server)
    assert {meter: energy_uj(made, meter) for meter in truth.meters_uj} == truth.meters_uj
    assert [work(made, field) for field in COUNT_FIELDS[:1]] == [truth.requests_ok]
    # It ends at 6,300 s; what lies more than an hour before that is late, the rest is cut, its place uncertain.
    assert [at_s(window) for window in made] == [*range(0, 1_800, 60), *range(2_700, 7_200, 60)]
    assert sum(one.late_uj for one in of_meter(made, "psu")) > 0
    assert sum(one.interpolated_ns for one in of_meter(made, "psu")) >= 3_600 * NS_PER_S


def test_a_release_changes_the_version_at_its_instant(fleet: FleetOf) -> None:
    changes = [{"kind": "release", "at_h": 1, "energy_pct": 10, "version": "0.10.0"}]
    made = windows(one_server(fleet, changes=changes))
    versions = {at_s(window): window.engines[0].engine.version for window in made}
    assert (versions[3_540], versions[3_600]) == ("0.9.0", "0.10.0")
    assert [at_s(window) for window in made if window.facts] == [0, 3_600]
