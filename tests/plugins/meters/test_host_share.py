"""What a host draws beside its accelerators, at instants between the readings of its meters."""

from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import Meter
from joulefleet.reading import MeterReading
from joulefleet.units import NS_PER_S, j_to_uj, mw_ns_to_uj, s_to_ns, w_to_mw
from joulefleet_plugins.meters.host_share import KEPT, HostShare

PACKAGE = Meter(
    id="package-0",
    kind="cpu_package",
    grade="counter",
    sensor_class="onboard",
    resolution_uj=62,
    refresh_ns=1_000_000,
    max_power_mw=w_to_mw(400),
)
RAIL = Meter(
    id="rail", kind="dram", grade="integrated", sensor_class="onboard", max_power_mw=w_to_mw(100), refresh_ns=NS_PER_S
)


def counted(share: HostShare, at_s: float, energy_j: float, epoch: str = "") -> None:
    share.feed(MeterReading(meter="package-0", counter_uj=j_to_uj(energy_j), epoch=epoch), s_to_ns(at_s))


def gauged(share: HostShare, at_s: float, power_w: float) -> None:
    share.feed(MeterReading(meter="rail", power_mw=w_to_mw(power_w)), s_to_ns(at_s))


def test_a_constant_is_known_at_every_instant() -> None:
    share = HostShare(w_to_mw(400))
    assert share.power_mw(7) == 400_000
    assert share.used_uj(s_to_ns(10)) == j_to_uj(4_000)


@given(st.integers(0, 10**7), st.integers(0, 2**62), st.integers(0, 2**40))
def test_a_constant_telescopes(constant_mw: int, start_ns: int, length_ns: int) -> None:
    share = HostShare(constant_mw)
    used_uj = (share.used_uj(start_ns + length_ns) or 0) - (share.used_uj(start_ns) or 0)
    assert abs(used_uj - mw_ns_to_uj(constant_mw * length_ns)) <= 1


def test_between_two_readings_of_a_counter_it_runs_straight() -> None:
    share = HostShare(w_to_mw(10), (PACKAGE,))
    counted(share, 1, 1_000)
    assert share.used_uj(s_to_ns(1)) is None
    counted(share, 2, 1_200)
    assert share.power_mw(s_to_ns(1.5)) == 210_000
    from_uj, to_uj = share.used_uj(s_to_ns(1.25)), share.used_uj(s_to_ns(1.75))
    assert from_uj is not None
    assert to_uj is not None
    assert to_uj - from_uj == j_to_uj(105)


def test_nothing_is_known_before_and_after_the_readings() -> None:
    share = HostShare(0, (PACKAGE,))
    for second in range(KEPT + 10):
        counted(share, second, second * 100)
    assert share.power_mw(s_to_ns(KEPT + 9.5)) is None
    assert share.power_mw(s_to_ns(KEPT + 9)) == 100_000
    assert share.power_mw(s_to_ns(5)) is None, "what is old is let go"


def test_gauges_and_counters_add_up_and_both_have_to_be_known() -> None:
    share = HostShare(0, (PACKAGE, RAIL))
    counted(share, 0, 0)
    gauged(share, 0, 20)
    counted(share, 1, 100)
    assert share.power_mw(s_to_ns(1)) is None
    gauged(share, 1, 40)
    assert share.power_mw(s_to_ns(1)) == 130_000


def test_a_gap_of_one_is_a_new_life_and_nothing_of_before_counts() -> None:
    share = HostShare(0, (PACKAGE,))
    counted(share, 0, 0)
    counted(share, 1, 100)
    lives = share.lives
    counted(share, 2, 5, epoch="boot")
    assert share.lives == lives + 1
    assert share.power_mw(s_to_ns(1)) is None
    counted(share, 3, 105, epoch="boot")
    assert share.power_mw(s_to_ns(2.5)) == 100_000


def test_what_other_meters_say_is_passed_over() -> None:
    share = HostShare(w_to_mw(5))
    counted(share, 0, 0)
    counted(share, 1, 100)
    assert share.power_mw(s_to_ns(1)) == 5_000
