"""The report as text: what stands on every row, what gives way on a narrow screen."""

from typing import Any

import pytest

from joulefleet_collector.report_table import Column, count, energy, grades, number, percent, report, table
from joulefleet_collector.store.store import Total
from joulefleet_collector.usage import ledger_figures, usage_figures

SUMS = {
    "window_s": 60.0,
    "paired_s": 60.0,
    "active_j": 8e6,
    "idle_j": 2e6,
    "counter_j": 8e6,
    "modelled_j": 2e6,
    "class_onboard_j": 1e7,
    "requests_ok": 12345.0,
    "requests_j": 1e7,
    "requests_active_j": 8e6,
}


def answer(*changes: dict[str, Any], by: tuple[str, ...] = ("model", "hardware"), step: str = "none") -> dict[str, Any]:
    rows = []
    for change in changes or ({},):
        tags = {"model": "llama-3.1-8b-instruct", "hardware": "NVIDIA H100", "boundary": "server", "simulated": "false"}
        sums = {**SUMS, **{name: value for name, value in change.items() if not isinstance(value, str)}}
        row = usage_figures(Total(None, {**tags, **{k: v for k, v in change.items() if isinstance(v, str)}}, sums))
        rows.append({"start": "2026-01-01T00:00:00Z", **row} if step != "none" else row)
    metered = {"window_s": 60.0, "covered_s": 60.0, "metered_j": 1.2e7, "active_j": 8e6, "residual_uj": 0.0}
    entry = ledger_figures(Total(None, {"boundary": "server", "simulated": "false"}, metered))
    warning = {"code": "modelled", "message": "some of it is modelled"}
    return {
        "since": "A",
        "until": "B",
        "by": list(by),
        "step": step,
        "rows": rows,
        "ledger": [entry],
        "warnings": [warning],
    }


def test_the_report_has_units_boundary_coverage_uncertainty_and_grade() -> None:
    text = report(answer(), None)
    head, line = text.splitlines()[2:4]
    for word in (
        "model",
        "hardware",
        "boundary",
        "J/request",
        "Wh/1k requests",
        "J/output token",
        "±",
        "coverage",
        "grade",
    ):
        assert word in head
    for word in (
        "llama-3.1-8b-instruct",
        "NVIDIA H100",
        "server",
        "810",
        "±5.0%",
        "2.778 kWh",
        "12,345",
        "100%",
    ):
        assert word in line
    assert "counter 80%+modelled 20%" in line
    assert "Where the metered energy went" in text and "3.333 kWh" in text
    assert "warning modelled: some of it is modelled" in text


def test_refused_figures_are_dashes_with_the_reason_below() -> None:
    text = report(answer({"paired_s": 30.0}, {}), None)
    assert "50% refused" in text
    assert (
        text.count(
            "row 1: no J/request and no J/output token: coverage too low: 50.0% of the time pairs, 80% is needed"
        )
        == 1
    )
    assert "row 2: no J/output token: no output tokens counted: the engine does not tell them" in text


def test_simulated_stands_on_every_such_row() -> None:
    lines = report(answer({"simulated": "true"}, {}, {"simulated": "true"}), None).splitlines()[3:6]
    assert ["SIMULATED" in line for line in lines] == [True, False, True]
    assert "real" in lines[1]
    assert "source" not in report(answer(), None)
    assert "SIMULATED" in report(answer({"simulated": "true"}), 20)


def test_steps_and_chosen_tags_have_columns() -> None:
    text = report(answer(by=("model",), step="hour"), None)
    head = text.splitlines()[2]
    assert head.startswith("start") and "model" in head and "hardware" not in head
    assert "2026-01-01T00:00:00Z" in text


def test_phases_have_a_column_of_prompt_tokens() -> None:
    prefill = {"phase": "prefill", "computed_tokens": 200.0, "computed_tokens_j": 8437.0}
    head, first, second = report(answer(prefill, {"phase": "decode"}, by=("phase",)), None).splitlines()[2:5]
    assert head.split()[:4] == ["phase", "boundary", "J/request", "J/prompt"]
    assert (first.split()[3], second.split()[3]) == ("42.19", "-")
    assert "J/prompt token" not in report(answer(), None)


def test_no_rows_is_said_and_the_ledger_stands() -> None:
    empty = {**answer(), "rows": [], "warnings": []}
    text = report(empty, None)
    assert "No engine of this question reported" in text and "metered" in text
    assert report({**empty, "ledger": []}, None).splitlines()[-1] == "No engine of this question reported in this time."


@pytest.mark.parametrize("width", [100, 120, 140, 200])
def test_lines_of_tables_fit_the_terminal_and_keep_what_matters(width: int) -> None:
    text = report(answer(), width)
    tables = [line for line in text.splitlines() if "server" in line or "boundary" in line]
    assert max(map(len, tables)) <= width
    for word in ("J/request", "J/output token", "coverage", "boundary", "grade"):
        assert word in text


def test_columns_give_way_before_texts_are_cut() -> None:
    columns = [Column("name", lambda row: str(row["name"]), right=False), Column("much", lambda row: "12345", drop=1)]
    rows = [{"name": "a-long-name-of-a-model"}]
    assert table(rows, columns, None).splitlines() == ["name                     much", "a-long-name-of-a-model  12345"]
    assert table(rows, columns, 22).splitlines()[1] == "a-long-name-of-a-model"
    assert table(rows, columns, 12).splitlines()[1] == "a-long-name…"
    assert table(rows, columns, 3).splitlines()[1] == "a-long-n…"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.067639, "0.06764"),
        (1234.5, "1,234"),
        (12.3456, "12.35"),
        (1e9, "1,000,000,000"),
        (-3.0, "-3"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_energies_shares_counts_and_grades() -> None:
    assert [energy(j) for j in (None, 0.0, 9999.0, 36_000.0, 3.6e6)] == ["-", "0 J", "9,999 J", "10 Wh", "1 kWh"]
    assert [percent(share) for share in (None, 0.954)] == ["-", "95%"]
    assert [count(value) for value in (None, 1234567.0)] == ["-", "1,234,567"]
    assert grades({"joules_by_grade": {"counter": 3.0}}) == "counter"
    assert grades({"joules_by_grade": {"modelled": 1.0, "counter": 3.0}}) == "counter 75%+modelled 25%"
    assert grades({"joules_by_grade": {}}) == "-"


FLEET = {
    "pools": [
        {
            **{"pool": "chat", "site": "", "simulated": False, "shared_j": 7.2e6, "overhead_j": 3.6e6},
            **{"unshared_j": 0.0, "unattributed_j": 5.0, "unmatched_j": 0.0},
        }
    ],
    "inventory": [{"pool": "chat", "coverage": 0.9, "silent_servers": 3}],
    "leaves_out": ["servers without an agent", "network"],
}
COSTS = {
    **{"cost": 12.345, "currency": "EUR", "cost_per_million_output_tokens": None, "co2_kg": 4.0},
    **{"co2_kg_per_million_output_tokens": 0.13, "co2_g_per_request": 0.2, "sci_g_per_request": None},
}


def test_cost_and_co2_have_a_table_of_their_own_where_they_are_told() -> None:
    told = answer({}, {"boundary": "facility"})
    told["rows"][1] |= COSTS
    told["rows"][1]["reasons"] |= {"sci_g_per_request": "nothing is declared"}
    text = report(told, None)
    head, *lines = text.split("Cost and CO2\n")[1].split("\n\n")[0].splitlines()
    assert [*map(str.strip, head.split("  "))][-1] == "SCI g/request"
    (line,) = lines
    assert line.split("facility")[1].split() == ["12.35", "EUR", "-", "4", "0.13", "0.2", "-"]
    assert "row 2: no SCI: nothing is declared" in text
    assert "Cost and CO2" not in report(answer(), None)


def test_a_fleet_tells_of_its_pools_its_inventory_and_what_it_leaves_out() -> None:
    text = report(answer() | {"fleet": FLEET}, None)
    pools = text.split("What pools use beside their engines\n")[1].splitlines()
    assert pools[1].split() == ["chat", "-", "2", "kWh", "1", "kWh", "0", "J", "5", "J", "0", "J"]
    inventory = text.split("What the inventory expects\n")[1].splitlines()
    assert inventory[1].split() == ["chat", "90.0%", "3"]
    assert "not in these figures: servers without an agent\nnot in these figures: network\n" in text
    assert "inventory" not in report(answer() | {"fleet": FLEET | {"inventory": None}}, None)
