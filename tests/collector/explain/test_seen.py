"""What of a window belongs to a figure is what accounting put into its row."""

from collections.abc import Callable
from typing import Any

import pytest

from joulefleet.window import Window
from joulefleet_collector.account.account import account
from joulefleet_collector.account.layout import layout_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.explain.scope import Wanted
from joulefleet_collector.explain.seen import Seen, stage_of

Shared = Callable[..., Window]
See = Callable[..., Seen | None]


def seen(see: See, *of: Any) -> Seen:
    found = see(*of)
    assert found is not None
    return found


def test_the_joules_of_one_engine_are_those_worked_out_by_hand(shared: Shared, see: See) -> None:
    found = seen(see, shared())
    assert found.energy_uj == 20_560_000_000
    assert found.charged_by_meter_uj() == {"gpu0": 20_560_000_000}
    assert (found.fields["active_j"], found.fields["idle_j"]) == (18_400.0, 2_160.0)


@pytest.mark.parametrize("where", [{}, {"model": ("model-b",)}, {"software": ("vllm",), "server": ("n1", "n2")}])
def test_the_fields_are_those_of_the_rows(shared: Shared, see: See, where: dict[str, tuple[str, ...]]) -> None:
    window = shared()
    found = seen(see, window, Wanted("accelerator", {"boundary": ("accelerator",), **where}))
    rows = [
        row.fields
        for row in account(window, Policy())
        if row.kind == "usage" and all(row.tags.get(tag) in values for tag, values in where.items())
    ]
    assert len(rows) == (1 if "model" in where else 2)
    for name in ("active_j", "idle_j", "output_tokens", "by_busy_j", "independent_j2", "window_s"):
        assert found.fields[name] == sum(fields[name] for fields in rows)
    assert sum(found.spread()) == pytest.approx(found.fields["independent_j2"])


@pytest.mark.parametrize("where", [{"server": ("n2",)}, {"model": ("other",)}, {"rack": ("r1",)}])
def test_a_window_of_which_nothing_belongs_to_it_is_passed_over(
    shared: Shared, see: See, where: dict[str, tuple[str, ...]]
) -> None:
    assert see(shared(), Wanted("accelerator", where)) is None


def test_a_gateway_is_no_engine_of_a_figure(shared: Shared, an_engine: Any, see: See) -> None:
    front = an_engine("front", 1.0, 0, 5_000)
    front.engine = type(front.engine)(id="front", software="litellm", front=True)
    window = shared(engines=(front,))
    assert stage_of(window, Wanted("accelerator", {}), Policy(), layout_of) is None


def test_a_boundary_that_its_meters_do_not_tell_has_nothing(shared: Shared, see: See) -> None:
    assert see(shared(), Wanted("server", {})) is None


def test_what_the_terms_leave_open_is_told_apart(shared: Shared, see: See) -> None:
    covered = shared(board={"covered_ns": 58_000_000_000})
    exact, missing = seen(see, shared()).spread(), seen(see, covered).spread()
    # Idle power is known to 5 % of 2,160 J.
    assert exact.idle_j2 == pytest.approx((2_160 * 0.05) ** 2)
    assert exact.missing_j2 == 0 and missing.missing_j2 > 0
    assert exact.edges_j2 > 0
