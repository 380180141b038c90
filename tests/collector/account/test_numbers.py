"""Numbers side by side, and which windows a plan says all of."""

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from joulefleet.window import Window
from joulefleet_collector.account.numbers import Told, fit, numbers_of, told
from joulefleet_collector.account.plan import plan_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.skim import skim


def server(build: SimpleNamespace, whole_j: float = 2_000.0, **changed: Any) -> Window:
    board = build.meter("gpu0", 900, idle_w=70)
    meters = [build.meter("bmc", whole_j, kind="server"), board, build.meter("gpu1", 800, idle_w=70)]
    engines = [build.engine("e", ["gpu0", "gpu1"], [build.work(output_tokens=7)], running=(3, None))]
    window = build.window(meters, engines)
    for name, value in changed.items():
        place, field = {"m": (0, "meters"), "b": (1, "meters"), "e": (0, "engines")}[name[0]], name[2:]
        several = list(getattr(window, place[1]))
        several[place[0]] = msgspec.structs.replace(several[place[0]], **{field: value})
        window = msgspec.structs.replace(window, **{place[1]: tuple(several)})
    return window


def skimmed(*windows: Window) -> list[Told]:
    return [told(one) for one in (skim(window.encode()) for window in windows) if one is not None]


def fits(window: Window, policy: Policy) -> bool:
    planned, (found,) = plan_of(window, policy), skimmed(window)
    assert planned is not None
    return bool(fit(planned[0], numbers_of(planned[0], [found]), policy)[0])


def test_each_window_has_its_line_and_what_is_unknown_is_nan(build: SimpleNamespace) -> None:
    one, other = server(build), server(build, b_energy_uj=0, b_last_uj=0)
    planned = plan_of(one, Policy())
    assert planned is not None
    numbers = numbers_of(planned[0], skimmed(one, other))
    assert numbers.meters["energy_uj"].tolist() == [[2e9, 9e8, 8e8], [2e9, 0, 8e8]]
    assert np.isnan(numbers.meters["idle_mw"]).tolist() == [[True, False, False]] * 2
    assert numbers.counts["output_tokens"].tolist() == [[7.0], [7.0]]
    assert np.isnan(numbers.counts["requests_ok"]).all()
    assert numbers.engines["running_start"].tolist() == [[3.0], [3.0]]
    assert np.isnan(numbers.engines["running_end"]).all()
    assert numbers.of(np.array([False, True])).meters["energy_uj"].tolist() == [[2e9, 0, 8e8]]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"m_covered_ns": 57 * 10**9}, True),
        ({"m_covered_ns": 56 * 10**9}, False),
        ({"b_covered_ns": 56 * 10**9}, False),
        ({"e_covered_ns": 56 * 10**9}, False),
        ({"b_idle_mw": 2**52}, False),
        ({"whole_j": 1_700.0}, True),
        ({"whole_j": 1_699.999999}, False),
    ],
    ids=str,
)
def test_what_is_not_covered_or_lags_is_left_to_the_definition(
    build: SimpleNamespace, changed: dict[str, Any], expected: bool
) -> None:
    assert fits(server(build, **changed), Policy()) is expected


def test_how_much_must_be_covered_is_a_matter_of_policy(build: SimpleNamespace) -> None:
    half = server(build, b_covered_ns=30 * 10**9)
    assert not fits(half, Policy())
    assert fits(half, Policy(pair_threshold=0.5))
