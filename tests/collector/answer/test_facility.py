"""The fleet times the PUE of its site in each hour; an hour without one is missing, and not taken as 1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.grid import HOUR_NS
from joulefleet_collector.answer.facility import WITHOUT_PUE, with_facility
from joulefleet_collector.answer.hours import added_up
from joulefleet_collector.answer.overhead import energy_j
from joulefleet_collector.answer.rates import Sites, SiteSeries
from joulefleet_collector.answer.series import Constant, Series, Steps
from joulefleet_collector.store.store import Total
from joulefleet_collector.usage import usage_figures

S1 = {
    "active_j": 51_255.0,
    "idle_j": 23_200.0,
    "output_tokens_j": 74_455.0,
    "counter_j": 74_455.0,
    "output_tokens": 30_000.0,
    "requests_ok": 100.0,
    "unmetered_requests_ok": 1.0,
    "late_requests_ok": 2.0,
    "window_s": 60.0,
    "paired_s": 60.0,
}


def fleet(hours: int, boundary: str = "fleet", site: str = "fra") -> list[Total]:
    return [Total(hour * HOUR_NS, {"boundary": boundary, "site": site}, S1) for hour in range(hours)]


def at(pue: Series | None) -> Sites:
    return Sites({"fra": SiteSeries(pue=pue)})


def test_t6_at_a_pue_of_1_2() -> None:
    (row,) = with_facility(fleet(1), at(Constant(1.2)))
    assert row.tags["boundary"] == "facility"
    figures = usage_figures(row)
    assert figures["joules_per_output_token"] == pytest.approx(2.9782, abs=5e-5)
    assert (row.fields["counter_j"], row.fields["modelled_j"]) == (74_455.0, pytest.approx(14_891.0))


def test_each_hour_has_its_own_pue() -> None:
    rows = with_facility(fleet(2), at(Steps((0, HOUR_NS), (1.5, 2.0))))
    assert [energy_j(row.fields) / 74_455.0 for row in rows] == [1.5, 2.0]


def test_an_hour_without_pue_is_time_that_does_not_pair() -> None:
    rows = with_facility(fleet(10), at(Steps((0, 9 * HOUR_NS), (2.0, None))))
    (whole,) = added_up(rows, ("boundary",), "none")
    assert energy_j(whole.fields) == pytest.approx(9 * 2 * 74_455.0)
    assert (whole.fields["window_s"], whole.fields["paired_s"], whole.fields[WITHOUT_PUE]) == (600.0, 540.0, 60.0)
    assert (whole.fields["requests_ok"], whole.fields["unmetered_requests_ok"]) == (900.0, 9.0 + 101.0)
    assert whole.fields["late_requests_ok"] == 20.0
    figures = usage_figures(whole)
    assert (figures["status"], figures["joules_per_output_token"]) == ("partial", pytest.approx(2 * 74_455 / 30_000))


def test_without_any_pue_no_energy_is_known() -> None:
    for sites in (at(None), Sites({})):
        (row,) = with_facility(fleet(1), sites)
        figures = usage_figures(row)
        assert (figures["energy_j"], figures["joules_per_request"], figures["status"]) == (None, None, "refused")


def test_only_what_is_at_fleet_becomes_of_the_facility() -> None:
    assert with_facility(fleet(1, boundary="server"), at(Constant(1.2))) == []


@given(st.floats(1, 3), st.lists(st.floats(0, 1e9), min_size=2, max_size=2))
def test_the_facility_uses_no_less_than_the_fleet(pue: float, joules: list[float]) -> None:
    """I6 from `fleet` to `facility`."""
    before = Total(0, {"boundary": "fleet", "site": "fra"}, S1 | dict(zip(("active_j", "idle_j"), joules, strict=True)))
    (after,) = with_facility([before], at(Constant(pue)))
    assert all(after.fields[name] >= value for name, value in before.fields.items())
