"""A sensor that has stopped is told from a server that draws the same power all night."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from joulefleet_plugins.interfaces.still import STALE_S, STUCK_MOVES, STUCK_S, Still


def codes(still: Still, looks: Iterable[tuple[float, object, str, int]]) -> list[str]:
    return [still.judge(*look) for look in looks]


def test_a_time_stamp_that_stands_still_with_its_value_is_stale_after_a_minute() -> None:
    found = codes(Still(), ((second, 350, "12:00:00", second) for second in range(0, 100, 10)))
    assert found == [""] * 7 + ["stale"] * 3


def test_a_value_that_stands_still_under_a_new_time_stamp_is_a_quiet_server() -> None:
    assert not any(codes(Still(), ((10 * k, 350, f"stamp {k}", k) for k in range(1000))))


def test_a_value_that_moves_again_is_taken_again() -> None:
    still = Still()
    assert codes(still, [(0, 350, "a", 0), (100, 350, "a", 0), (110, 351, "b", 0), (120, 351, "b", 0)]) == [
        *("", "stale"),
        *("", ""),
    ]


def test_a_time_stamp_under_which_values_move_is_the_time_of_something_else() -> None:
    still = Still()
    codes(still, [(0, 350, "boot", 0), (10, 351, "boot", 0), (20, 352, "boot", 0)])
    assert still.stamp_lies
    assert not any(codes(still, ((10 * k, 352, "boot", 0) for k in range(3, 1000))))


def test_a_value_that_moved_once_before_its_time_stamp_makes_no_lie_of_it() -> None:
    still = Still()
    codes(still, [(0, 350, "a", 0), (10, 351, "a", 0), (20, 351, "b", 0)])
    assert not still.stamp_lies
    assert codes(still, [(90, 351, "b", 0)]) == ["stale"]


def test_without_a_time_stamp_a_value_is_stuck_when_the_others_move_for_half_an_hour() -> None:
    found = codes(Still(), ((10 * k, 350, "", k) for k in range(200)))
    assert found.index("stuck") == STUCK_S // 10 + 1
    assert set(found[found.index("stuck") :]) == {"stuck"}


def test_without_a_time_stamp_a_value_among_others_that_rest_is_a_quiet_server() -> None:
    assert not any(codes(Still(), ((10 * k, 350, "", 0) for k in range(2000))))
    few = ((10 * k, 350, "", k // 250) for k in range(250 * (STUCK_MOVES - 1)))
    assert not any(codes(Still(), few))


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "a", "b"]), st.integers(0, 2)), max_size=60))
def test_a_value_that_has_just_moved_is_never_refused(looks: list[tuple[int, str, int]]) -> None:
    still, before = Still(), None
    for k, (value, stamp, others) in enumerate(looks):
        code = still.judge(k * (STALE_S + 1), value, stamp, others)
        assert not code or value == before
        before = value
