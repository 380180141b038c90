"""A simulated server's meters: what they contain adds up, and boards differ as much as they may."""

from hypothesis import given
from hypothesis import strategies as st

from joulefleet_agent.simulate.catalogue import HARDWARE, Deployment, Hardware
from joulefleet_agent.simulate.devices import SERVER, Chassis, chassis_of, engine_of

S = 1_000_000_000
A8 = Hardware(name="A", rest_share=0.1)


def chassis(hardware: Hardware = A8, spread: float = 0.03, server: str = "a") -> Chassis:
    return chassis_of(hardware, server, seed=1, spread=spread, period_ns=S, peak_mw=4_000_000)


@given(st.integers(0, 10**16), st.integers(0, 10**16))
def test_the_servers_meter_is_its_parts_and_the_rest(elapsed_ns: int, dynamic_uj: int) -> None:
    whole = chassis()
    *parts, server = whole.energies_uj(elapsed_ns, dynamic_uj)
    rest_uj = 350_000 * elapsed_ns // 10**6 + dynamic_uj // 10
    assert server == sum(parts) + rest_uj
    assert len(parts) == 8 + 2 + 2


def test_without_work_there_is_idle_power_only() -> None:
    parts = chassis(spread=0.0).energies_uj(10 * S, 0)
    assert parts == [75 * 10 * 10**6] * 8 + [90 * 10 * 10**6] * 2 + [15 * 10 * 10**6] * 2 + [11_600_000_000]


def test_boards_differ_but_by_no_more_than_the_spread() -> None:
    boards = chassis(spread=0.03).parts[:8]
    assert len({board.share_ppm for board in boards}) > 1
    assert all(0.97 * 125_000 - 1 <= board.share_ppm <= 1.03 * 125_000 for board in boards)
    assert all(72_750 - 1 <= board.idle_mw <= 77_250 for board in boards)
    assert {board.share_ppm for board in chassis(spread=0.0).parts[:8]} == {125_000}


def test_servers_differ_and_the_same_one_does_not() -> None:
    assert chassis() == chassis()
    assert chassis(server="b").energies_uj(S, 10**9) != chassis().energies_uj(S, 10**9)


def test_boundaries_are_those_that_the_meters_tell() -> None:
    told = {hardware.name: set(chassis(hardware).boundaries()) for hardware in HARDWARE}
    assert told["SIM-A8"] == {"accelerator", "compute", "server"}
    assert told["SIM-D8"] == {"accelerator", "compute"}
    assert set(chassis(Hardware(name="x", cpu_packages=0, dram_domains=0)).boundaries()) == {"accelerator", "server"}


def test_what_is_declared_can_hold_what_happens() -> None:
    for hardware in HARDWARE:
        for device in chassis(hardware).metered:
            assert device.power_mw(4_000_000) <= device.meter.max_power_mw
            assert device.meter.simulated
            assert device.meter.idle_mw == device.idle_mw
            assert device.meter.inside == (
                "" if hardware.server_meter == "none" or device.meter.id == SERVER else SERVER
            )


def test_the_engine_holds_all_boards() -> None:
    engine = engine_of(Deployment(pool="p", hardware="A", model="m", software="sglang"), chassis(), S)
    assert [one.meter for one in engine.devices] == [f"board-{k}" for k in range(8)]
    assert (engine.id, engine.software, engine.simulated) == ("sglang@127.0.0.1:8000", "sglang", True)
