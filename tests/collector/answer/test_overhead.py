"""Energy that grows with other energy: what scales, and how the added part is known."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.answer.overhead import Overhead, energy_j, grown
from joulefleet_collector.usage import relative_uncertainty

ROW = {
    "active_j": 80.0,
    "idle_j": 20.0,
    "requests_j": 100.0,
    "by_exclusive_j": 100.0,
    "prefill_idle_j": 3.0,
    "allocation_j": 2.0,
    "independent_j2": 4.0,
    "counter_j": 90.0,
    "modelled_j": 10.0,
    "class_onboard_j": 90.0,
    "class_modelled_j": 10.0,
    "requests_ok": 7.0,
    "window_s": 60.0,
}


def test_joules_grow_and_counts_do_not() -> None:
    more = grown(ROW, 1.5)
    for name in ("active_j", "idle_j", "requests_j", "by_exclusive_j", "prefill_idle_j", "allocation_j"):
        assert more[name] == ROW[name] * 1.5
    assert more["independent_j2"] == 9.0, "a square grows with the square"
    assert (more["requests_ok"], more["window_s"]) == (7.0, 60.0)


def test_what_is_added_is_modelled() -> None:
    more = grown(ROW, 1.5)
    assert (more["counter_j"], more["modelled_j"]) == (90.0, 60.0)
    assert (more["class_onboard_j"], more["class_modelled_j"]) == (90.0, 60.0)
    assert relative_uncertainty(more) > relative_uncertainty(ROW)


@given(st.floats(1, 3), st.floats(1, 3))
def test_two_factors_are_their_product(one: float, other: float) -> None:
    assert grown(grown(ROW, one), other) == pytest.approx(grown(ROW, one * other))
    assert energy_j(grown(ROW, one)) == pytest.approx(100 * one)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"watts": 0.0, "pool": "p"}, "0 W of 'network': write more than 0"),
        ({"watts": float("inf"), "pool": "p"}, "inf W of 'network'"),
        ({"watts": float("nan"), "pool": "p"}, "nan W of 'network'"),
        ({"watts": 5.0}, "'network' serves no pool and no site"),
    ],
)
def test_overhead_that_is_none_is_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Overhead(what="network", **fields)


def test_overhead_serves_what_it_names() -> None:
    of_pool, of_both = Overhead(what="n", watts=1.0, pool="p"), Overhead(what="n", watts=1.0, pool="p", site="s")
    assert of_pool.serves("p", "anywhere")
    assert not of_pool.serves("q", "anywhere")
    assert of_both.serves("p", "s")
    assert not of_both.serves("p", "t")
