"""What meters and engines say, and what the faulty ones do."""

from collections.abc import Callable

import pytest

from joulefleet.reading import Failure, MeterReading, Reading, WorkReading
from joulefleet.units import NS_PER_S
from joulefleet_agent.simulate.roster import SimServer
from joulefleet_agent.simulate.sensors import Sensors

FleetOf = Callable[..., list[SimServer]]
BEGIN_S = 1_767_225_600
ENGINE = "vllm@127.0.0.1:8000"


def said(server: SimServer, subject: str, second: int) -> Reading:
    for one in Sensors(server).read((BEGIN_S + second) * NS_PER_S):
        if subject in (getattr(one, "meter", ""), getattr(one, "engine", ""), getattr(one, "subject", "")):
            return one
    raise AssertionError(subject)


def counter(server: SimServer, subject: str, second: int) -> int:
    one = said(server, subject, second)
    assert isinstance(one, MeterReading)
    assert one.counter_uj is not None
    return one.counter_uj


def requests(server: SimServer, second: int) -> int:
    one = said(server, ENGINE, second)
    assert isinstance(one, WorkReading)
    return sum(counts.requests_ok or 0 for counts in one.counts.values())


def with_fault(fleet: FleetOf, kind: str, subject: str) -> SimServer:
    """One with a fault from the first hour on, for a quarter of an hour."""
    fault = {"kind": kind, "server": "sim-0001", "subject": subject, "at_h": 1, "for_h": 0.25}
    return fleet(servers=1, faults=[fault])[0]


def test_all_meters_and_the_engine_speak_at_one_instant(fleet: FleetOf) -> None:
    for server in fleet(servers=12):
        readings = Sensors(server).read(BEGIN_S * NS_PER_S)
        assert [getattr(one, "meter", ENGINE) for one in readings] == [
            *(device.meter.id for device in server.chassis.metered),
            ENGINE,
        ]
        assert {getattr(one, "at_ns", None) for one in readings} == {BEGIN_S * NS_PER_S}


def test_power_is_the_slope_of_the_counter(fleet: FleetOf) -> None:
    (server,) = fleet(servers=1)
    for device in server.chassis.metered:
        one = said(server, device.meter.id, 100)
        assert isinstance(one, MeterReading)
        rise_uj = counter(server, device.meter.id, 110) - counter(server, device.meter.id, 100)
        assert one.power_mw == pytest.approx(rise_uj / 10_000, abs=1)


def test_a_meter_of_power_only_has_no_counter(fleet: FleetOf) -> None:
    server = fleet(servers=8)[5]
    one = said(server, "psu", 100)
    assert isinstance(one, MeterReading)
    assert one.counter_uj is None
    assert one.power_mw


@pytest.mark.parametrize(("kind", "code"), [("gap", "read_failed"), ("hung", "hung")])
@pytest.mark.parametrize("subject", ["board-3", "psu", ENGINE])
def test_a_silent_one_fails_and_comes_back_as_if_nothing_had_been(
    fleet: FleetOf, kind: str, code: str, subject: str
) -> None:
    (plain,) = fleet(servers=1)
    server = with_fault(fleet, kind, subject)
    for second in (3600, 4490):
        failed = said(server, subject, second)
        assert isinstance(failed, Failure)
        assert failed.code == code
    for second in (3590, 4500):
        assert said(server, subject, second) == said(plain, subject, second)
    assert said(server, "board-4", 3600) == said(plain, "board-4", 3600)


def test_a_stuck_counter_stands_still_and_goes_on_from_there(fleet: FleetOf) -> None:
    (plain,) = fleet(servers=1)
    server = with_fault(fleet, "stuck", "board-3")
    at = counter(plain, "board-3", 3600)
    assert [counter(server, "board-3", second) for second in (3600, 4000, 4500)] == [at] * 3
    rise = counter(plain, "board-3", 5000) - counter(plain, "board-3", 4500)
    assert counter(server, "board-3", 5000) == at + rise
    still = said(server, "board-3", 4000)
    assert isinstance(still, MeterReading)
    assert still.power_mw, "its gauge goes on"


def test_a_reset_counter_begins_at_nothing(fleet: FleetOf) -> None:
    (plain,) = fleet(servers=1)
    server = with_fault(fleet, "reset", "board-3")
    assert counter(server, "board-3", 3590) == counter(plain, "board-3", 3590)
    assert counter(server, "board-3", 3600) == 0
    assert counter(server, "board-3", 3700) == counter(plain, "board-3", 3700) - counter(plain, "board-3", 3600)


def test_an_engine_that_began_anew_counts_from_nothing(fleet: FleetOf) -> None:
    (plain,) = fleet(servers=1)
    server = with_fault(fleet, "reset", ENGINE)
    assert requests(server, 3600) == 0
    assert requests(server, 5400) == pytest.approx(requests(plain, 5400) - requests(plain, 3600), abs=3)


def test_an_engine_whose_page_stands_still_goes_on_from_there(fleet: FleetOf) -> None:
    (plain,) = fleet(servers=1)
    server = with_fault(fleet, "stuck", ENGINE)
    assert requests(server, 4200) == requests(plain, 3600) > 0
    missed = requests(plain, 4500) - requests(plain, 3600)
    assert requests(server, 5400) == pytest.approx(requests(plain, 5400) - missed, abs=3)


def test_a_counter_may_be_stuck_and_reset_as_well(fleet: FleetOf) -> None:
    fault = {"server": "sim-0001", "subject": "board-3"}
    faults = [
        {**fault, "kind": "stuck", "at_h": 0.5, "for_h": 0.5},
        {**fault, "kind": "reset", "at_h": 0.75},
        {**fault, "kind": "stuck", "at_h": 1.5, "for_h": 0.1},
    ]
    (server,), (plain,) = fleet(servers=1, faults=faults), fleet(servers=1)
    assert [counter(server, "board-3", second) for second in (2700, 3000, 3600)] == [0, 0, 0]
    rise = counter(plain, "board-3", 5400) - counter(plain, "board-3", 3600)
    assert counter(server, "board-3", 5500) == rise
