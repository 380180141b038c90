"""What a server's input leaves for its accelerators, from counters and from gauges."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from joulefleet.counter import Rules
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet.units import NS_PER_S, mw_ns_to_uj, s_to_ns, w_to_mw
from joulefleet_plugins.meters.host_share import HostShare
from joulefleet_plugins.meters.remainder import NEGATIVE, TOLERANCE_NS, TOLERANCE_PARTS, Remainder

HOST_MW = w_to_mw(400)
SERVER = Meter(
    id="bmc",
    kind="server",
    grade="counter",
    sensor_class="platform",
    resolution_uj=1,
    refresh_ns=NS_PER_S,
    max_power_mw=w_to_mw(4000),
)


def remainder(host_mw: int = HOST_MW, **server: object) -> Remainder:
    rules = Rules.of(Meter(**{**{name: getattr(SERVER, name) for name in SERVER.__struct_fields__}, **server}))
    return Remainder(meter="cards", host=HostShare(host_mw), rules=rules, life="L")


def power(server_w: float) -> Reading:
    return remainder().feed(MeterReading(meter="bmc", power_mw=w_to_mw(server_w), age_ns=7), 0)


def feed(left: Remainder, at_s: float, server_j: float, epoch: str = "") -> Reading:
    return left.feed(MeterReading(meter="bmc", counter_uj=round(server_j * 1e6), epoch=epoch), s_to_ns(at_s))


def counted(reading: Reading) -> int:
    assert isinstance(reading, MeterReading), reading
    assert reading.counter_uj is not None
    return reading.counter_uj


def test_a_gauge_less_the_host() -> None:
    assert power(2_000) == MeterReading(meter="cards", power_mw=1_600_000, age_ns=7, gauges={"residual_w": 1_600.0})


def test_a_little_less_than_nothing_is_nothing_and_shown() -> None:
    assert power(393) == MeterReading(meter="cards", power_mw=0, age_ns=7, gauges={"residual_w": -7.0})


def test_more_than_two_percent_below_nothing_is_a_failure() -> None:
    told = power(392)
    assert isinstance(told, Failure)
    assert (told.subject, told.code) == ("cards", NEGATIVE)
    assert "400 W" in told.detail
    assert "-8 W" in told.detail


def test_a_counter_less_the_host() -> None:
    left = remainder()
    told = [counted(feed(left, at_s, 1_000_000 + 1_000 * at_s)) for at_s in range(5)]
    assert [b - a for a, b in pairwise(told)] == [600_000_000] * 4


def test_counter_and_gauge_stand_side_by_side() -> None:
    left = remainder()
    for at_s in range(3):
        reading = MeterReading(meter="bmc", counter_uj=at_s * 10**9, power_mw=w_to_mw(1_000), epoch="b")
        told = left.feed(reading, s_to_ns(at_s))
    assert isinstance(told, MeterReading)
    assert (told.power_mw, told.counter_uj) == (600_000, 1_200_000_000)


def test_a_counter_that_has_not_moved_moves_nothing() -> None:
    left = remainder(refresh_ns=s_to_ns(10))
    feed(left, 0, 1_000)
    feed(left, 10, 11_000)
    assert counted(feed(left, 15, 11_000)) == counted(feed(left, 18, 11_000)) == 6_000_000_000
    assert counted(feed(left, 20, 21_000)) == 12_000_000_000


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(396, 3_000)), min_size=1, max_size=40),
    st.integers(0, 2**50),
)
def test_what_is_told_adds_up_to_server_less_host(steps: list[tuple[int, int]], start_uj: int) -> None:
    left = remainder()
    at_ns, server_uj, host_uj, highest_uj = 0, start_uj, 0, 0
    first = left.feed(MeterReading(meter="bmc", counter_uj=server_uj), at_ns)
    last = first
    for seconds, server_w in steps:
        at_ns += seconds * NS_PER_S
        server_uj += server_w * seconds * 10**6
        host_uj += 400 * seconds * 10**6
        last = left.feed(MeterReading(meter="bmc", counter_uj=server_uj), at_ns)
        highest_uj = max(highest_uj, server_uj - start_uj - host_uj)
    # Forty times 30 s at 4 W too little are what noise may be: 2 % of 400 W for ten minutes.
    assert counted(last) - counted(first) == highest_uj


def test_a_deficit_is_made_up_for_before_more_is_told() -> None:
    left = remainder()
    feed(left, 0, 0)
    assert counted(feed(left, 1, 1_000)) == 600_000_000
    assert counted(feed(left, 11, 4_000)) == 600_000_000
    assert counted(feed(left, 12, 5_400)) == 600_000_000
    assert counted(feed(left, 13, 6_400)) == 1_200_000_000


def test_a_deficit_that_lasts_is_a_failure_and_what_comes_after_is_not_charged_with_it() -> None:
    left = remainder()
    feed(left, 0, 0)
    limit_j = mw_ns_to_uj(HOST_MW * TOLERANCE_NS) // TOLERANCE_PARTS / 1e6
    seconds = int(limit_j / 100)
    within = feed(left, seconds, 300 * seconds)
    assert counted(within) == 0
    beyond = feed(left, seconds + 1, 300 * (seconds + 1))
    assert isinstance(beyond, Failure)
    assert beyond.code == NEGATIVE
    after = feed(left, seconds + 2, 300 * (seconds + 1) + 1_000)
    assert isinstance(after, MeterReading)
    assert isinstance(within, MeterReading)
    assert after.counter_uj == 600_000_000
    assert after.epoch != within.epoch


def test_a_counter_that_begins_anew_is_a_life_of_its_own() -> None:
    left = remainder()
    feed(left, 0, 5_000)
    before = feed(left, 1, 6_000)
    reset = feed(left, 2, 100)
    again = feed(left, 3, 1_100)
    for one in (before, reset, again):
        assert isinstance(one, MeterReading)
    assert (counted(before), counted(reset), counted(again)) == (600_000_000, 0, 600_000_000)
    assert len({one.epoch for one in (before, reset, again) if isinstance(one, MeterReading)}) == 2
    rebooted = feed(left, 4, 9_000, epoch="boot")
    assert counted(rebooted) == 0


def test_a_wrap_of_the_server_is_none_of_the_cards() -> None:
    left = remainder(modulus_uj=10**10)
    told = [counted(feed(left, at_s, (9_000 + 1_000 * at_s) % 10_000)) for at_s in range(4)]
    assert told[1:] == [600_000_000, 1_200_000_000, 1_800_000_000]


def test_a_leap_of_the_server_is_not_taken() -> None:
    left = remainder()
    feed(left, 0, 0)
    before, leap, after = feed(left, 1, 1_000), feed(left, 2, 10**9), feed(left, 3, 10**9 + 1_000)
    assert (counted(before), counted(leap), counted(after)) == (600_000_000, 0, 600_000_000)
