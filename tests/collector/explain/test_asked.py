"""A question for an explanation is that for a report, and means one row of it."""

from typing import Any

import pytest

from joulefleet_collector.api import BadQuestion, parse_usage
from joulefleet_collector.explain.asked import DEFAULT_WINDOWS, one_row, parse_explain, tags_of

NOW_NS = 1_800_000_000_000_000_000


def row(**tags: Any) -> dict[str, Any]:
    return {"boundary": "server", "simulated": False, "model": "m", "hardware": "h"} | tags


def test_figure_and_windows_stand_beside_the_question() -> None:
    asked = parse_explain([("figure", "joules_per_request"), ("windows", "7"), ("model", "m")], NOW_NS)
    assert (asked.figure.name, asked.windows, asked.usage.where) == ("joules_per_request", 7, {"model": ("m",)})
    assert asked.usage == parse_usage([("model", "m")], NOW_NS)
    plain = parse_explain([], NOW_NS)
    assert (plain.figure.name, plain.windows) == ("joules_per_output_token", DEFAULT_WINDOWS)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ([("figure", "x")], "'x' is no figure"),
        ([("figure", "energy_j"), ("figure", "idle_j")], "'figure' is said twice"),
        ([("windows", "-1")], "no whole number from 0 to 100"),
        ([("windows", "101")], "no whole number from 0 to 100"),
        ([("step", "week")], "step 'week'"),
    ],
)
def test_what_cannot_be_asked_is_told(query: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(BadQuestion, match=said):
        parse_explain(query, NOW_NS)


def test_the_widest_boundary_is_meant_where_none_is_named() -> None:
    rows = [row(boundary=boundary) for boundary in ("accelerator", "server", "compute")]
    assert one_row(rows, parse_explain([], NOW_NS))["boundary"] == "server"
    assert one_row(rows[:1], parse_explain([], NOW_NS))["boundary"] == "accelerator"


def test_several_rows_are_named_by_that_in_which_they_differ() -> None:
    rows = [row(hardware=f"h{number}") for number in range(7)]
    with pytest.raises(
        BadQuestion, match=r"^7 rows match.*: hardware=h0, .*, hardware=h4 and 2 more; ask for one"
    ) as no:
        one_row(rows, parse_explain([], NOW_NS))
    assert "model=" not in str(no.value) and "step" not in str(no.value)
    with pytest.raises(BadQuestion, match="simulated=false, simulated=true"):
        one_row([row(), row(simulated=True)], parse_explain([], NOW_NS))
    with pytest.raises(BadQuestion, match=r"start=B; .* since and until"):
        one_row([row(start="A"), row(start="B")], parse_explain([("step", "hour")], NOW_NS))


def test_names_that_were_joined_are_asked_for_one_by_one_and_meant_together() -> None:
    asked = parse_explain([("hardware", "a+b"), ("model", "m")], NOW_NS)
    assert asked.usage.where == {"hardware": ("a+b", "a", "b"), "model": ("m",)}
    assert one_row([row(hardware=name) for name in ("a", "a+b", "b")], asked)["hardware"] == "a+b"


def test_no_row_is_told_as_such() -> None:
    with pytest.raises(BadQuestion, match="no engine of this question reported in this time"):
        one_row([], parse_explain([], NOW_NS))


def test_the_filters_leave_this_row_alone() -> None:
    asked = parse_usage([("by", "model,rack"), ("pool", "a"), ("pool", "b")], NOW_NS)
    assert tags_of(row(rack=""), asked) == {
        "pool": ("a", "b"),
        "model": ("m",),
        "rack": ("",),
        "boundary": ("server",),
        "simulated": ("false",),
    }
