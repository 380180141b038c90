"""Watts fitted to windows: right where windows tell them, refused with a reason where they do not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.account.fit import (
    BOTH,
    DECODE,
    LEAST_WINDOWS,
    PREFILL,
    Sums,
    by_model,
    fit,
    fits,
    gathered,
    non_negative,
    solved,
    sums_of,
)
from joulefleet_collector.account.policy import BusyWatts

LABELS = [(model, phase) for model in ("a", "b") for phase in (PREFILL, DECODE)]
WATTS = np.array([400.0, 250.0, 600.0, 0.0])
CHANCE = np.random.default_rng(5)
BUSY_S = CHANCE.uniform(0, 15, (300, 4))


def test_the_regression_vector_gives_idle_power_and_joules_of_each_token() -> None:
    told = np.array([(60, 30_000, 9_000), (60, 60_000, 3_000), (60, 0, 0), (60, 15_000, 18_000)], np.float64)
    found = solved(
        sums_of([("", name) for name in ("time", "in", "out")], told, np.array([8_400, 7_800, 6_000, 9_900.0]))
    )
    assert found.values == pytest.approx([100, 0.02, 0.2], rel=1e-9)
    assert found.residual < 1e-6


def test_watts_are_found_again_by_model_and_phase() -> None:
    found = fit("H100", sums_of(LABELS, BUSY_S, BUSY_S @ WATTS))
    assert (found.refused, found.windows, found.models) == ("", 300, ("a", "b"))
    assert found.watts == (
        BusyWatts(hardware="H100", model="a", prefill_w=400.0, decode_w=250.0),
        BusyWatts(hardware="H100", model="b", prefill_w=600.0, decode_w=0.0),
    )
    assert found.condition is not None and found.condition < 10
    assert found.residual is not None and found.residual < 1e-6


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.floats(-3, 3), min_size=n, max_size=n), min_size=n, max_size=8),
            st.lists(st.floats(-9, 9), min_size=n, max_size=n),
        )
    )
)
def test_what_is_found_is_the_best_that_is_not_negative(drawn: tuple[list[list[float]], list[float]]) -> None:
    matrix, moments = np.array(drawn[0]), np.array(drawn[1])
    products = matrix.T @ matrix + 0.1 * np.eye(len(moments))
    found = non_negative(products, moments)
    gradient = moments - products @ found
    # The conditions of Karush, Kuhn and Tucker: they hold at the one best point and nowhere else.
    assert (found >= 0).all()
    assert (gradient <= 1e-8).all()
    assert gradient[found > 0] == pytest.approx(0, abs=1e-8)


def test_sums_of_parts_are_the_sums_of_all() -> None:
    parts = [sums_of(LABELS, BUSY_S[rows], BUSY_S[rows] @ WATTS) for rows in (slice(0, 100), slice(100, 300))]
    whole = sums_of(LABELS, BUSY_S, BUSY_S @ WATTS)
    assert fit("H", gathered(parts)).watts == fit("H", whole).watts
    merged, models = by_model(whole), BUSY_S.reshape(300, 2, 2).sum(axis=2)
    assert merged.products == pytest.approx(models.T @ models)
    assert merged.labels == (("a", BOTH), ("b", BOTH))


def test_phases_that_rise_and_fall_together_have_one_watt() -> None:
    decode = CHANCE.uniform(1, 10, (300, 2))
    busy_s = np.stack([0.5 * decode[:, 0], decode[:, 0], 0.5 * decode[:, 1], decode[:, 1]], axis=1)
    found = fit("H", sums_of(LABELS, busy_s, busy_s @ [300, 300, 100, 100]))
    assert [(each.prefill_w, each.decode_w) for each in found.watts] == [(300.0, 300.0), (100.0, 100.0)]


def test_a_phase_that_was_never_seen_is_taken_to_draw_as_the_other() -> None:
    busy_s = BUSY_S * [0, 1, 1, 1]
    found = fit("H", sums_of(LABELS, busy_s, busy_s @ WATTS))
    assert [(each.prefill_w, each.decode_w) for each in found.watts] == [(250.0, 250.0), (600.0, 0.0)]


def few() -> Sums:
    busy_s = BUSY_S.copy()
    busy_s[LEAST_WINDOWS - 1 :] = 0
    return sums_of(LABELS, busy_s, busy_s @ WATTS)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (few(), "199 windows, fewer than 200"),
        (sums_of(LABELS, BUSY_S[:, [0, 0, 0, 0]], BUSY_S[:, 0]), "rise and fall together"),
        (sums_of(LABELS, BUSY_S, BUSY_S @ WATTS + CHANCE.normal(0, 5_000, 300)), "no better than 10%"),
        (sums_of(LABELS, BUSY_S, BUSY_S @ [300, 200, 0, 0]), "no watts can be told of b"),
        (sums_of(LABELS, BUSY_S, np.zeros(300)), "no better"),
    ],
    ids=["few", "never apart", "noise", "nothing drawn", "no joules"],
)
def test_what_windows_do_not_tell_is_refused(told: Sums, why: str) -> None:
    found = fit("H100", told)
    assert why in found.refused
    assert found.watts == ()


def test_models_that_no_board_links_are_fitted_apart_so_that_one_does_not_spoil_another() -> None:
    def on(*models: str) -> Sums:
        labels = [(model, BOTH) for model in models]
        busy_s = BUSY_S[:, : len(models)]
        return sums_of(labels, busy_s, busy_s @ [100.0 * (ord(model) - 96) for model in models])

    worthless = sums_of([("z", BOTH)], BUSY_S[:5, :1], BUSY_S[:5, 0])
    found = fits("H", [on("a", "b"), worthless, on("c", "d"), on("b", "c")])
    assert [(each.models, bool(each.refused)) for each in found] == [(("a", "b", "c", "d"), False), (("z",), True)]
    assert [each.decode_w for each in found[0].watts] == [100.0, 200.0, 300.0, 400.0]


def test_where_one_board_does_not_tell_phases_none_are_told() -> None:
    with_phases = sums_of(LABELS, BUSY_S, BUSY_S @ [200, 200, 300, 300])
    without = sums_of([("a", BOTH)], BUSY_S[:, :1], BUSY_S[:, 0] * 200)
    (found,) = fits("H", [with_phases, without])
    assert [(each.prefill_w, each.decode_w) for each in found.watts] == [(200.0, 200.0), (300.0, 300.0)]
