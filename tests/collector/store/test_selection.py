"""A question in SQL: what is bound, what is checked."""

import pytest

from joulefleet_collector.store.rollup import grains, pieces
from joulefleet_collector.store.selection import selection
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS, Question


def test_values_are_bound_and_never_written_into_the_statement() -> None:
    nasty = "'; DROP TABLE windows; --"
    asked = Question(kind="usage", since_ns=0, until_ns=DAY_NS, by=("model",), where={"model": (nasty,)})
    statement, values = selection(asked, pieces(0, DAY_NS, grains("usage", 0, True)), ("active_j",))
    assert nasty not in statement
    assert values == [0, DAY_NS, '$."model"', '$."model"', nasty]
    assert statement.count("?") == len(values)


def test_every_piece_is_read_from_its_own_table() -> None:
    asked = Question(kind="usage", since_ns=MINUTE_NS, until_ns=2 * DAY_NS)
    statement, values = selection(asked, pieces(MINUTE_NS, 2 * DAY_NS, grains("usage", 0, True)), ("active_j",))
    assert [name for name in ("usage_minute", "usage_fleet_hour", "usage_fleet_day") if name in statement] == [
        "usage_minute",
        "usage_fleet_hour",
        "usage_fleet_day",
    ]
    assert len(values) == 6


def test_a_field_that_is_no_sum_is_refused() -> None:
    asked = Question(kind="meter", since_ns=0, until_ns=DAY_NS)
    with pytest.raises(ValueError, match=r"energy_j\) FROM"):
        selection(asked, pieces(0, DAY_NS, grains("meter", 0, False)), ("energy_j) FROM x --",))
