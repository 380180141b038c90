"""Sensors that do not agree are told of, in the windows and at once with those that they disagree with."""

import msgspec
import pytest

from joulefleet.describe import Meter
from joulefleet.topology import comparisons
from joulefleet.window import MeterWindow, Window
from joulefleet_agent.health import Balance, HealthBook, agree, agree_roughly, by_gauge, fit_inside, is_loaded

S = 1_000_000_000
J = 1_000_000
STEP = 60 * S
BOARD = Meter(id="gpu0", kind="accelerator", grade="counter", sensor_class="onboard", idle_mw=100_000, driver="1")
AGAIN = Meter(id="gpu0-again", kind="accelerator", grade="integrated", sensor_class="onboard", device="D")
PACKAGE = Meter(id="package-0", kind="cpu_package", grade="counter", sensor_class="onboard")
BMC = Meter(id="bmc", kind="server", grade="integrated", sensor_class="platform")


def read(meter: Meter, watts: float, gauge_w: float | None = None, covered_s: int = 60, **more: object) -> MeterWindow:
    return MeterWindow(
        meter=meter,
        energy_uj=round(watts * covered_s * J),
        covered_ns=covered_s * S,
        gauge_uj=0 if gauge_w is None else round(gauge_w * 60 * J),
        gauge_ns=0 if gauge_w is None else STEP,
        idle_mw=meter.idle_mw or None,
        **more,
    )


def states(book: HealthBook, *read_now: MeterWindow, minutes: int = 1) -> list[tuple[str, ...]]:
    """What the last of so many equal windows tells of each meter."""
    for _ in range(minutes):
        meters = tuple(msgspec.structs.replace(one, states=()) for one in read_now)
        window = Window(server="a", timeline=1, start_ns=0, step_ns=STEP, meters=meters)
        book.fill_in(window, comparisons([one.meter for one in meters], STEP))
    return [one.states for one in window.meters]


# A counter beside its gauge


def test_a_counter_is_believed_once_it_agreed_with_its_gauge_under_load() -> None:
    book = HealthBook()
    assert states(book, read(BOARD, 120, 118), minutes=30) == [("unvalidated",)], "no load yet"
    assert states(book, read(BOARD, 400, 390)) == [()]
    assert states(book, read(BOARD, 100, 100)) == [()]


@pytest.mark.parametrize(("counter_w", "believed"), [(199.0, False), (200.0, True), (800.0, True), (801.0, False)])
def test_half_to_twice_the_gauge_is_believed(counter_w: float, believed: bool) -> None:
    assert ("unvalidated" not in states(HealthBook(), read(BOARD, counter_w, 400.0))[0]) == believed


def test_a_counter_without_a_gauge_bears_no_state() -> None:
    assert states(HealthBook(), read(PACKAGE, 200), minutes=20) == [()]
    assert states(HealthBook(), read(BMC, 200), minutes=20) == [()]


def test_another_driver_is_believed_anew() -> None:
    book = HealthBook()
    assert states(book, read(BOARD, 400, 390)) == [()]
    newer = msgspec.structs.replace(BOARD, driver="2")
    assert states(book, read(newer, 100, 100)) == [("unvalidated",)]


def test_nothing_that_another_driver_told_is_in_a_verdict() -> None:
    book, newer = HealthBook(), msgspec.structs.replace(BOARD, driver="2")
    states(book, read(BOARD, 400, 300), minutes=9)
    assert states(book, read(newer, 400, 400)) == [()]


def test_what_was_believed_is_believed_after_a_restart() -> None:
    book = HealthBook()
    states(book, read(BOARD, 400, 390), minutes=5)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(book), type=HealthBook)
    assert again == book
    assert states(again, read(BOARD, 100, 100)) == [()]


@pytest.mark.parametrize(("gauge_w", "told"), [(381.0, ()), (379.0, ("sensor_disagreement",)), (419.0, ())])
def test_counter_and_gauge_disagree_by_more_than_5_per_cent_over_ten_minutes(
    gauge_w: float, told: tuple[str, ...]
) -> None:
    book = HealthBook()
    assert states(book, read(BOARD, 400, gauge_w), minutes=9) == [()]
    assert states(book, read(BOARD, 400, gauge_w)) == [told]
    assert states(book, read(BOARD, 100, 300), minutes=9) == [told], "a verdict stands until the next one"
    assert states(book, read(BOARD, 400, 400), minutes=11)[0] == ()


def test_idle_sensors_are_not_compared() -> None:
    assert states(HealthBook(), read(BOARD, 40, 65), minutes=60) == [("unvalidated",)]


def test_a_window_that_is_not_covered_is_not_compared() -> None:
    book = HealthBook()
    assert states(book, read(BOARD, 400, 390)) == [()]
    assert states(book, read(BOARD, 400, 100, covered_s=50), minutes=30) == [()]


def test_load_is_told_by_idle_power_or_else_by_the_rated_maximum() -> None:
    rated = msgspec.structs.replace(BOARD, idle_mw=0, max_power_mw=1_000_000)
    assert not is_loaded(read(rated, 200)) and is_loaded(read(rated, 201))
    assert not is_loaded(read(BOARD, 150)) and is_loaded(read(BOARD, 151))
    assert is_loaded(read(BOARD, 0, 151)), "a counter that tells nothing is no sign of rest"
    assert is_loaded(read(BMC, 1)) and not is_loaded(read(BMC, 0))


def test_steps_of_a_coarse_counter_are_no_disagreement() -> None:
    coarse = msgspec.structs.replace(BOARD, resolution_uj=3_600 * J)
    book = HealthBook()
    assert states(book, read(coarse, 400, 450), minutes=10) == [()]
    assert states(HealthBook(), read(coarse, 400, 1_500), minutes=10) == [("sensor_disagreement", "unvalidated")]


# Several meters


def test_two_sources_of_one_board_are_both_told_of() -> None:
    book, board = HealthBook(), msgspec.structs.replace(BOARD, device="D")
    assert states(book, read(board, 400), read(AGAIN, 381), minutes=10) == [(), ()]
    assert states(book, read(board, 400), read(AGAIN, 360), minutes=10) == [("sensor_disagreement",)] * 2
    assert states(book, read(board, 400), read(AGAIN, 400, covered_s=10), minutes=10)[1] == ("sensor_disagreement",)
    assert states(book, read(board, 400), read(AGAIN, 400), minutes=10) == [(), ()]


def test_parts_that_exceed_their_whole_are_told_at_the_whole() -> None:
    book = HealthBook()
    parts = (read(BOARD, 400), read(PACKAGE, 100))
    assert states(book, *parts, read(BMC, 491), minutes=10) == [(), (), ()]
    assert states(book, *parts, read(BMC, 489), minutes=9)[2] == ()
    assert states(book, *parts, read(BMC, 489))[2] == ("sensor_disagreement",)


def test_what_left_the_server_is_forgotten() -> None:
    book, board = HealthBook(), msgspec.structs.replace(BOARD, device="D")
    states(book, read(board, 400, 300), read(AGAIN, 300), read(BMC, 100), minutes=10)
    assert (len(book.counters), len(book.twins), len(book.wholes)) == (1, 1, 1)
    states(book, read(BMC, 100))
    assert book == HealthBook()


def test_nothing_at_all_agrees_with_nothing_only() -> None:
    assert not agree_roughly(Balance())
    assert agree(Balance()) and fit_inside(Balance())
    assert not agree(Balance(0, 1)) and not fit_inside(Balance(0, 1))


# A counter that stands still


def test_time_in_which_a_counter_stands_still_beside_a_gauge_is_counted() -> None:
    book = HealthBook()
    still = read(BOARD, 0, 400, covered_s=0, gaps_ns={"stuck": STEP})
    states(book, still, minutes=3)
    assert book.stuck_ns("gpu0") == 3 * STEP
    states(book, read(BOARD, 0, None, covered_s=0, gaps_ns={"hung": STEP}))
    assert book.stuck_ns("gpu0") == 3 * STEP
    states(book, read(BOARD, 400, 400, covered_s=1))
    assert book.stuck_ns("gpu0") == book.stuck_ns("unknown") == 0


def test_once_it_is_proven_windows_that_closed_before_the_next_proof_count_too() -> None:
    book, unknown = HealthBook(), read(BOARD, 0, 400, covered_s=0, gaps_ns={"no_reading": STEP})
    states(book, unknown, minutes=3)
    assert book.stuck_ns("gpu0") == 0, "it may be slow"
    states(book, read(BOARD, 0, 400, covered_s=0, gaps_ns={"stuck": STEP}))
    states(book, unknown, minutes=3)
    assert book.stuck_ns("gpu0") == 4 * STEP
    states(book, msgspec.structs.replace(unknown, late_uj=J))
    states(book, unknown)
    assert book.stuck_ns("gpu0") == 0, "it moved"


def test_a_counter_that_tells_0_j_under_load_stands_still() -> None:
    book = HealthBook()
    states(book, read(BOARD, 0, 100), minutes=3)
    assert book.stuck_ns("gpu0") == 0, "no load"
    states(book, read(BOARD, 0, 400), minutes=3)
    assert book.stuck_ns("gpu0") == 3 * STEP
    states(book, read(msgspec.structs.replace(BOARD, resolution_uj=2_400 * J), 0, 400))
    assert book.stuck_ns("gpu0") == 3 * STEP, "not ten of its steps"


def test_a_meter_by_its_gauge_is_declared_as_what_it_is() -> None:
    meter = by_gauge(msgspec.structs.replace(BOARD, resolution_uj=1, modulus_uj=2, restarts_at_zero=True))
    assert (meter.id, meter.grade, meter.resolution_uj, meter.modulus_uj) == ("gpu0", "integrated", 0, 0)
    assert "counter stands still" in meter.basis
