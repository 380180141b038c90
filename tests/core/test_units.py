"""Units: known values, and ways there and back."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet import units

wholes = st.integers(0, 2**50)


def test_known_values() -> None:
    assert units.s_to_ns(1.5) == 1_500_000_000
    assert units.ms_to_ns(0.25) == 250_000
    assert units.us_to_ns(7) == 7_000
    assert units.bytes_to_mb(1_500_000) == 1.5
    assert units.bytes_to_gb(2_500_000_000) == 2.5
    assert units.ns_to_ms(250_000) == 0.25
    assert units.ns_to_us(2_999) == 2
    assert units.j_to_uj(0.1) == 100_000
    assert units.mj_to_uj(3) == 3_000
    assert units.steps_to_uj(2**32 * 7 + 2**31, Fraction(1, 2**32)) == 7_500_000
    assert units.steps_to_uj(3, Fraction(1, 7)) == 428_571, "rounded down"
    assert units.wh_to_uj(0.24) == 864_000_000
    assert units.kwh_to_uj(0.1) == 360_000_000_000
    assert units.wh_to_uj(0.5) == 1_800_000_000
    assert units.w_to_mw(0.4127) == 413
    assert units.kw_to_mw(2.5) == 2_500_000
    assert units.mw_to_w(412_340) == 412.34
    assert units.mw_ns_to_uj(700_000 * 10**9) == 700_000_000, "700 W for 1 s is 700 J"
    assert units.uj_over_ns_to_mw(700_000_000, 10**9) == 700_000
    # 0.24 Wh is 864 J, as in published figures of energy per prompt.
    assert units.j_to_wh(864) == pytest.approx(0.24, rel=1e-12)
    assert units.j_to_kwh(3_600_000) == 1.0
    # 240 J a request are 66.667 Wh per 1000; 0.2435 J a token are 0.067639 kWh per million.
    assert units.wh_per_thousand(240) == pytest.approx(66.6667, abs=5e-5)
    assert units.kwh_per_million(0.2435) == pytest.approx(0.067639, abs=5e-7)
    assert units.w_s_to_uj(1.5, 60) == 90_000_000
    assert units.years_to_s(4) == 1461 * 86_400
    # T18: 6,500 kg over 50 G tokens are 130 g a million tokens.
    assert units.per_million(units.kg_to_g(6_500), 50e9) == pytest.approx(130)
    assert units.g_to_kg(units.per_million(units.kg_to_g(6_500), 50e9)) == pytest.approx(0.13)


@given(wholes)
def test_there_and_back(whole: int) -> None:
    assert units.s_to_ns(units.ns_to_s(whole)) == whole
    assert units.j_to_uj(units.uj_to_j(whole)) == whole
    assert units.w_to_mw(units.mw_to_w(whole)) == whole


@given(wholes, st.integers(1, 2**62))
def test_mean_power_is_rounded_to_the_nearest_milliwatt(energy_uj: int, length_ns: int) -> None:
    power_mw = units.uj_over_ns_to_mw(energy_uj, length_ns)
    assert abs(2 * (energy_uj * 10**6 - power_mw * length_ns)) <= length_ns


@given(st.integers(0, 2**90))
def test_energy_of_a_gauge_is_rounded_down(picojoules: int) -> None:
    energy_uj = units.mw_ns_to_uj(picojoules)
    assert energy_uj * 10**6 <= picojoules < (energy_uj + 1) * 10**6


def test_a_rate_by_the_day() -> None:
    assert units.per_day(2.0) == 172_800.0
