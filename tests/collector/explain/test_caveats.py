"""What is doubtful is said in sentences that name the server, the sensor and the seconds."""

from collections.abc import Callable
from typing import Any

import pytest

from joulefleet.window import Window
from joulefleet_collector.account.layout import layout_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.explain.audit import Audit, Span
from joulefleet_collector.explain.caveats import basis, of_audit, of_sums, of_windows
from joulefleet_collector.explain.scope import Wanted
from joulefleet_collector.explain.tally import Tally
from joulefleet_collector.store.store import Total
from joulefleet_collector.usage import usage_figures

Shared = Callable[..., Window]


def tally_of(wanted: Wanted, *windows: Window) -> Tally:
    tally = Tally(wanted, Policy(), layout_of, 0)
    for window in windows:
        tally.add(window)
    return tally


def test_good_windows_leave_no_doubt(shared: Shared, wanted: Wanted) -> None:
    tally = tally_of(wanted, shared(0), shared(1, server="n2"))
    assert list(of_windows(tally)) == []
    assert basis(tally) == "2 windows of 60 s, 2 servers"


@pytest.mark.parametrize(
    ("board", "said"),
    [
        (
            {"covered_ns": 0, "gaps_ns": {"hung": 60 * 10**9}},
            "1 of 1 windows do not pair, and add neither joules nor work: meter 'gpu0' was covered too little (hung)"
            " on 'n1' in 1",
        ),
        ({"states": ("unvalidated",)}, "not yet agreed with its power gauge: 'gpu0' of 'n1' (state unvalidated)"),
        ({"late_uj": 2_500_000}, "2.5 J of these meters came after their windows had been sent"),
        ({"rejected_uj": 10**9}, "1,000.0 J of readings were refused as implausible"),
    ],
)
def test_each_fault_of_a_sensor_is_told(shared: Shared, wanted: Wanted, board: dict[str, Any], said: str) -> None:
    (told,) = of_windows(tally_of(wanted, shared(board=board)))
    assert said in told


def test_servers_whose_meters_do_not_tell_the_boundary_are_named(shared: Shared) -> None:
    (told,) = of_windows(tally_of(Wanted("server", {}), shared()))
    assert told == "1 windows of 1 servers ('n1') are not in it: their meters do not tell this boundary"
    assert basis(tally_of(Wanted("server", {}))) == "from sums, no window of it is kept"


def sentences(simulated: str = "false", **more: float) -> list[str]:
    sums = {"window_s": 60.0, "paired_s": 60.0, "active_j": 90.0, "idle_j": 10.0} | more
    return list(of_sums(sums, usage_figures(Total(None, {"simulated": simulated}, sums))))


def test_sums_tell_of_models_methods_and_work_without_joules() -> None:
    assert sentences() == []
    assert sentences("true") == ["simulated: no joule of it was ever used"]
    assert sentences(modelled_j=30.0) == ["30.0% of the energy is modelled, not measured"]
    (split,) = sentences(by_work_j=60.0, by_equal_j=20.0, by_exclusive_j=20.0)
    assert split.startswith("80.0% of the energy was split by work and equal")
    (idle,) = sentences(idle_default_j=10.0)
    assert idle == "10.0% of the energy is idle energy by a catalogue's idle power"
    (unmetered,) = sentences(unmetered_output_tokens=7.0, unmetered_requests_ok=1.0)
    assert unmetered == "1 requests with 7 output tokens have no joules beside them, and are left out"
    (moved,) = sentences(allocation_j=3.0)
    assert moved.endswith("other methods and weights would move it by 3.0%")
    (low,) = sentences(paired_s=54.0)
    assert low.startswith("coverage 90.0%")


def test_windows_that_are_gone_or_tell_other_sums_are_told_with_their_time() -> None:
    span = [Span(since="A", until="B")]
    nothing: dict[str, Any] = {"row_residual_j": 0.0, "fields": [], "sums_only": [], "windows_only": [], "differ": []}
    assert list(of_audit(Audit(agrees=True, **nothing))) == []
    (gone,) = of_audit(Audit(agrees=True, **nothing | {"sums_only": span}))
    assert gone == "not all windows of A to B are kept: that part rests on sums alone"
    (other,) = of_audit(Audit(agrees=False, **nothing | {"differ": span}))
    assert "A to B" in other and "joulefleet store recount" in other
    (more,) = of_audit(Audit(agrees=True, **nothing | {"windows_only": span}))
    assert "came while this was made" in more
    (off,) = of_audit(Audit(agrees=True, **nothing | {"row_residual_j": -2_500.0}))
    assert off.startswith("the row is -2,500.0 J off the hours it was made of")
