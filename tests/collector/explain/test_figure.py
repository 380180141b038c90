"""Each figure of a report can be explained, as the division that makes it."""

import pytest

from joulefleet_collector.answer.cost_figures import NAMES
from joulefleet_collector.api import BadQuestion
from joulefleet_collector.explain.figure import FIGURES, equation, figure_named
from joulefleet_collector.store.store import Total
from joulefleet_collector.usage import RATIOS, usage_figures

SUMS = {
    "active_j": 1_200_000.0,
    "idle_j": 34_567.0,
    "output_tokens_j": 1_234_567.0,
    "output_tokens": 5_432_100.0,
    "requests_j": 1_234_567.0,
    "requests_ok": 1_000.0,
    "window_s": 60.0,
    "paired_s": 60.0,
}


def of(name: str, sums: dict[str, float] = SUMS) -> str:
    row = usage_figures(Total(None, {}, sums))
    reasons = row["reasons"]
    assert isinstance(reasons, dict)
    value = row[name]
    assert value is None or isinstance(value, float)
    return equation(figure_named(name), sums, value, reasons.get(name, ""), "912 windows of 60 s, 3 servers")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "joules_per_output_token",
            "1,234,567.0 J (912 windows of 60 s, 3 servers) / 5,432,100 output tokens = 0.2273 J/token",
        ),
        (
            "output_tokens_per_joule",
            "1,234,567.0 J (912 windows of 60 s, 3 servers) / 5,432,100 output tokens = 0.2273 J/token;"
            " 1 / 0.2273 = 4.4 tokens/J",
        ),
        (
            "wh_per_1k_requests",
            "1,234,567.0 J (912 windows of 60 s, 3 servers) / 1,000 finished requests = 1,235 J/request;"
            " 1,235 x 1,000 / 3,600 J/Wh = 342.9 Wh/1k requests",
        ),
        ("energy_j", "1,200,000.0 J active + 34,567.0 J idle = 1,234,567 J (912 windows of 60 s, 3 servers)"),
    ],
)
def test_the_division_is_told_with_its_numbers(name: str, said: str) -> None:
    assert of(name) == said


def test_a_figure_that_is_refused_tells_what_it_would_have_been_made_of_and_why_it_is_not() -> None:
    assert of("joules_per_total_token").endswith(
        "/ an unknown number of computed prompt tokens and output tokens: no figure: no"
        " computed prompt tokens and output tokens counted: the engine does not tell them"
    )
    assert "0 output tokens: no figure: no output tokens in this time" in of(
        "joules_per_output_token", SUMS | {"output_tokens": 0.0}
    )


def test_every_ratio_and_what_is_made_from_one_can_be_explained() -> None:
    row = usage_figures(Total(None, {}, SUMS))
    ratios = {name for name in row if "_per_" in name}
    assert ratios == {name for name, figure in FIGURES.items() if figure.ratio} >= {ratio.name for ratio in RATIOS}
    rated = {name for name, figure in FIGURES.items() if figure.rated}
    assert rated == set(NAMES)
    assert all(name in row for name in FIGURES.keys() - rated)


def test_a_name_that_is_no_figure_is_refused_with_those_that_are() -> None:
    with pytest.raises(BadQuestion, match="'joules' is no figure; there are joules_per_output_token, "):
        figure_named("joules")
