"""Demand: the day's course and recorded arrivals, in whole numbers that add up."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.config import ConfigError
from joulefleet.units import NS_PER_S
from joulefleet_agent.simulate.catalogue import Deployment, Hardware, Model
from joulefleet_agent.simulate.demand import Amounts, Demand, daily, from_arrivals, read_arrivals

BEGIN_NS = 1_767_225_600 * NS_PER_S
HOUR_NS = 3_600 * NS_PER_S
HARDWARE = Hardware(name="h", boards=4, board_idle_w=100.0, board_max_w=500.0, cost=2.0)
MODEL = Model(name="m", j_per_prompt_token=0.01, j_per_output_token=0.1, prompt_tokens=1_000.0, output_tokens=100.0)
DEPLOYMENT = Deployment(pool="p", hardware="h", model="m", utilisation=0.5, swing=0.8, peak_h=15.0)
AZURE = Path(os.environ.get("JOULEFLEET_DATA", Path(__file__).parents[4] / "shared/data")) / (
    "azure/AzureLLMInferenceTrace_conv.csv"
)
DAY = daily(DEPLOYMENT, HARDWARE, MODEL, BEGIN_NS)


def over(demand: Demand, from_ns: int, until_ns: int) -> Amounts:
    return Amounts(*(b - a for a, b in zip(demand.at(from_ns), demand.at(until_ns), strict=True)))


def test_a_day_has_the_mean_power_and_the_tokens_that_it_takes() -> None:
    day = over(DAY, BEGIN_NS, BEGIN_NS + 24 * HOUR_NS)
    # Half of four boards' 400 W above idle; a request takes 1,000 * 0.01 + 100 * 0.1 J, twice that on this hardware.
    assert day.dynamic_uj / 1e6 == pytest.approx(0.5 * 4 * 400 * 86_400, rel=1e-5)
    assert day.requests == pytest.approx(0.5 * 4 * 400 * 86_400 / 40, rel=1e-5)
    assert day.prompt_tokens == pytest.approx(1_000 * day.requests, rel=1e-4)
    assert day.dynamic_uj / 1e6 == pytest.approx(2 * (0.01 * day.prompt_tokens + 0.1 * day.output_tokens), rel=1e-9)


def test_the_day_is_highest_at_its_peak_and_lowest_half_a_day_later() -> None:
    hours = [over(DAY, BEGIN_NS + h * HOUR_NS, BEGIN_NS + (h + 1) * HOUR_NS).dynamic_uj for h in range(24)]
    assert max(hours) in hours[14:16]
    assert min(hours) in hours[2:4]
    assert max(hours) / min(hours) == pytest.approx(1.8 / 0.2, rel=0.05)
    assert DAY.peak_mw == pytest.approx(800_000 * 1.8, rel=0.01)


def test_a_day_repeats_and_is_anchored_at_midnight() -> None:
    later = daily(DEPLOYMENT, HARDWARE, MODEL, BEGIN_NS + 5 * HOUR_NS)
    for begin_ns in (BEGIN_NS + 7 * HOUR_NS, BEGIN_NS + 48 * HOUR_NS):
        assert over(DAY, begin_ns, begin_ns + HOUR_NS) == over(later, begin_ns, begin_ns + HOUR_NS)
    assert over(DAY, BEGIN_NS, BEGIN_NS + HOUR_NS) == over(DAY, BEGIN_NS + 72 * HOUR_NS, BEGIN_NS + 73 * HOUR_NS)


@given(st.lists(st.integers(0, 90 * 3_600 * NS_PER_S), min_size=2, max_size=5))
def test_work_never_falls(offsets: list[int]) -> None:
    states = [DAY.at(BEGIN_NS + offset) for offset in sorted(offsets)]
    assert all(a <= b for one, other in pairwise(states) for a, b in zip(one, other, strict=True))


def test_within_a_slot_work_runs_straight() -> None:
    demand = Demand(0, 100, [Amounts(10, 20, 30, 1_000), Amounts(0, 0, 0, 0)])
    assert demand.at(0) == (0, 0, 0, 0)
    assert demand.at(25) == (2, 5, 7, 250)
    assert demand.at(100) == demand.at(199) == (10, 20, 30, 1_000)
    assert demand.at(250) == (15, 30, 45, 1_500)


def trace(path: Path, *rows: str) -> Path:
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"{row}\n" for row in rows))
    return path


def test_arrivals_fall_into_the_minutes_of_their_trace(tmp_path: Path) -> None:
    rows = ("2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:16:46.6805800,26,6", "2023-11-16 18:18:46.7,100,10")
    minutes = [(2.0, 400.0, 50.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 100.0, 10.0)]
    assert read_arrivals(trace(tmp_path / "t.csv", *rows)) == minutes


def test_arrivals_give_course_and_mix_and_the_deployment_the_mean(tmp_path: Path) -> None:
    loads = read_arrivals(trace(tmp_path / "t.csv", "2023-11-16 18:00:00,100,50", "2023-11-16 18:01:30,300,10"))
    demand = from_arrivals(loads, DEPLOYMENT, HARDWARE, MODEL, BEGIN_NS)
    both = over(demand, BEGIN_NS, BEGIN_NS + 120 * NS_PER_S)
    first = over(demand, BEGIN_NS, BEGIN_NS + 60 * NS_PER_S)
    assert both.dynamic_uj / 1e6 == pytest.approx(800 * 120, rel=1e-4)
    assert both.prompt_tokens / both.output_tokens == pytest.approx(400 / 60, rel=1e-3)
    assert first.prompt_tokens / first.output_tokens == pytest.approx(2, rel=1e-3)
    assert over(demand, BEGIN_NS + 120 * NS_PER_S, BEGIN_NS + 180 * NS_PER_S) == first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "no request in it"),
        ("a,b\n1,2\n", "line 2: expected the columns TIMESTAMP"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,5,x\n", "line 2: expected"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,5,-1\n", "negative tokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nnoon,5,1\n", "line 2: expected"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,5\n", "line 2: expected"),
    ],
)
def test_a_trace_that_cannot_be_read_is_refused_by_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_arrivals(tmp_path / "t.csv")


def test_a_trace_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_arrivals(tmp_path / "none.csv")


@pytest.mark.skipif(not AZURE.exists(), reason=f"{AZURE} is not there (JOULEFLEET_DATA)")
def test_the_public_trace_of_conversations_has_its_mix() -> None:
    loads = read_arrivals(AZURE)
    requests = sum(load.requests for load in loads)
    assert requests == 19_366
    assert sum(load.prompt_tokens for load in loads) / requests == pytest.approx(1154.70, abs=0.01)
    assert sum(load.output_tokens for load in loads) / requests == pytest.approx(211.13, abs=0.01)
    demand = from_arrivals(loads, DEPLOYMENT, HARDWARE, MODEL, BEGIN_NS)
    day = over(demand, BEGIN_NS, BEGIN_NS + 24 * HOUR_NS)
    assert day.dynamic_uj / 1e6 == pytest.approx(800 * 86_400, rel=0.02)
