"""Idle power, learnt from minutes in which nothing ran."""

from typing import Any

import msgspec
import pytest

from joulefleet.describe import Engine, Meter, Reservation, Slice
from joulefleet.window import EngineWindow, MeterWindow, Window
from joulefleet_agent.idle import IdleBook

S = 1_000_000_000
J = 1_000_000
BOARD = Meter(id="gpu0", kind="accelerator", grade="counter", sensor_class="onboard", driver="580", idle_mw=60_000)
OTHER = Meter(id="gpu1", kind="accelerator", grade="counter", sensor_class="onboard")
WALL = Meter(id="wall", kind="server", grade="counter", sensor_class="platform")
ON_BOARD = Engine(id="e", software="vllm", devices=(Reservation("gpu0"),))


def metered(meter: Meter, watts: float, step_s: int, **more: Any) -> MeterWindow:
    fields = {"energy_uj": round(watts * step_s * J), "covered_ns": step_s * S, **more}
    return MeterWindow(meter=meter, **fields)


def at_rest(step_s: int, **more: Any) -> EngineWindow:
    fields = {"covered_ns": step_s * S, "running_ns": 0, "queued_ns": 0, "running_start": 0, "running_end": 0, **more}
    return EngineWindow(engine=ON_BOARD, **fields)


class Server:
    """One server's windows, one after the other."""

    def __init__(self, step_s: int = 60) -> None:
        self.book = IdleBook()
        self.step_s = step_s
        self.start_ns = 1_790_000_040 * S - 1_790_000_040 * S % (3_600 * S)
        self.book.begin(self.start_ns - 60 * S)

    def window(self, watts: float, engine: EngineWindow | None, meter: Meter = BOARD, **more: Any) -> MeterWindow:
        """The next window; what it says of its first meter."""
        window = Window(
            server="a",
            timeline=1,
            start_ns=self.start_ns,
            step_ns=self.step_s * S,
            meters=(metered(meter, watts, self.step_s, **more),),
            engines=(engine,) if engine else (),
        )
        self.start_ns += self.step_s * S
        self.book.fill_in(window)
        return window.meters[0]

    def idle_minutes(self, number: int, watts: float = 75, meter: Meter = BOARD) -> None:
        for _ in range(number * 60 // self.step_s):
            self.window(watts, at_rest(self.step_s), meter)


def test_it_is_learnt_after_thirty_idle_minutes() -> None:
    server = Server()
    server.idle_minutes(29)
    known = server.window(75, at_rest(60))
    assert (known.idle_mw, known.idle_learnt) == (60_000, False)
    known = server.window(75, at_rest(60))
    assert (known.idle_mw, known.idle_learnt) == (75_000, True)


def test_without_a_catalogue_it_is_not_known_before() -> None:
    server = Server()
    assert server.window(75, None, OTHER).idle_mw is None


def test_it_is_the_fifth_percentile() -> None:
    server = Server()
    for watts in range(100, 201):
        server.window(watts, at_rest(60))
    assert server.window(300, at_rest(60)).idle_mw == 105_000


def test_shorter_windows_are_gathered_into_minutes() -> None:
    server = Server(step_s=10)
    for minute in range(30):
        for part in range(6):
            known = server.window(70 + minute + part, at_rest(10))
            assert not known.idle_learnt
    # The second lowest of thirty minutes: 71 to 76 W, one after the other.
    assert server.window(75, at_rest(10)).idle_mw == 73_500


@pytest.mark.parametrize("step_s", [25, 45, 90, 3_600])
def test_any_step_learns(step_s: int) -> None:
    server = Server(step_s)
    for _ in range(30 * max(-(-60 // step_s), 1) + 1):
        known = server.window(75, at_rest(step_s))
    assert (known.idle_mw, known.idle_learnt) == (75_000, True)


@pytest.mark.parametrize(
    "busy",
    [
        {"running_ns": 5},
        {"running_ns": None},
        {"queued_ns": 3},
        {"running_start": 1},
        {"running_end": 1},
        {"covered_ns": 59 * S},
    ],
)
def test_a_minute_in_which_anything_ran_or_is_unknown_is_not_idle(busy: dict[str, Any]) -> None:
    server = Server()
    for _ in range(60):
        server.window(400, at_rest(60, **busy))
    assert not server.window(75, at_rest(60)).idle_learnt


def test_one_busy_part_spoils_its_minute() -> None:
    server = Server(step_s=10)
    for _ in range(60):
        for part in range(6):
            server.window(75, at_rest(10, running_ns=1 if part == 2 else 0))
    assert not server.window(75, at_rest(10)).idle_learnt


def test_a_minute_with_a_hole_is_not_learnt_from() -> None:
    server = Server()
    for _ in range(40):
        server.window(75, at_rest(60), covered_ns=56 * S)
    assert not server.window(75, at_rest(60)).idle_learnt


def test_the_first_minute_after_a_start_is_left_out() -> None:
    server = Server()
    server.book.begin(server.start_ns + 1 * S)
    server.window(10, at_rest(60))
    server.window(11, at_rest(60))
    server.idle_minutes(29)
    assert not server.window(75, at_rest(60)).idle_learnt
    known = server.window(75, at_rest(60))
    assert known.idle_mw == 75_000


def test_without_an_engine_it_is_learnt_apart() -> None:
    server = Server()
    server.idle_minutes(31, watts=120)
    known = server.window(75, None)
    assert (known.idle_mw, known.idle_learnt) == (60_000, False)
    for _ in range(29):
        server.window(75, None)
    assert server.window(75, None).idle_mw == 75_000
    assert server.window(120, at_rest(60)).idle_mw == 120_000


def test_a_board_that_something_else_keeps_busy_is_not_idle() -> None:
    server = Server()
    for _ in range(60):
        server.window(400, None, gauges={"utilisation_pct": 90.0})
    assert not server.window(75, None).idle_learnt


@pytest.mark.parametrize("change", [{"power_limit_mw": 300_000}, {"driver": "590"}, {"calibration": "v1"}])
def test_another_power_limit_driver_or_gain_forgets_it(change: dict[str, Any]) -> None:
    server = Server()
    server.idle_minutes(31)
    assert server.window(75, at_rest(60)).idle_learnt
    changed = msgspec.structs.replace(BOARD, **change)
    assert not server.window(65, at_rest(60), changed).idle_learnt
    server.idle_minutes(30, watts=65, meter=changed)
    assert server.window(65, at_rest(60), changed).idle_mw == 65_000


def test_a_counter_that_stands_still_teaches_no_rest_of_0_w() -> None:
    server = Server()
    server.idle_minutes(40, watts=0)
    assert not server.window(75, at_rest(60)).idle_learnt


def test_an_engine_elsewhere_does_not_make_a_board_busy() -> None:
    server = Server()
    for _ in range(30):
        server.window(75, at_rest(60, running_ns=60 * S), OTHER)
    assert server.window(75, at_rest(60, running_ns=60 * S), OTHER).idle_mw == 75_000


def test_a_front_makes_no_board_busy() -> None:
    front = EngineWindow(engine=Engine(id="f", software="litellm", front=True), covered_ns=60 * S, running_ns=60 * S)
    server = Server()
    for _ in range(30):
        server.window(75, front)
    assert server.window(75, front).idle_learnt


def test_an_engine_on_a_slice_makes_its_board_busy() -> None:
    board = msgspec.structs.replace(BOARD, slices=(Slice("MIG-a", 1),), slots=7)
    on_slice = msgspec.structs.replace(ON_BOARD, devices=(Reservation("MIG-a"),))
    server = Server()
    for _ in range(31):
        known = server.window(300, EngineWindow(engine=on_slice, covered_ns=60 * S, running_ns=60 * S), board)
    assert not known.idle_learnt


def test_any_engine_makes_the_server_busy() -> None:
    server = Server()
    for _ in range(40):
        server.window(900, at_rest(60, running_ns=60 * S), WALL)
    assert not server.window(500, at_rest(60), WALL).idle_learnt


def test_only_the_last_day_counts() -> None:
    server = Server()
    server.idle_minutes(1_440, watts=50)
    server.idle_minutes(1_440, watts=90)
    assert server.window(90, at_rest(60)).idle_mw == 90_000


def test_what_was_learnt_outlives_the_process() -> None:
    server = Server()
    server.idle_minutes(30)
    server.book = msgspec.msgpack.decode(msgspec.msgpack.encode(server.book), type=IdleBook)
    assert server.window(75, at_rest(60)).idle_learnt
