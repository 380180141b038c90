"""Figures of cost and CO2, and the reasons why there are none."""

from typing import Any

import pytest

from joulefleet.grid import HOUR_NS
from joulefleet.units import years_to_s
from joulefleet_collector.answer.cost_figures import NAMES, with_cost_figures
from joulefleet_collector.answer.costs import Embodied, with_costs
from joulefleet_collector.answer.facility import with_facility
from joulefleet_collector.answer.hours import added_up
from joulefleet_collector.answer.rates import Sites, SiteSeries
from joulefleet_collector.answer.series import Constant, Steps
from joulefleet_collector.store.store import Total
from joulefleet_collector.usage import usage_figures

KWH = 3_600_000.0
ROW = {"active_j": KWH, "idle_j": KWH, "window_s": 3600.0, "paired_s": 3600.0, "reserved_s": 3600.0}
ROW |= {"output_tokens_j": 2 * KWH, "output_tokens": 1e7, "requests_j": 2 * KWH, "requests_ok": 1_000.0}
SITE = SiteSeries(
    pue=Constant(1.5), price_per_kwh=Constant(0.2), currency="EUR", carbon_g_per_kwh=Steps((0, 2 * HOUR_NS), (100, 400))
)
MADE = Embodied(hardware="h200", kg=10.0, years=1.0)


def figures(sites: dict[str, SiteSeries], *rows: dict[str, Any], hours: int = 4, made: bool = True) -> dict[str, Any]:
    """Of all these rows over so many hours, as one sum."""
    totals = [
        Total(hour * HOUR_NS, {"boundary": "fleet", "site": "fra", "hardware": "h200"} | row.get("tags", {}), ROW | row)
        for row in rows or ({},)
        for hour in range(hours)
    ]
    totals = [Total(t.start_ns, t.tags, {n: v for n, v in t.fields.items() if n != "tags"}) for t in totals]
    rates = Sites(sites)
    costed = with_costs(with_facility(totals, rates), rates, [MADE] if made else [])
    (whole,) = added_up(costed, ("boundary",), "none")
    return with_cost_figures(usage_figures(whole), whole)


def test_money_and_grams_for_the_whole_and_for_one() -> None:
    """3 kWh an hour for four hours; two hours at 100 g and two at 400 g."""
    told = figures({"fra": SITE})
    assert (told["cost"], told["currency"]) == (pytest.approx(2.4), "EUR")
    assert told["cost_per_million_output_tokens"] == pytest.approx(2.4 / 40)
    assert told["co2_kg"] == pytest.approx(3.0)
    assert told["co2_kg_per_million_output_tokens"] == pytest.approx(3.0 / 40)
    assert told["co2_g_per_request"] == pytest.approx(3_000 / 4_000)
    assert told["sci_g_per_request"] == pytest.approx(0.75 + 10_000 * 3600 / years_to_s(1) / 1_000)
    assert not told["reasons"].keys() & set(NAMES)
    assert not told["notes"]


def test_t18_grams_a_million_tokens() -> None:
    """6,500 kg over 50 G tokens are 0.13 kg a million, and not 130."""
    row = ROW | {"output_tokens": 50e9, "active_j": 3.25e4 * KWH, "idle_j": 0.0, "output_tokens_j": 3.25e4 * KWH}
    site = SiteSeries(pue=Constant(1.0), carbon_g_per_kwh=Constant(200.0))
    told = figures({"fra": site}, row, hours=1)
    assert (told["co2_kg"], told["co2_kg_per_million_output_tokens"]) == (pytest.approx(6_500), pytest.approx(0.13))


def test_without_a_pue_nothing_is_told_and_all_say_why() -> None:
    told = figures({"fra": SiteSeries(price_per_kwh=Constant(1.0), currency="EUR", carbon_g_per_kwh=Constant(1.0))})
    assert [told[name] for name in (*NAMES, "joules_per_request", "energy_j")] == [None] * (len(NAMES) + 2)
    reason = "no PUE is known for 100.0% of the time: [[sites]] in the collector's configuration gives it"
    assert {told["reasons"][name] for name in (*NAMES, "joules_per_request")} == {reason}


def test_without_a_price_or_an_intensity_there_is_none() -> None:
    told = figures({"fra": SiteSeries(pue=Constant(1.1))})
    assert told["joules_per_request"] is not None
    assert {told["reasons"][name].split(" is ")[0] for name in NAMES} == {"the price", "the carbon intensity"}
    assert "known for 0.0% of the energy" in told["reasons"]["cost"]


def test_a_gap_refuses_the_whole_and_a_ratio_tells_of_the_part_that_is_known() -> None:
    price = Steps((0, 9 * HOUR_NS, 10 * HOUR_NS), (0.2, None, None))
    site = SiteSeries(pue=Constant(1.5), price_per_kwh=price, currency="EUR", carbon_g_per_kwh=Constant(1.0))
    told = figures({"fra": site}, hours=10)
    assert told["cost"] is None
    assert told["reasons"]["cost"].startswith("the price is known for 90.0% of the energy")
    assert told["cost_per_million_output_tokens"] == pytest.approx(0.6 / 10), "as in the hours that have a price"
    assert told["notes"] == ["cost per token and request: the price is known for 90.0% of the energy"]
    assert told["co2_kg"] is not None
    longer = figures({"fra": site}, hours=20)
    assert (longer["cost"], longer["cost_per_million_output_tokens"]) == (None, None)


def test_a_short_gap_of_the_pue_is_a_note_and_no_reason() -> None:
    told = figures({"fra": SiteSeries(pue=Steps((0, 9 * HOUR_NS), (1.0, None)))}, hours=10)
    assert (told["status"], told["energy_j"]) == ("partial", 9 * 2 * KWH)
    assert told["notes"] == ["no PUE is known for 10.0% of the time: no figure of the facility contains it"]


def test_currencies_are_never_added() -> None:
    usd = SiteSeries(pue=Constant(1.5), price_per_kwh=Constant(0.1), currency="USD", carbon_g_per_kwh=Constant(1.0))
    told = figures({"fra": SITE, "iad": usd}, {}, {"tags": {"site": "iad"}})
    assert (told["cost"], told["cost_per_million_output_tokens"], told["currency"]) == (None, None, None)
    assert told["reasons"]["cost"] == "in several currencies (EUR, USD): ask by site"
    assert told["co2_kg"] is not None


def test_without_embodied_emissions_of_all_hardware_there_is_no_sci_and_co2_is_still_given() -> None:
    for rows in (({"tags": {"hardware": "h100"}},), ({}, {"tags": {"hardware": "h100"}})):
        told = figures({"fra": SITE}, *rows)
        assert told["co2_g_per_request"] == pytest.approx(0.75)
        assert told["sci_g_per_request"] is None
        assert "[[embodied]] names hardware" in told["reasons"]["sci_g_per_request"]


def test_what_was_not_counted_has_no_ratio() -> None:
    told = figures({"fra": SITE}, {"requests_ok": 0.0})
    assert (
        told["reasons"]["co2_g_per_request"]
        == told["reasons"]["sci_g_per_request"]
        == "no finished requests in this time"
    )
    assert told["cost_per_million_output_tokens"] is not None


def test_where_too_little_pairs_there_is_no_ratio_and_the_energy_costs_what_it_costs() -> None:
    told = figures({"fra": SITE}, {"paired_s": 360.0})
    assert told["cost"] == pytest.approx(2.4)
    assert told["reasons"]["cost_per_million_output_tokens"].startswith("coverage too low: 10.0%")


def test_energy_of_nothing_costs_nothing() -> None:
    none = {"active_j": 0.0, "idle_j": 0.0, "output_tokens_j": 0.0, "requests_j": 0.0}
    assert figures({"fra": SITE}, none)["cost"] == 0.0
