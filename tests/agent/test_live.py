"""The lines of figures that `joulefleet up` prints."""

from typing import Any

from joulefleet_agent.live import lines_of


def entry(server: str = "a", boundary: str = "server", **changes: Any) -> dict[str, Any]:
    figures = {"metered_j": 12_345.6, "covered_s": 60.0, "window_s": 60.0, "joules_by_grade": {"counter": 12_345.6}}
    return {"server": server, "boundary": boundary, "simulated": False, **figures, **changes}


def row(server: str = "a", boundary: str = "server", **changes: Any) -> dict[str, Any]:
    named = {"model": "llama", "version": "1.2", "hardware": "H200", "simulated": False, "reasons": {}}
    figures = {"joules_per_output_token": 0.24361, "joules_per_request": 71.287, "joules_by_grade": {"counter": 5.0}}
    return {"server": server, "boundary": boundary, **named, **figures, **changes}


def answer(ledger: list[dict[str, Any]], rows: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"ledger": ledger, "rows": rows or []}


def test_nothing_is_said_while_nothing_is_stored() -> None:
    assert lines_of(answer([])) == []


def test_a_server_and_its_models() -> None:
    assert lines_of(answer([entry()], [row(), row(model="qwen", joules_per_request=None)])) == [
        "a: 205.8 W, 12,346 J in 60 s, boundary server, counter",
        "  llama 1.2 on H200: 0.2436 J/output token, 71.29 J/request, counter",
        "  qwen 1.2 on H200: 0.2436 J/output token, counter",
    ]


def test_of_each_server_the_widest_boundary_is_told_with_the_models_at_it() -> None:
    ledger = [entry("b", "compute"), entry("a", "server"), entry("a", "accelerator"), entry("b", "accelerator")]
    rows = [row("a", "accelerator"), row("a", "server"), row("b", "compute"), row("b", "accelerator")]
    told = lines_of(answer(ledger, rows))
    assert [line.split(":")[0] for line in told] == ["a", "  llama 1.2 on H200", "b", "  llama 1.2 on H200"]
    assert "boundary server" in told[0] and "boundary compute" in told[2]


def test_time_that_is_not_covered_gives_no_watts_and_is_told_once_it_lasts() -> None:
    for nothing in (0.0, None):
        uncovered: dict[str, Any] = {"covered_s": nothing, "metered_j": nothing, "joules_by_grade": {}}
        assert lines_of(answer([entry(**uncovered, window_s=10.0)], [row()])) == []
        assert lines_of(answer([entry(**uncovered, window_s=40.0)])) == ["a: no reading in 40 s, boundary server"]


def test_a_figure_that_is_refused_gives_its_reason() -> None:
    refused = row(joules_per_output_token=None, joules_per_request=None, reasons={"joules_per_request": "too little"})
    assert lines_of(answer([entry()], [refused]))[1] == "  llama 1.2 on H200: too little, counter"


def test_grades_stand_by_weight_and_simulated_joules_say_so() -> None:
    mixed = entry(joules_by_grade={"counter": 1.0, "modelled": 9.0}, simulated=True)
    assert lines_of(answer([mixed]))[0].endswith("modelled + counter, SIMULATED")


def test_what_has_no_name_is_called_unknown() -> None:
    nameless = row(model="", version="", hardware="")
    assert lines_of(answer([entry()], [nameless]))[1].startswith("  unknown model on unknown hardware: ")
