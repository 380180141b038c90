"""The agent's time: forwards only, and only when it is told to follow."""

import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from joulefleet_agent.clock import BACK_STEP_NS, AgentClock, boot_ns, wall_ns

S = 1_000_000_000


def clock(fake_time: Any, not_before_ns: int = 0) -> AgentClock:
    return AgentClock(fake_time.wall, fake_time.boot, not_before_ns)


def test_it_begins_at_wall_time_and_goes_on_with_the_boot_clock(fake_time: Any) -> None:
    what = clock(fake_time)
    assert what.now_ns() == fake_time.wall_ns
    began_ns = what.now_ns()
    fake_time.pass_s(90)
    fake_time.set_wall(-4_000)
    assert what.now_ns() == began_ns + 90 * S
    assert what.at(fake_time.boot_ns - S) == began_ns + 89 * S


def test_it_never_begins_before_what_was_read_already(fake_time: Any) -> None:
    what = clock(fake_time, fake_time.wall_ns + 7 * S)
    assert what.now_ns() == fake_time.wall_ns + 7 * S


def test_it_follows_the_wall_clock_forwards_when_told(fake_time: Any) -> None:
    what = clock(fake_time)
    fake_time.set_wall(3_600)
    before_ns = what.now_ns()
    assert what.rebase() == 0
    assert what.now_ns() == before_ns + 3_600 * S


def test_a_small_step_back_is_waited_out(fake_time: Any) -> None:
    what = clock(fake_time)
    fake_time.set_wall(-2)
    before_ns = what.now_ns()
    assert what.rebase() == 0
    assert what.now_ns() == before_ns


def test_a_larger_step_back_is_followed_and_told(fake_time: Any) -> None:
    what = clock(fake_time)
    fake_time.set_wall(-2.001)
    assert what.rebase() == -2_001_000_000
    assert what.now_ns() == fake_time.wall_ns
    assert what.rebase() == 0


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(-10, 10)), max_size=30))
def test_between_steps_back_that_are_told_it_never_runs_back(moves: list[tuple[int, int]]) -> None:
    times = {"wall": 1_000 * S, "boot": 0}
    what = AgentClock(lambda: times["wall"], lambda: times["boot"])
    last_ns = what.now_ns()
    for passed_s, set_by_s in moves:
        times["boot"] += passed_s * S
        times["wall"] += (passed_s + set_by_s) * S
        back_ns = what.rebase()
        assert back_ns == 0 or back_ns < -BACK_STEP_NS
        assert what.now_ns() >= last_ns + back_ns
        assert abs(what.now_ns() - times["wall"]) <= BACK_STEP_NS
        last_ns = what.now_ns()


def test_the_host_has_both_clocks() -> None:
    assert abs(wall_ns() - time.time() * S) < 60 * S
    one = boot_ns()
    assert 0 < one <= boot_ns()
