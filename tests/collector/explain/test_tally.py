"""Many windows gone through once: sums, meters, what was in the way, and the few that are told in full."""

from collections.abc import Callable, Iterable

import pytest

from joulefleet.grid import HOUR_NS
from joulefleet.window import Window
from joulefleet_collector.account.layout import layout_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.explain.scope import Wanted
from joulefleet_collector.explain.tally import Excluded, Hindrance, Tally

Shared = Callable[..., Window]


@pytest.fixture
def tally_of(wanted: Wanted) -> Callable[..., Tally]:
    def made(windows: Iterable[Window], listed: int = 2, of: Wanted = wanted) -> Tally:
        tally = Tally(of, Policy(), layout_of, listed)
        for window in windows:
            tally.add(window)
        return tally

    return made


def test_sums_are_kept_by_the_hour_and_meters_by_their_counters(shared: Shared, tally_of: Callable[..., Tally]) -> None:
    tally = tally_of(shared(minute) for minute in range(59, 62))
    assert (tally.windows, tally.servers, tally.unpaired) == (3, {"n1"}, 0)
    assert tally.energy_uj == 3 * 20_560_000_000
    hours = sorted(tally.by_hour)
    assert hours == [hours[0], hours[0] + HOUR_NS]
    assert [tally.by_hour[hour]["output_tokens"] for hour in hours] == [9_000, 18_000]
    (meter,) = tally.meters.values()
    assert (meter.first_uj, meter.last_uj) == (10**9 + 59 * 33 * 10**9, 10**9 + 62 * 33 * 10**9)
    assert (meter.energy_uj, meter.charged_uj, meter.jumps) == (99 * 10**9, 3 * 20_560_000_000, 0)
    assert tally.buckets_uj == {"active": 3 * 27_600 * 10**6, "idle": 3 * 5_400 * 10**6}
    assert tally.left_out == {Excluded("n1", "gpu0-again", "second_source_of", "gpu0")}


def test_a_window_that_is_missing_makes_the_counter_jump(shared: Shared, tally_of: Callable[..., Tally]) -> None:
    (meter,) = tally_of([shared(0), shared(2), shared(3)]).meters.values()
    assert (meter.jumps, meter.last_uj - meter.first_uj - meter.energy_uj) == (1, 33 * 10**9)


def test_what_was_in_the_way_is_counted_by_its_reason(shared: Shared, tally_of: Callable[..., Tally]) -> None:
    hung = {"covered_ns": 0, "gaps_ns": {"hung": 60 * 10**9}}
    tally = tally_of(shared(minute, board=hung if minute % 2 else {}) for minute in range(10))
    assert tally.unpaired == 5
    assert tally.hindrances == {Hindrance("n1", "meter", "gpu0", "hung"): 5}


def test_the_first_the_largest_and_one_of_each_odd_sort_are_told(
    shared: Shared, tally_of: Callable[..., Tally]
) -> None:
    windows = [shared(minute) for minute in range(8)]
    windows[5] = shared(5, board={"energy_uj": 40 * 10**9})
    windows[6] = shared(6, board={"late_uj": 7})
    windows[7] = shared(7, board={"late_uj": 8})
    stories = tally_of(windows, listed=1).stories()
    assert [(one.start[-6:-1], one.listed_as) for one in stories] == [
        ("00:00", ("first",)),
        ("05:00", ("largest",)),
        ("06:00", ("late",)),
    ]
    assert tally_of(windows, listed=0).stories() == []


def test_windows_of_others_and_of_other_boundaries_add_nothing(shared: Shared, tally_of: Callable[..., Tally]) -> None:
    at_server = Wanted("server", {"model": ("model-a",)})
    tally = tally_of([shared(), shared(engines=())], of=at_server)
    assert (tally.windows, dict(tally.elsewhere), tally.by_hour) == (0, {"n1": 1}, {})
