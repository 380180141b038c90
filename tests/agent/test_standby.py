"""A gauge takes the place of a counter that stands still, and no joule is told twice, lost or made up."""

from functools import cache
from itertools import groupby, pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet.window import MeterWindow, Window
from joulefleet_agent.cutter import Cutter, CutterState, Identity

S = 1_000_000_000
W = 400
BOARD = Meter(
    id="gpu0",
    kind="accelerator",
    grade="counter",
    sensor_class="onboard",
    max_power_mw=700_000,
    refresh_ns=S // 10,
    resolution_uj=1_000,
    period_ns=10 * S,
    idle_mw=70_000,
)


def cutter(step_s: int = 60) -> Cutter:
    made = Cutter(CutterState(timeline=7, step_ns=step_s * S), Identity(server="a"))
    made.declare([BOARD], 0)
    return made


def at(second: int, stuck: list[tuple[int, int]], watts: int = W) -> MeterReading:
    """The counter stands still in the spans that are told, and goes on from there."""
    missed_s = sum(max(min(second, until_s) - from_s, 0) for from_s, until_s in stuck)
    uj = (second - missed_s) * W * 1_000_000
    busy = {"utilisation_pct": 90.0}  # or the power would be taken to be that of rest
    return MeterReading(meter="gpu0", at_ns=second * S, counter_uj=uj, power_mw=watts * 1_000, gauges=busy)


def run(what: Cutter, seconds: range, stuck: list[tuple[int, int]], silent: range = range(0)) -> list[Window]:
    windows: list[Window] = []
    for second in seconds:
        reading: Reading = Failure(subject="gpu0", code="hung") if second in silent else at(second, stuck)
        what.feed([reading], second * S)
        windows += what.close(second * S)
    return windows


def of_board(windows: list[Window]) -> list[MeterWindow]:
    return [one for window in windows for one in window.meters]


def grades(windows: list[Window]) -> list[tuple[str, int]]:
    told = of_board(windows)
    return [(grade, len(list(several))) for grade, several in groupby(told, lambda one: one.meter.grade)]


def assert_true(windows: list[Window], step_s: int = 60) -> None:
    """Whatever is told as known is known exactly, and the running total goes on."""
    for one in of_board(windows):
        assert one.energy_uj == one.covered_ns // S * W * 1_000_000
        assert one.covered_ns <= step_s * S and one.late_uj == 0 == one.rejected_uj
    assert all(a.last_uj == b.first_uj for a, b in pairwise(of_board(windows)))


def test_the_gauge_is_told_after_ten_minutes_and_the_counter_once_it_moves_again() -> None:
    windows = run(cutter(), range(0, 7_200, 10), [(1_800, 4_800)])
    assert_true(windows)
    (_, before), (grade, by_gauge), (_, _) = grades(windows)
    assert grade == "integrated" and before == 40
    # Till the counter was believed again: it moved for one whole window.
    assert before + by_gauge == 81
    for one in of_board(windows)[30:40]:
        assert (one.energy_uj, one.covered_ns) == (0, 0) and one.gaps_ns["stuck"] > 30 * S
    for one in of_board(windows)[40:81]:
        assert one.covered_ns == 60 * S and one.states == ("stuck",) and "gauge" in one.meter.basis
    assert of_board(windows)[-1].states == () and of_board(windows)[-1].meter == BOARD


def test_a_counter_that_pauses_is_not_given_up() -> None:
    windows = run(cutter(), range(0, 3_600, 10), [(600, 1_020), (1_500, 1_980)])
    assert_true(windows)
    assert [grade for grade, _ in grades(windows)] == ["counter"]


def test_without_a_gauge_that_answers_nothing_takes_its_place() -> None:
    what, windows = cutter(), []
    for second in range(0, 3_600, 10):
        reading = at(second, [(600, 9_999)])
        blind = msgspec.structs.replace(reading, power_mw=None) if second > 600 else reading
        what.feed([blind], second * S)
        windows += what.close(second * S)
    assert [grade for grade, _ in grades(windows)] == ["counter"]
    assert not what.state.standbys.cuts


def test_a_restart_goes_on_with_the_gauge() -> None:
    stuck = [(600, 4_200)]
    first = cutter()
    windows = run(first, range(0, 2_400, 10), stuck)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(first.state), type=CutterState)
    assert state == first.state
    second = Cutter(state, Identity(server="a"))
    windows += second.resume(2_400 * S)
    # The source is opened again, and declares what it did before.
    second.declare([BOARD], 2_400 * S)
    windows += run(second, range(2_400, 6_000, 10), stuck)
    assert_true(windows)
    assert [grade for grade, _ in grades(windows)] == ["counter", "integrated", "counter"]


def test_another_declaration_ends_it() -> None:
    what = cutter()
    windows = run(what, range(0, 2_400, 10), [(600, 9_000)])
    newer = msgspec.structs.replace(BOARD, driver="2")
    what.declare([newer], 2_400 * S)
    assert not what.state.standbys.cuts
    windows += run(what, range(2_400, 2_700, 10), [])
    assert all(("stuck" in one.states) == (one.meter.grade == "integrated") for one in of_board(windows))
    assert "integrated" in {one.meter.grade for one in of_board(windows)}
    assert of_board(windows)[-1].meter == newer
    what.declare([], 2_700 * S)
    run(what, range(2_700, 3_000, 10), [])
    assert not what.state.meters


def test_a_clock_that_was_set_back_changes_nothing() -> None:
    stuck, what = [(600, 9_000)], cutter()
    windows = run(what, range(0, 1_500, 10), stuck)
    windows += what.new_timeline(8, -600 * S)
    assert_true(windows)
    later = []
    for second in range(1_500, 3_000, 10):
        what.feed([msgspec.structs.replace(at(second, stuck), at_ns=(second - 600) * S)], (second - 600) * S)
        later += what.close((second - 600) * S)
    assert {one.meter.grade for one in of_board(later)} == {"integrated"}
    assert all(one.energy_uj == one.covered_ns // S * W * 1_000_000 for one in of_board(later))


def test_after_a_long_stop_nothing_is_held_of_windows_that_are_never_closed() -> None:
    what = cutter()
    run(what, range(0, 1_800, 10), [(600, 9_000)])
    for second in range(1_800, 1_900, 10):
        counted = msgspec.structs.replace(at(second, []), power_mw=None, gauges={})
        what.feed([counted], second * S)
    assert what.state.standbys.cuts["gpu0"].parts
    what.resume(90_000 * S)
    assert not what.state.standbys.cuts["gpu0"].parts


def test_a_counter_of_0_j_that_does_not_say_how_often_it_moves_is_given_up_too() -> None:
    what, windows = cutter(), []
    what.declare([msgspec.structs.replace(BOARD, refresh_ns=0)], 0)
    for second in range(0, 1_800, 10):
        what.feed([msgspec.structs.replace(at(second, []), counter_uj=7)], second * S)
        windows += what.close(second * S)
    assert grades(windows)[-1][0] == "integrated"
    assert of_board(windows)[-1].energy_uj == 60 * W * 1_000_000


@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200)), min_size=1, max_size=3),
    st.integers(0, 300),
    st.integers(0, 60),
    st.sampled_from([10, 60, 300]),
)
def test_no_joule_is_told_twice_or_made_up(
    spans: list[tuple[int, int]], silent_from: int, silent_for: int, step_s: int
) -> None:
    stuck, second = [], 0
    for after, length in spans:
        stuck.append((second + 10 * after, second + 10 * (after + length)))
        second = stuck[-1][1]
    silent = range(10 * silent_from, 10 * (silent_from + silent_for), 10)
    what = cutter(step_s)
    windows = run(what, range(0, second + 900, 10), stuck, silent) + what.finish()
    told_uj = 0
    for window, one in zip(windows, of_board(windows), strict=True):
        told_uj += one.energy_uj + one.late_uj
        # A counter that paused tells less than was used; whatever tells more has told something twice.
        assert told_uj <= window.end_ns // S * W * 1_000_000
        assert one.energy_uj <= one.covered_ns // S * W * 1_000_000
        if one.meter.grade == "integrated":
            assert one.energy_uj == one.covered_ns // S * W * 1_000_000
    assert all(a.last_uj == b.first_uj for a, b in pairwise(of_board(windows)))


@pytest.mark.parametrize("catches_up", [True, False])
def test_a_counter_that_comes_back_with_a_leap_is_told_of_nothing_before(catches_up: bool) -> None:
    what, windows = cutter(), []
    for second in range(0, 4_800, 10):
        leap = second if catches_up and second >= 3_000 else None
        reading = at(second, [(600, 3_000)]) if leap is None else at(second, [])
        what.feed([reading], second * S)
        windows += what.close(second * S)
    told_uj = sum(one.energy_uj + one.late_uj for one in of_board(windows))
    assert told_uj == sum(one.covered_ns for one in of_board(windows)) // S * W * 1_000_000
    assert of_board(windows)[-1].meter.grade == "counter"


class Course:
    """Power that runs straight between values told for each half minute, and the energy below it."""

    def __init__(self, watts: list[int]) -> None:
        self.watts = watts

    def milliwatts(self, second: int) -> int:
        k, rest_s = second // 30, second % 30
        first, last = self.watts[k % len(self.watts)], self.watts[(k + 1) % len(self.watts)]
        return (first * 30 + (last - first) * rest_s) * 1_000 // 30

    @cache  # noqa: B019 # a course lives for one test
    def whole_uj(self, k: int) -> int:
        return sum((self.milliwatts(30 * j) + self.milliwatts(30 * j + 30)) * 15_000 for j in range(k))

    def uj(self, second: int) -> int:
        k, rest_s = second // 30, second % 30
        return self.whole_uj(k) + (self.milliwatts(30 * k) + self.milliwatts(second)) * rest_s * 500


class Machine:
    """A board, and an agent on it to which anything happens between two readings."""

    def __init__(self, board: Meter, step_s: int, course: Course, stuck: list[tuple[int, int]], lag_s: int) -> None:
        self.board, self.cutter, self.windows = board, cutter(step_s), list[tuple[int, Window]]()
        self.cutter.declare([board], 0)
        self.course, self.stuck, self.lag_s, self.behind_s = course, stuck, lag_s, 0
        self.waiting: list[tuple[int, MeterReading]] = []

    def at(self, second: int) -> int:
        """Agent time."""
        return (second - self.behind_s) * S

    def keep(self, windows: list[Window]) -> None:
        self.windows += [(self.behind_s, window) for window in windows]

    def suffer(self, what: str, second: int) -> None:
        if what == "restart":
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(self.cutter.state), type=CutterState)
            self.cutter = Cutter(state, self.cutter.identity)
            self.keep(self.cutter.resume(self.at(second)))
        elif what == "clock":
            self.keep(self.cutter.new_timeline(self.cutter.state.timeline + 1, -90 * S))
            self.behind_s += 90
            self.waiting.clear()
        elif what == "driver":
            self.board = msgspec.structs.replace(self.board, driver=f"{self.board.driver}1")
        self.cutter.declare([self.board], self.at(second))

    def read(self, second: int) -> None:
        value_s = second - second % max(self.board.refresh_ns // S, 1)
        told_uj = self.course.uj(value_s)
        for from_s, until_s in self.stuck:
            told_uj -= self.course.uj(min(value_s, until_s)) - self.course.uj(min(value_s, from_s))
        reading = MeterReading(
            meter="gpu0",
            at_ns=self.at(second),
            counter_uj=told_uj,
            power_mw=self.course.milliwatts(second),
            gauges={"utilisation_pct": 90.0},
        )
        self.waiting.append((second, reading))
        ready = [one for then_s, one in self.waiting if then_s <= second - self.lag_s]
        self.waiting = self.waiting[len(ready) :]
        self.cutter.feed(ready[::-1], self.at(second))
        self.keep(self.cutter.close(self.at(second)))


@given(
    st.sampled_from([S // 10, 30 * S]),
    st.sampled_from([10, 60, 300]),
    st.lists(st.integers(200, 600), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(5, 120), st.integers(5, 150)), max_size=2),
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["restart", "clock", "driver"])), max_size=4),
    st.sampled_from([0, 8, 25]),
)
def test_whatever_happens_the_sums_are_those_of_the_true_power(
    refresh_ns: int,
    step_s: int,
    watts: list[int],
    spans: list[tuple[int, int]],
    events: list[tuple[int, str]],
    lag_s: int,
) -> None:
    stuck, second = list[tuple[int, int]](), 600
    for after, length in spans:
        stuck.append((second + 10 * after, second + 10 * (after + length)))
        second = stuck[-1][1]
    board = msgspec.structs.replace(BOARD, refresh_ns=refresh_ns)
    machine = Machine(board, step_s, Course(watts), stuck, lag_s)
    for tick in range(second // 10 + 90):
        for what in [what for when, what in events if when == tick]:
            machine.suffer(what, 10 * tick)
        machine.read(10 * tick + tick % 7)
    machine.keep(machine.cutter.finish())
    assert_near(machine)


def assert_near(machine: Machine) -> None:
    """No window, and no sum up to one, is further from the truth than what lies between two values of the sensor."""
    near_uj, told_uj = 2 * (16 + machine.board.refresh_ns // S) * 600 * 1_000_000, 0
    for behind_s, window in machine.windows:
        (one,) = window.meters
        from_s, until_s = (max(ns // S + behind_s, 0) for ns in (window.start_ns, window.end_ns))
        true_uj = machine.course.uj(until_s) - machine.course.uj(from_s)
        told_uj += one.energy_uj + one.late_uj
        assert told_uj <= machine.course.uj(until_s) + near_uj
        assert one.energy_uj <= true_uj + near_uj
        paused = any(from_s < end_s + 120 and until_s > begin_s - 120 for begin_s, end_s in machine.stuck)
        if one.covered_ns == window.step_ns and (one.meter.grade == "integrated" or not paused):
            assert one.energy_uj >= true_uj - near_uj
    # A window that closed before the first reading has no running total.
    told = [window.meters[0] for _, window in machine.windows if window.meters[0].last_uj]
    assert all(a.last_uj == b.first_uj for a, b in pairwise(told) if a.meter.driver == b.meter.driver)
