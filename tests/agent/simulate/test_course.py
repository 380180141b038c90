"""One server's course: continuous, never falling, bent exactly where it is told."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from joulefleet_agent.simulate.course import Bend, Course
from joulefleet_agent.simulate.demand import Amounts, Demand

WHOLE = 1_000_000
DEMAND = Demand(0, 1_000, [Amounts(100, 2_000, 300, 40_000_000), Amounts(10, 200, 30, 4_000_000)])
factors = st.integers(1, 3 * WHOLE)


@given(
    st.lists(st.tuples(st.integers(1, 9_999), factors, factors), max_size=6, unique_by=lambda bend: bend[0]),
    st.lists(st.integers(0, 12_000), min_size=2, max_size=10),
)
def test_it_never_falls_and_never_leaps(bends: list[tuple[int, int, int]], instants: list[int]) -> None:
    course = Course(DEMAND, [Bend(0, WHOLE, WHOLE), *(Bend(*bend) for bend in sorted(bends))])
    states = [course.at(at_ns) for at_ns in sorted(instants)]
    assert all(a <= b for one, two in pairwise(states) for a, b in zip(one, two, strict=True))
    for at_ns, _, _ in bends:
        # Within one nanosecond not more than the fastest slot, three times over in both, and a rounding each.
        assert course.at(at_ns).dynamic_uj - course.at(at_ns - 1).dynamic_uj <= 9 * 40_000 + 2


def test_without_a_bend_it_is_the_demand() -> None:
    course = Course(DEMAND, [Bend(0, WHOLE, WHOLE)])
    assert course.at(3_456) == DEMAND.at(3_456)
    assert course.peak_mw == DEMAND.peak_mw


def test_energy_is_bent_apart_from_work() -> None:
    course = Course(DEMAND, [Bend(0, WHOLE, WHOLE), Bend(1_000, WHOLE // 2, 3 * WHOLE)])
    assert course.at(1_000) == (100, 2_000, 300, 40_000_000)
    assert course.at(2_000) == (105, 2_100, 315, 40_000_000 + 4_000_000 // 2 * 3)
    assert course.dynamic_mw(500) == DEMAND.peak_mw
    assert course.dynamic_mw(1_500) == DEMAND.peak_mw // 10 // 2 * 3


def test_requests_in_flight_follow_littles_law() -> None:
    course = Course(DEMAND, [Bend(0, WHOLE, WHOLE), Bend(2_000, WHOLE // 2, WHOLE)])
    # 100 requests in 1,000 ns of 50 ns each.
    assert course.running(0, 50) == 5
    assert course.running(2_000, 50) == 2
    assert course.running(1_000, 50) == 1, "some work is never nobody"
    assert Course(Demand(0, 10, [Amounts(0, 0, 0, 0)]), [Bend(0, WHOLE, WHOLE)]).running(5, 1_000) == 0


def test_the_peak_is_never_exceeded() -> None:
    course = Course(DEMAND, [Bend(0, WHOLE, WHOLE), Bend(2_000, 2 * WHOLE, 3 * WHOLE)])
    assert course.peak_mw == course.dynamic_mw(2_000) == 6 * DEMAND.peak_mw
