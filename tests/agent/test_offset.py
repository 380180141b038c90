"""The agent's clock beside the collector's."""

from hypothesis import given
from hypothesis import strategies as st

from joulefleet_agent.offset import NOT_COMPARED, Offset, Offsets, offset

S = 1_000_000_000
NOW = 1_790_000_000 * S


class Clock:
    """A fake agent's clock that a test sets."""

    def __init__(self) -> None:
        self.ns = NOW

    def now(self) -> int:
        return self.ns


@given(
    ahead_ns=st.integers(-(10**15), 10**15),
    there_ns=st.integers(0, 10**11),
    back_ns=st.integers(0, 10**11),
)
def test_the_true_offset_lies_within_the_error_whichever_way_takes_longer(
    ahead_ns: int, there_ns: int, back_ns: int
) -> None:
    asked_ns, answered_ns = NOW + ahead_ns, NOW + there_ns + back_ns + ahead_ns
    found = offset(asked_ns, NOW + there_ns, answered_ns)
    assert found.ahead_ns is not None and found.error_ns is not None
    assert abs(found.ahead_ns - ahead_ns) <= found.error_ns
    assert found.error_ns <= (there_ns + back_ns + 1) // 2


def ask(offsets: Offsets, clock: Clock, took_s: float, ahead_s: float = 0.0) -> None:
    asked_ns = offsets.now_ns()
    clock.ns += round(took_s * S)
    offsets.compare(asked_ns, asked_ns + round((took_s / 2 - ahead_s) * S))


def test_the_surest_of_several_is_taken_and_then_none_is_left() -> None:
    clock = Clock()
    offsets = Offsets(clock.now)
    for took_s, ahead_s in ((4.0, 1.0), (0.5, 3.0), (2.0, 9.0)):
        ask(offsets, clock, took_s, ahead_s)
    assert offsets.take() == Offset(3 * S, S // 4)
    assert offsets.take() == NOT_COMPARED


def test_of_two_that_are_equally_sure_the_later_one_stands() -> None:
    clock = Clock()
    offsets = Offsets(clock.now)
    ask(offsets, clock, 1.0, 5.0)
    ask(offsets, clock, 1.0, -5.0)
    assert offsets.take().ahead_ns == -5 * S


def test_no_instant_and_a_clock_that_was_set_back_compare_nothing() -> None:
    clock = Clock()
    offsets = Offsets(clock.now)
    offsets.compare(NOW, 0)
    ask(offsets, clock, -1.0)
    assert offsets.take() == NOT_COMPARED
