"""Phases: whose the tokens are, that energy adds up, and that joules per request do too."""

import pytest
from hypothesis import given

from fixtures.hourly import sums, total
from joulefleet.units import j_to_uj
from joulefleet_collector.answer.hours import added_up
from joulefleet_collector.answer.phases import split, worth_telling
from joulefleet_collector.store.store import Total
from joulefleet_collector.usage import usage_figures

HOUR = {
    "window_s": 3600.0,
    "paired_s": 3600.0,
    "active_j": 1800.0,
    "idle_j": 300.0,
    "prefill_active_j": 600.0,
    "prefill_idle_j": 50.0,
    "decode_active_j": 1200.0,
    "decode_idle_j": 150.0,
    "prefill_low_j": 250.0,
    "prefill_high_j": 1250.0,
    "counter_j": 2100.0,
    "class_onboard_j": 2100.0,
    "idle_default_j": 30.0,
    "requests_j": 2100.0,
    "requests_active_j": 1800.0,
    "output_tokens_j": 2100.0,
    "output_tokens_active_j": 1800.0,
    "total_tokens_j": 2100.0,
    "requests_ok": 10.0,
    "prompt_tokens": 900.0,
    "cached_tokens": 250.0,
    "output_tokens": 270.0,
    "total_tokens": 920.0,
    "unmetered_prompt_tokens": 7.0,
    "unmetered_requests_ok": 2.0,
    "running_delta": -3.0,
    "reserved_s": 2100.0,
    "independent_j2": 441.0,
    "allocation_j": 21.0,
    "restarts": 1.0,
}
"""Idle of 100 J is of no phase."""
SHARED = {"window_s": 3600.0, "paired_s": 3600.0, "requests_ok": 10.0, "unmetered_requests_ok": 2.0}
SHARED |= {"running_delta": -3.0, "restarts": 1.0}


def by_phase(fields: dict[str, float]) -> dict[str, dict[str, float]]:
    return {part.tags["phase"]: part.fields for part in split([total(fields)])}


def test_each_phase_has_its_energy_its_tokens_and_all_requests() -> None:
    phases = by_phase(HOUR)
    assert phases["prefill"] == SHARED | {
        "active_j": 600.0,
        "idle_j": 50.0,
        "counter_j": 650.0,
        "class_onboard_j": 650.0,
        "idle_default_j": 5.0,
        "requests_j": 650.0,
        "requests_active_j": 600.0,
        "prompt_tokens": 900.0,
        "cached_tokens": 250.0,
        "unmetered_prompt_tokens": 7.0,
        "computed_tokens": 650.0,
        "computed_tokens_j": 650.0,
        "reserved_s": 650.0,
        "independent_j2": pytest.approx(441 * (650 / 2100) ** 2),
        "allocation_j": 506.5,
    }
    assert phases["decode"] == SHARED | {
        "active_j": 1200.0,
        "idle_j": 150.0,
        "counter_j": 1350.0,
        "class_onboard_j": 1350.0,
        "idle_default_j": 15.0,
        "requests_j": 1350.0,
        "requests_active_j": 1200.0,
        "output_tokens": 270.0,
        "output_tokens_j": 1350.0,
        "output_tokens_active_j": 1200.0,
        "reserved_s": 1350.0,
        "independent_j2": pytest.approx(441 * (1350 / 2100) ** 2),
        "allocation_j": 513.5,
    }
    assert (phases[""]["active_j"], phases[""]["idle_j"], phases[""]["requests_j"]) == (0.0, 100.0, 100.0)
    assert "output_tokens" not in phases[""] and "prompt_tokens" not in phases[""]


def test_figures_of_the_phases() -> None:
    figures = [usage_figures(part) for part in split([total(HOUR)])]
    assert [row["joules_per_request"] for row in figures] == [65.0, 135.0, 10.0]
    assert [row["joules_per_prompt_token"] for row in figures] == [1.0, None, None]
    assert [row["joules_per_output_token"] for row in figures] == [None, 5.0, None]
    assert [row["joules_per_output_token_active"] for row in figures] == [None, pytest.approx(1200 / 270), None]


def test_prompts_of_which_cached_ones_are_not_told_are_all_computed() -> None:
    """8,437 of 39,087 J by the engine's own time, 200 prompt tokens: 42.185 J each."""
    phases = by_phase(
        {"active_j": 39_087.0, "prefill_active_j": 8437.0, "decode_active_j": 30_650.0, "prompt_tokens": 200.0}
    )
    assert phases["prefill"]["computed_tokens_j"] / phases["prefill"]["computed_tokens"] == 42.185


def test_energy_of_who_counts_no_output_pays_for_none() -> None:
    """40 J of decode, of which 30 J belong to an engine that counts its output."""
    phases = by_phase({"active_j": 50.0, "prefill_active_j": 10.0, "decode_active_j": 40.0, "output_tokens_j": 30.0})
    assert phases["decode"]["output_tokens_j"] == 30.0


def test_what_has_no_phase_stays_whole() -> None:
    for fields in ({"active_j": 5.0, "requests_ok": 2.0}, {"idle_j": 1.0, "prefill_idle_j": 0.0, "decode_idle_j": 0.0}):
        assert by_phase(fields) == {"": fields}


def test_an_hour_in_which_nothing_pairs_lowers_the_coverage_of_the_phases() -> None:
    missing = {"window_s": 3600.0, "paired_s": 0.0, "left_out_j": 70.0, "unmetered_output_tokens": 9.0}
    idle = {"window_s": 3600.0, "paired_s": 3600.0, "idle_j": 5.0, "active_j": 0.0}
    hours = [total(fields, hour) for hour, fields in enumerate((HOUR, missing, idle))]
    rows = {one.tags["phase"]: one.fields for one in added_up(split(hours), ("phase",), "none")}
    assert (rows["prefill"]["window_s"], rows["prefill"]["paired_s"]) == (7200.0, 3600.0)
    assert usage_figures(Total(None, {"phase": "decode"}, rows["decode"]))["status"] == "refused"
    assert rows["decode"]["unmetered_output_tokens"] == 9.0
    assert {fields["left_out_j"] for fields in rows.values()} == {70.0}
    assert rows[""]["idle_j"] == HOUR["idle_j"] - 200.0 + idle["idle_j"]


def test_who_has_no_phases_has_none_for_an_hour_in_which_nothing_pairs() -> None:
    missing = total({"window_s": 3600.0, "paired_s": 0.0}, 1, model="other")
    assert [one.tags["phase"] for one in split([total(HOUR), missing])][3:] == [""]


def test_rows_of_no_phase_stay_where_they_tell_something() -> None:
    known = split([total({"active_j": 3.0, "prefill_active_j": 1.0, "decode_active_j": 2.0, "requests_ok": 1.0})])
    assert [one.tags["phase"] for one in worth_telling(known)] == ["prefill", "decode"]
    alone = split([total({"requests_ok": 0.0})])
    assert worth_telling(alone) == alone
    unpaired = split([total({"unmetered_output_tokens": 5.0}, hour=1)])
    several = added_up([*known, *unpaired], ("model", "phase"), "none")
    assert worth_telling(several) == several
    left_out = added_up([*known, *split([total({"left_out_j": 5.0}, hour=1)])], ("model", "phase"), "none")
    assert [one.tags["phase"] for one in worth_telling(left_out)] == ["decode", "prefill"]


@given(sums())
def test_phases_add_up_to_the_undivided_hour(fields: dict[str, float]) -> None:
    parts = split([total(fields)])
    alone = len(parts) == 1
    for name, value in fields.items():
        shared = [part.fields[name] for part in parts if name in part.fields]
        if name.startswith(("prefill", "decode", "total_tokens", "output_tokens_", "independent", "allocation")):
            continue
        if name.endswith("_j"):
            assert sum(map(j_to_uj, shared)) == j_to_uj(value)
        elif name.endswith("_tokens"):
            assert shared == [value]
        elif name == "reserved_s":
            assert sum(shared) == pytest.approx(value)
        else:
            assert shared == [value] * (1 if alone else 3)


@given(sums())
def test_a_row_of_a_phase_is_a_row_of_that_energy(fields: dict[str, float]) -> None:
    for part in split([total(fields)]):
        if part.tags["phase"]:
            for bucket in ("active_j", "idle_j"):
                energy = j_to_uj(fields.get(f"{part.tags['phase']}_{bucket}", 0.0))
                assert j_to_uj(part.fields[bucket]) == energy
        figures = usage_figures(Total(None, part.tags, part.fields))
        assert figures["energy_j"] is None or figures["energy_j"] >= 0  # type: ignore[operator]  # a number where known
