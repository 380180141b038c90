"""Sums of money and CO2 of single hours, and how they add up."""

import re

import pytest

from joulefleet.grid import HOUR_NS
from joulefleet.units import years_to_s
from joulefleet_collector.answer.costs import Embodied, with_costs
from joulefleet_collector.answer.hours import added_up
from joulefleet_collector.answer.rates import Sites, SiteSeries
from joulefleet_collector.answer.series import Constant, Steps
from joulefleet_collector.store.store import Total

KWH = 3_600_000.0
ROW = {"active_j": KWH, "idle_j": KWH, "output_tokens_j": KWH, "output_tokens": 1e6, "requests_j": 2 * KWH}
ROW |= {"requests_ok": 10.0, "reserved_s": 7200.0}
PRICE = Steps((0, HOUR_NS, 2 * HOUR_NS), (0.1, -0.05, None))


def hours(number: int, **tags: str) -> list[Total]:
    return [Total(hour * HOUR_NS, {"site": "fra", "hardware": "h200"} | tags, ROW) for hour in range(number)]


def test_energy_times_the_price_of_its_hour_also_where_that_is_negative() -> None:
    rows = with_costs(hours(3), Sites({"fra": SiteSeries(price_per_kwh=PRICE, currency="EUR")}), [])
    assert [row.fields.get("cost.EUR") for row in rows] == [0.2, -0.1, None]
    (whole,) = added_up(rows, (), "none")
    assert whole.fields["cost.EUR"] == pytest.approx(0.1)
    assert whole.fields["output_tokens_cost.EUR"] == pytest.approx(0.05)
    assert (whole.fields["cost_j"], whole.fields["cost_output_tokens"]) == (4 * KWH, 2e6)
    assert whole.fields["output_tokens"] == 3e6, "the hour without a price has work"
    assert "co2_g" not in whole.fields


def test_grams_for_all_for_tokens_and_for_requests() -> None:
    (row,) = with_costs(hours(1), Sites({"": SiteSeries(carbon_g_per_kwh=Constant(300.0))}), [])
    assert (row.fields["co2_g"], row.fields["output_tokens_co2_g"], row.fields["requests_ok_co2_g"]) == (600, 300, 600)
    assert (row.fields["co2_j"], row.fields["co2_requests_ok"]) == (2 * KWH, 10.0)
    assert "embodied_g" not in row.fields


def test_where_no_energy_is_known_nothing_costs_anything() -> None:
    sites = Sites({"": SiteSeries(price_per_kwh=Constant(1.0), currency="EUR", carbon_g_per_kwh=Constant(1.0))})
    unknown = Total(0, {"site": "fra"}, {"window_s": 60.0, "unmetered_requests_ok": 1.0})
    assert with_costs([unknown], sites, []) == [unknown]


def test_the_making_of_a_server_by_the_time_that_its_devices_are_held() -> None:
    """Two of eight devices for an hour, of 4 years: a quarter of the server for that hour."""
    made = Embodied(hardware="h200", kg=1_000.0, years=4.0, devices=8)
    sites = Sites({"": SiteSeries(carbon_g_per_kwh=Constant(0.0))})
    (row,) = with_costs(hours(1), sites, [made])
    assert row.fields["embodied_g"] == pytest.approx(1_000_000 / 4 * 3600 / years_to_s(4))
    assert row.fields["embodied_requests_ok"] == 10.0
    (other,) = with_costs(hours(1, hardware="b200"), sites, [made])
    assert "embodied_g" not in other.fields


@pytest.mark.parametrize("fields", [{"kg": -1.0}, {"years": 0.0}, {"devices": 0}, {"kg": float("nan")}])
def test_hardware_that_cannot_be_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=re.escape("'h200': kg may not be negative")):
        Embodied(**({"hardware": "h200", "kg": 1.0, "years": 1.0} | fields))
