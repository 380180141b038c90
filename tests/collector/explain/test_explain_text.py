"""The text that a person reads first: the equation, the joules, what is doubtful; windows where they are asked for."""

from collections.abc import Callable
from typing import Any

import pytest

from joulefleet.window import Window
from joulefleet_collector.account.policy import BusyWatts, Policy
from joulefleet_collector.explain.explain_text import explained

Shared = Callable[..., Window]


@pytest.fixture
def text(put: Callable[..., int], told: Callable[..., dict[str, Any]]) -> Callable[..., str]:
    """What is told of these windows, of model a."""

    def of(*windows: Window, width: int | None = None, full: bool = False) -> str:
        put(*windows)
        return explained(told(model="model-a"), width, full)

    return of


def test_the_short_form_has_the_equation_first_and_no_window(text: Callable[..., str], shared: Shared) -> None:
    lines = text(shared()).splitlines()
    assert lines[0] == (
        "joules_per_output_token: model model-a, hardware H100, boundary accelerator; all until 2027-01-16T11:47:00Z"
    )
    assert lines[2] == "  20,560.0 J (1 window of 60 s, 1 server) / 9,000 output tokens = 2.284 J/token"
    assert lines[4] == "  coverage 100.0%: ok, ±13.8% (k=1)"
    heads = [line for line in lines if line and not line.startswith((" ", "-"))]
    assert [head for head in heads if head in {"Where the joules come from", "What is doubtful", "Check"}] == [
        "Where the joules come from",
        "What is doubtful",
        "Check",
    ]
    assert any(line.startswith("- splits that are not measured") and line.endswith("by 12.8%") for line in lines)
    assert not any(line.startswith("Window 20") for line in lines)


def test_buckets_methods_and_what_the_neighbour_got_are_told(text: Callable[..., str], shared: Shared) -> None:
    said = text(shared())
    assert "in the same windows: 9.167 Wh metered = 5.711 Wh this figure + 3.456 Wh other engines and models" in said
    assert "not in the sum: gpu0-again of n1 (second_source_of gpu0)" in said
    assert "policy version 1: pair_threshold 0.95" in said
    assert "busy_watts none" in said


def test_watts_of_the_policy_are_told_by_model(
    put: Callable[..., int], told: Callable[..., dict[str, Any]], shared: Shared
) -> None:
    put(shared())
    models = ("model-a", "model-b")
    watts = tuple(BusyWatts(hardware="H100", model=model, prefill_w=400.0, decode_w=200.5) for model in models)
    said = explained(told(Policy(busy_watts=watts), model="model-a"), None, False)
    form = "hardware=H100 model={} prefill_w=400.0 decode_w=200.5"
    assert "busy_watts " + "; ".join(form.format(model) for model in models) in said


def test_windows_are_told_with_counters_charges_and_obstacles(text: Callable[..., str], shared: Shared) -> None:
    hung = {"covered_ns": 30 * 10**9, "gaps_ns": {"hung": 30 * 10**9}}
    said = text(shared(0), shared(1, board=hung), full=True)
    assert "1,000,000,000  34,000,000,000" in said
    assert "engine a on 40% of gpu0: covered 60 s, pairs with 60 s" in said
    assert "does not pair: meter gpu0 was covered too little, 30 of 57 s (hung 30 s)" in said
    assert "18,400,000,000" in said and "9,200,000,000" in said


def test_a_narrow_terminal_loses_columns_and_no_sentence(text: Callable[..., str], shared: Shared) -> None:
    said = text(shared(), width=80)
    table = said.split("\n\nMeters\n")[1].splitlines()[:2]
    assert all(len(line) <= 80 for line in table)
    assert "counter, uJ" not in said
