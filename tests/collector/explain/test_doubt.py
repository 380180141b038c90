"""The terms of uncertainty add up to what the report says."""

import math

from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.explain.doubt import doubts, whole
from joulefleet_collector.explain.seen import Spread

joules = st.floats(0, 1e9)


@given(
    st.fixed_dictionaries(
        {
            "active_j": st.floats(1, 1e9),
            "class_onboard_j": joules,
            "class_platform_j": joules,
            "allocation_j": joules,
            "running_delta": st.floats(-100, 100),
            "requests_ok": st.floats(1, 1e6),
        }
    ),
    st.lists(st.floats(0, 1e12), min_size=3, max_size=3),
)
def test_the_squares_of_all_terms_are_that_of_the_whole(sums: dict[str, float], parts_j2: list[float]) -> None:
    sums = sums | {"independent_j2": sum(parts_j2)}
    for spread in (Spread(*parts_j2), None):
        relative = [one.relative for one in doubts(sums, spread)]
        assert math.isclose(math.hypot(*relative), whole(sums) or 0.0, rel_tol=1e-6, abs_tol=1e-8)
        assert relative == sorted(relative, reverse=True)


def test_the_terms_are_named_by_what_they_are() -> None:
    sums = {"active_j": 60.0, "idle_j": 40.0, "class_onboard_j": 100.0, "independent_j2": 25.0, "allocation_j": 3.0}
    told = {one.term: round(one.relative, 9) for one in doubts(sums, Spread(9.0, 16.0, 0.0))}
    assert told == {"gain_onboard": 0.05, "edges": 0.03, "idle": 0.04, "allocation": 0.03}
    assert {one.term for one in doubts(sums, None)} == {"gain_onboard", "independent", "allocation"}


def test_without_energy_there_is_no_doubt_about_it() -> None:
    assert doubts({"window_s": 60.0}, None) == [] and whole({}) is None
