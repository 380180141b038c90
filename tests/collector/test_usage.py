"""Figures from sums: worked vectors, reasons, uncertainty."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.store.store import Total
from joulefleet_collector.usage import RATIOS, ledger_figures, status, usage_figures

FULL = {
    "window_s": 60.0,
    "paired_s": 60.0,
    "active_j": 80.0,
    "idle_j": 20.0,
    "counter_j": 100.0,
    "class_onboard_j": 100.0,
    "by_exclusive_j": 100.0,
    "requests_ok": 10.0,
    "output_tokens": 1000.0,
    "total_tokens": 4000.0,
    "requests_j": 100.0,
    "requests_active_j": 80.0,
    "output_tokens_j": 100.0,
    "output_tokens_active_j": 80.0,
    "total_tokens_j": 100.0,
    "total_tokens_active_j": 80.0,
}


def figures(without: tuple[str, ...] = (), **changes: float) -> dict[str, Any]:
    sums = {name: value for name, value in {**FULL, **changes}.items() if name not in without}
    return usage_figures(Total(None, {"model": "m", "boundary": "server", "simulated": "false"}, sums))


def test_the_figures_of_a_full_row() -> None:
    row = figures()
    assert (row["model"], row["boundary"], row["simulated"], row["status"], row["coverage"]) == (
        "m",
        "server",
        False,
        "ok",
        1.0,
    )
    assert row["joules_per_request"] == 10.0
    assert row["joules_per_output_token"] == 0.1
    assert row["joules_per_total_token"] == 0.025
    assert row["joules_per_request_active"] == 8.0
    assert row["joules_per_output_token_active"] == 0.08
    assert row["joules_per_total_token_active"] == 0.02
    assert row["output_tokens_per_joule"] == pytest.approx(10.0)
    assert (row["energy_j"], row["joules_by_grade"], row["joules_by_method"]) == (
        100.0,
        {"counter": 100.0},
        {"exclusive": 100.0},
    )
    assert (set(row["reasons"]), row["notes"], row["measured_share"]) == ({"joules_per_prompt_token"}, [], 1.0)
    assert row["reasons"]["joules_per_prompt_token"].endswith("ask by phase")


def test_units_as_in_the_worked_vector() -> None:
    """240 J a request: 66.667 Wh per 1,000; 0.2435 J a token: 0.067639 kWh per million, 4.1068 tokens a joule."""
    row = figures(requests_j=2400.0, output_tokens_j=243.5)
    assert row["wh_per_1k_requests"] == pytest.approx(66.667, abs=5e-4)
    assert row["kwh_per_million_output_tokens"] == pytest.approx(0.067639, abs=5e-7)
    assert row["output_tokens_per_joule"] == pytest.approx(4.1068, abs=5e-5)


def test_ratio_of_sums_and_not_mean_of_ratios() -> None:
    assert figures(requests_j=72_000.0, requests_ok=1010.0)["joules_per_request"] == pytest.approx(71.287, abs=1e-3)


@pytest.mark.parametrize(
    ("paired", "expected"),
    [(60, "ok"), (57, "ok"), (56.9, "partial"), (48, "partial"), (47.9, "refused"), (0, "refused")],
)
def test_status_follows_coverage(paired: float, expected: str) -> None:
    assert figures(paired_s=paired)["status"] == expected


def test_every_figure_is_refused_with_its_reason_where_coverage_is_low() -> None:
    row = figures(paired_s=36.0)
    assert {name: row[name] for name in row["reasons"]} == dict.fromkeys(row["reasons"])
    assert len(row["reasons"]) == len(RATIOS) + 3
    assert "60.0% of the time pairs" in row["reasons"]["joules_per_request"]
    assert row["energy_j"] == 100.0
    assert status(None) == "refused"


def test_nothing_done_is_no_figure_and_its_energy_stands() -> None:
    row = figures(requests_ok=0.0, output_tokens=0.0, total_tokens=0.0)
    assert row["joules_per_request"] is None
    assert row["reasons"]["joules_per_request"] == "no finished requests in this time"
    assert row["reasons"]["wh_per_1k_requests"] == "no finished requests in this time"
    assert row["energy_j"] == 100.0


def test_what_is_not_counted_is_unknown_and_not_zero() -> None:
    row = figures(without=("output_tokens", "output_tokens_j", "output_tokens_active_j", "total_tokens"))
    assert row["output_tokens"] is None and row["joules_per_output_token"] is None
    assert "the engine does not tell them" in row["reasons"]["joules_per_output_token"]
    assert row["joules_per_request"] == 10.0
    assert row["cached_tokens"] is None and row["unmetered_requests_ok"] is None


def test_an_energy_that_is_not_known_is_no_figure() -> None:
    assert "no energy is known" in figures(without=("requests_j",))["reasons"]["joules_per_request"]
    row = figures(without=("active_j", "idle_j"))
    assert (row["energy_j"], row["relative_uncertainty"], row["measured_share"]) == (None, None, None)


def test_counts_for_a_part_of_the_energy_are_noted() -> None:
    row = figures(output_tokens_j=80.0)
    assert row["joules_per_output_token"] == 0.08
    assert row["notes"] == ["joules_per_output_token: output tokens are counted for 80.0% of the energy"]


def test_requests_in_flight_bound_the_figure() -> None:
    """R from 40 to 64 with 1,200 requests: 2 %."""
    row = figures(running_delta=24.0, requests_ok=1200.0)
    assert (row["edge_bound"], row["notes"]) == (0.02, [])
    row = figures(running_delta=-120.0, requests_ok=1200.0)
    assert row["edge_bound"] == 0.1 and "10%" in row["notes"][0]


def test_uncertainty_of_one_class_is_its_gain() -> None:
    assert figures()["relative_uncertainty"] == pytest.approx(0.05)
    assert figures(class_onboard_j=0.0, class_modelled_j=100.0)["relative_uncertainty"] == pytest.approx(0.15)


def test_uncertainty_joins_its_terms_in_squares() -> None:
    row = figures(
        class_onboard_j=60.0,
        class_modelled_j=40.0,
        independent_j2=9.0,
        allocation_j=4.0,
        running_delta=1.0,
    )
    expected = math.sqrt((0.6 * 0.05) ** 2 + (0.4 * 0.15) ** 2 + 9.0 / 100.0**2 + 0.04**2 + (0.1 / math.sqrt(3)) ** 2)
    assert row["relative_uncertainty"] == pytest.approx(expected)


def test_shares_of_models_and_catalogues() -> None:
    row = figures(modelled_j=25.0, counter_j=75.0, idle_default_j=20.0)
    assert (row["measured_share"], row["idle_default_share"]) == (0.75, 0.2)
    assert row["joules_by_grade"] == {"counter": 75.0, "modelled": 25.0}


def of_phase(phase: str, sums: dict[str, float]) -> dict[str, Any]:
    return usage_figures(
        Total(None, {"boundary": "server", "phase": phase}, {"window_s": 60.0, "paired_s": 60.0, **sums})
    )


def test_a_phase_has_the_figures_of_its_own_tokens_and_says_whose_the_others_are() -> None:
    """Of 39,087 J, 8,437 J in 200 computed prompt tokens and 30,650 J in 300 output tokens."""
    requests = {"requests_ok": 10.0}
    prefill = of_phase(
        "prefill", {"computed_tokens": 200.0, "computed_tokens_j": 8437.0, "requests_j": 8437.0, **requests}
    )
    assert (prefill["joules_per_prompt_token"], prefill["joules_per_request"]) == (42.185, 843.7)
    assert prefill["reasons"]["joules_per_output_token"] == "output tokens are of decode"
    decode = of_phase("decode", {"output_tokens": 300.0, "output_tokens_j": 30_650.0, **requests})
    assert decode["joules_per_output_token"] == pytest.approx(102.1667, abs=1e-4)
    assert decode["reasons"]["joules_per_prompt_token"] == "computed prompt tokens are of prefill"
    assert "of prefill and decode" in decode["reasons"]["joules_per_total_token"]
    assert of_phase("", {})["reasons"]["joules_per_output_token"] == "output tokens are of decode"
    assert "does not tell" in of_phase("prefill", {})["reasons"]["joules_per_prompt_token"]


@given(
    st.dictionaries(st.sampled_from(sorted(FULL)), st.integers(0, 10**12).map(lambda micro: micro / 1e6), max_size=16)
)
def test_any_sums_give_figures_that_are_finite_or_null_with_a_reason(sums: dict[str, float]) -> None:
    row = usage_figures(Total(None, {}, sums))
    for name in (*(ratio.name for ratio in RATIOS), "wh_per_1k_requests", "output_tokens_per_joule"):
        value = row[name]
        assert (value is None) == (name in row["reasons"])  # type: ignore[operator]  # reasons is a dict
        assert value is None or math.isfinite(value)  # type: ignore[arg-type]  # a float where not None


def test_the_ledger_tells_every_term_and_power_where_covered() -> None:
    sums = {"window_s": 60.0, "covered_s": 60.0, "metered_j": 600.0, "unattributed_j": 600.0, "residual_uj": 0.0}
    entry = ledger_figures(Total(None, {"server": "a", "boundary": "server", "simulated": "true"}, sums))
    assert (entry["mean_power_w"], entry["unattributed_j"], entry["idle_j"]) == (10.0, 600.0, None)
    assert (entry["server"], entry["simulated"], entry["coverage"]) == ("a", True, 1.0)
    assert ledger_figures(Total(None, {}, {**sums, "covered_s": 30.0}))["mean_power_w"] is None
