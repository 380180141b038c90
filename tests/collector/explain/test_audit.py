"""Windows against the sums of the report, hour by hour."""

from joulefleet.grid import HOUR_NS, rfc3339
from joulefleet_collector.explain.audit import Audit, audit
from joulefleet_collector.explain.figure import figure_named

FIGURE = figure_named("joules_per_output_token")


def sums(window_s: float = 3_600.0, active_j: float = 10.0, **more: float) -> dict[str, float]:
    return {
        "window_s": window_s,
        "paired_s": window_s,
        "active_j": active_j,
        "idle_j": 1.0,
        "output_tokens_j": active_j + 1,
        "output_tokens": 5.0,
    } | more


def compared(windows: dict[int, dict[str, float]], report: dict[int, dict[str, float]]) -> Audit:
    return audit(
        {hour * HOUR_NS: one for hour, one in windows.items()},
        {hour * HOUR_NS: one for hour, one in report.items()},
        FIGURE,
    )


def test_the_same_sums_agree_but_for_the_order_of_adding() -> None:
    found = compared({1: sums(active_j=10.0 + 1e-9)}, {1: sums()})
    assert found.agrees and not found.sums_only and not found.differ
    assert [one.field for one in found.fields] == [
        "window_s",
        "paired_s",
        "active_j",
        "idle_j",
        "output_tokens_j",
        "output_tokens",
    ]
    assert all(abs(one.residual) < 1e-8 for one in found.fields)


def test_hours_of_which_windows_are_gone_rest_on_sums_and_are_left_out_of_the_comparison() -> None:
    found = compared({3: sums(600.0), 4: sums()}, {hour: sums() for hour in (1, 2, 3, 4)})
    assert found.agrees
    assert [(one.since, one.until) for one in found.sums_only] == [(rfc3339(HOUR_NS), rfc3339(4 * HOUR_NS))]
    assert (found.fields[0].windows, found.fields[0].sums) == (3_600.0, 3_600.0)


def test_an_hour_with_the_same_windows_and_other_sums_differs() -> None:
    found = compared({1: sums(), 2: sums(active_j=11.0), 4: sums(active_j=11.0)}, {1: sums(), 2: sums(), 4: sums()})
    assert not found.agrees and len(found.differ) == 2
    assert {one.field: one.residual for one in found.fields if one.residual} == {
        "active_j": 2.0,
        "output_tokens_j": 2.0,
    }


def test_windows_that_came_meanwhile_are_no_disagreement() -> None:
    found = compared({1: sums(), 2: sums(60.0)}, {1: sums()})
    assert found.agrees and len(found.windows_only) == 1


def test_a_field_that_only_one_side_knows_is_no_difference() -> None:
    assert compared({1: sums(reserved_s=5.0)}, {1: sums()}).agrees
