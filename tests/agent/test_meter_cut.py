"""One meter's readings in windows: what is told, what is late, what is left out."""

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import Meter
from joulefleet.reading import MeterReading
from joulefleet.window import MeterWindow, coarse
from joulefleet_agent.meter_cut import Health, MeterCut, uncovered

S = 1_000_000_000
J = 1_000_000
STEP = 30 * S
BOARD = Meter(
    id="gpu0", kind="accelerator", grade="counter", sensor_class="onboard", restarts_at_zero=True, max_power_mw=700_000
)
GAUGE = Meter(id="psu", kind="server", grade="integrated", sensor_class="platform", period_ns=5 * S)


def reading(t_s: int, joules: int | None = None, watts: int | None = None, **gauges: float) -> MeterReading:
    return MeterReading(
        meter="gpu0",
        at_ns=t_s * S,
        counter_uj=None if joules is None else joules * J,
        power_mw=None if watts is None else watts * 1_000,
        gauges=gauges,
    )


def fed(meter: Meter, *readings: MeterReading, since_s: int = 0) -> MeterCut:
    cut = MeterCut(meter=meter, since_ns=since_s * S)
    for one in readings:
        cut.feed(one, STEP, 0)
    return cut


def closed(cut: MeterCut, number: int) -> list[MeterWindow]:
    return [cut.close(k * STEP, STEP) for k in range(number)]


def test_a_gauge_is_integrated_and_far_readings_leave_a_gap() -> None:
    cut = fed(GAUGE, reading(0, watts=100), reading(10, watts=300), reading(20, watts=300), reading(60, watts=300))
    first, second = closed(cut, 2)
    assert (first.energy_uj, first.covered_ns) == (5_000 * J, 20 * S)
    assert first.gaps_ns == {"gap": 10 * S}
    assert (second.energy_uj, second.covered_ns, second.gaps_ns) == (0, 0, {"gap": 30 * S})
    assert first.trace_mw == (200_000, coarse(300_000), None)


def test_a_counter_leads_and_its_gauge_is_kept_beside_it() -> None:
    (window,) = closed(fed(BOARD, reading(0, 0, 500), reading(4, 1_900, 450), reading(8, 3_800, 500)), 1)
    assert window.energy_uj == 3_800 * J
    assert (window.gauge_uj, window.gauge_ns) == (3_800 * J, 8 * S)


def test_a_counter_that_is_missing_once_is_not_replaced_by_its_gauge() -> None:
    (window,) = closed(fed(BOARD, reading(0, 0, 500), reading(4, None, 500), reading(8, 3_000, 500)), 1)
    assert (window.energy_uj, window.covered_ns) == (3_000 * J, 8 * S)


def test_what_is_used_before_it_is_declared_is_not_told_and_nothing_of_it_stays() -> None:
    cut = fed(BOARD, reading(5, 0, 100, temperature_c=20.0), reading(10, 500, 100), reading(20, 9_000_000), since_s=30)
    assert not cut.parts
    cut.feed(reading(40, 9_002_000, 100, temperature_c=60.0), STEP, 30 * S)
    window = cut.close(30 * S, STEP)
    assert window.energy_uj == 1_000 * J
    assert window.last_uj - window.first_uj == 1_000 * J
    assert window.gauges == {"temperature_c": 60.0}
    assert window.rejected_uj == 0
    assert not cut.parts


def test_a_board_that_begins_anew_tells_a_gap_and_at_least_what_it_counted() -> None:
    (window,) = closed(fed(BOARD, reading(0, 500_000), reading(4, 503_000 - 502_000), reading(8, 2_000)), 1)
    assert window.gaps_ns == {"reset": 4 * S, "no_reading": 22 * S}
    assert window.lower_bound_uj == 1_000 * J
    assert window.energy_uj == 1_000 * J


def test_a_leap_is_rejected_and_counted() -> None:
    (window,) = closed(fed(BOARD, reading(0, 0), reading(4, 222_122_000), reading(8, 222_124_000)), 1)
    assert window.rejected_uj == 222_122_000 * J
    assert window.energy_uj == 2_000 * J
    assert window.gaps_ns["implausible"] == 4 * S


def test_gauges_are_means_over_the_readings() -> None:
    (window,) = closed(fed(BOARD, reading(0, 0, utilisation_pct=10.0), reading(4, 1, utilisation_pct=30.0)), 1)
    assert window.gauges == {"utilisation_pct": 20.0}


def test_what_comes_late_is_told_once_with_its_span() -> None:
    cut = fed(BOARD, reading(0, 0), reading(10, 1_000))
    cut.close(0, STEP)
    assert not cut.owes
    cut.feed(reading(20, 2_000), STEP, STEP)
    cut.feed(reading(40, 4_000), STEP, STEP)
    assert cut.owes
    window = cut.close(STEP, STEP)
    assert (window.late_uj, window.late_from_ns, window.late_to_ns) == (2_000 * J, 10 * S, 30 * S)
    assert (window.energy_uj, window.covered_ns) == (1_000 * J, 10 * S)
    assert not cut.owes
    assert cut.close(2 * STEP, STEP).late_uj == 0


def test_a_gap_in_time_that_is_closed_is_not_told_again() -> None:
    cut = fed(GAUGE, reading(0, watts=100))
    cut.close(0, STEP)
    cut.feed(reading(50, watts=100), STEP, STEP)
    assert cut.close(STEP, STEP).gaps_ns == {"gap": 20 * S, "no_reading": 10 * S}


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 900)), min_size=2, max_size=12), st.data())
def test_readings_that_come_twice_change_nothing_at_all(steps: list[tuple[int, int]], data: st.DataObject) -> None:
    """Refused ones and the gauges beside them included."""
    t, readings = 0, []
    for after_s, watts in steps:
        t += after_s
        readings.append(reading(t, None, watts, temperature_c=float(watts)))
    once = fed(GAUGE, *readings)
    until = data.draw(st.integers(1, len(readings)))
    again = fed(GAUGE, *readings[:until], *readings)
    number = t // 30 + 1
    assert closed(again, number) == closed(once, number)


@given(
    st.lists(st.tuples(st.integers(1, 70), st.integers(0, 10**4)), min_size=1, max_size=15),
    st.integers(0, 6),
    st.sampled_from([0, 30, 60]),
)
def test_totals_telescope_from_the_first_window_told(steps: list[tuple[int, int]], step: int, since_s: int) -> None:
    """Windows close as time goes, so many steps behind, and the meter may be declared later than it is first read."""
    plain = Meter(id="gpu0", kind="accelerator", grade="counter", sensor_class="onboard")
    cut, windows, t, joules, closed_ns = MeterCut(meter=plain, since_ns=since_s * S), [], 0, 7, since_s * S
    cut.feed(reading(0, 7), STEP, 0)
    for after_s, more in [*steps, (200, 0)]:
        t, joules = t + after_s, joules + more
        cut.feed(reading(t, joules), STEP, closed_ns)
        while closed_ns + (1 + step) * STEP <= t * S:
            windows.append(cut.close(closed_ns, STEP))
            closed_ns += STEP
    while closed_ns < t * S or cut.owes:
        windows.append(cut.close(closed_ns, STEP))
        closed_ns += STEP
    told = sum(one.energy_uj + one.late_uj for one in windows)
    assert windows[-1].last_uj == joules * J
    assert windows[0].first_uj + told == windows[-1].last_uj
    assert all(b.first_uj == a.last_uj for a, b in itertools.pairwise(windows))
    assert not cut.parts
    if since_s == 0:
        assert told == (joules - 7) * J


# Whether it still answers


def test_one_failure_is_no_reason_not_to_wait() -> None:
    health = Health(ever_read=True)
    health.fail("timeout", 40 * S)
    health.fail("timeout", 41 * S)
    assert not health.gives_nothing(30 * S)
    health.fail("timeout", 42 * S)
    assert health.gives_nothing(30 * S)
    assert not health.gives_nothing(43 * S)
    health.succeed()
    assert not health.gives_nothing(30 * S)


def test_what_hangs_or_never_answered_is_not_waited_for() -> None:
    hung, never = Health(ever_read=True), Health()
    hung.fail("hung", 40 * S)
    assert hung.gives_nothing(30 * S)
    assert not never.gives_nothing(30 * S)
    never.fail("permission", 40 * S)
    assert never.gives_nothing(30 * S)


def test_uncovered_time_is_put_down_to_the_last_failure() -> None:
    failing = Health(code="gpu_lost", in_a_row=1)
    assert uncovered({"reset": 4}, 10, failing) == {"reset": 4, "gpu_lost": 6}
    assert uncovered({"reset": 4}, 10, Health()) == {"reset": 4, "no_reading": 6}
    assert uncovered({"no_reading": 4}, 10, Health()) == {"no_reading": 10}
    assert uncovered({}, 0, failing) == {}


def test_its_state_can_be_stored() -> None:
    cut = fed(BOARD, reading(0, 0, 500, temperature_c=1.0), reading(10, 1_000, 500))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(cut), type=MeterCut) == cut


def test_what_lies_before_the_first_window_never_moves_a_total_that_was_told() -> None:
    cut = MeterCut(meter=BOARD, since_ns=STEP)
    cut.feed(reading(20, 2_000), STEP, STEP)
    first = cut.close(STEP, STEP)
    cut.feed(reading(70, 7_000), STEP, 2 * STEP)
    second = cut.close(2 * STEP, STEP)
    assert (first.first_uj, first.last_uj, second.first_uj) == (2_000 * J, 2_000 * J, 2_000 * J)
    assert (second.late_uj, second.energy_uj) == (3_000 * J, 1_000 * J)
    assert second.last_uj == 6_000 * J == cut.counter.total_uj
