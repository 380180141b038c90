"""Sums of hours added up by fewer tags and longer steps."""

from hypothesis import given
from hypothesis import strategies as st

from joulefleet.grid import HOUR_NS
from joulefleet_collector.answer.hours import added_up, matching
from joulefleet_collector.store.store import DAY_NS, Total

DAY = 20_000 * DAY_NS


def an_hour(hour: int, model: str, server: str = "a", **fields: float) -> Total:
    return Total(DAY + hour * HOUR_NS, {"model": model, "server": server}, fields)


def test_hours_make_days_and_tags_that_were_not_asked_about_are_added_up() -> None:
    hours = [an_hour(1, "m", "a", active_j=1.0), an_hour(2, "m", "b", active_j=2.0), an_hour(25, "m", active_j=4.0)]
    assert added_up(hours, ("model",), "day") == [
        Total(DAY, {"model": "m"}, {"active_j": 3.0}),
        Total(DAY + DAY_NS, {"model": "m"}, {"active_j": 4.0}),
    ]
    assert added_up(hours, (), "none") == [Total(None, {}, {"active_j": 7.0})]


def test_unknown_plus_known_is_known_and_unknown_alone_stays_unknown() -> None:
    (total,) = added_up([an_hour(1, "m", idle_j=1.0), an_hour(1, "m", active_j=2.0)], ("model",), "hour")
    assert total.fields == {"idle_j": 1.0, "active_j": 2.0}


def test_a_tag_that_a_sum_does_not_have_counts_as_empty() -> None:
    (total,) = added_up([an_hour(1, "m", active_j=1.0)], ("model", "tenant"), "hour")
    assert total.tags == {"model": "m", "tenant": ""}


def test_a_joined_name_matches_each_of_those_that_were_joined() -> None:
    both, other = an_hour(1, "m", "a+b"), an_hour(1, "m", "c")
    assert matching([both, other], {"server": ("b",)}) == [both]
    assert matching([both, other], {"server": ("c",), "model": ("n",)}) == []


@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from("mn"), st.integers(0, 10**9))))
def test_nothing_is_lost_or_added(told: list[tuple[int, str, int]]) -> None:
    hours = [an_hour(hour, model, active_j=float(joules)) for hour, model, joules in told]
    for step in ("none", "hour", "day"):
        assert sum(total.fields["active_j"] for total in added_up(hours, ("model",), step)) == sum(j for *_, j in told)
