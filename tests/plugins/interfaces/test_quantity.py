"""Numbers with their units, as tools write them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_plugins.interfaces.quantity import ENERGY, MOST, POWER, BadOutput, number, time_ns, value_of


def code_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(BadOutput) as raised:
        call(*arguments)
    return raised.value.code


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (43, 43),
        ("43.9W", 43.9),
        (" 226 W ", 226),
        ("2578 Watts", 2578),
        ("+1.5e2", 150.0),
        (".5 watt", 0.5),
        (-3, -3),
    ],
)
def test_numbers_of_a_power(value: Any, expected: float) -> None:
    assert number(value, "W") == expected


@pytest.mark.parametrize("value", ["N/A", "", "[Not Supported]", "--", "1,234 W", "12 13", "0x1F", True, "9" * 6000])
def test_what_is_no_number(value: Any) -> None:
    assert code_of(number, value, "W") == "no_value"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300, "1e999", 2**80, "-1e30"])
def test_numbers_that_cannot_be(value: Any) -> None:
    assert code_of(number, value) == "implausible"


def test_another_unit_behind_the_number_is_refused() -> None:
    assert code_of(number, "226 mW", "W") == "unit"
    assert code_of(number, "226 MW", "mW") == "unit"
    assert number("226 mW", "mW") == 226
    assert number("36 \u00b0C") == 36


@pytest.mark.parametrize(
    ("name", "value", "expected_mw"),
    [
        ("power_w", 43.9, 43_900),
        ("power_mw", "43900 mW", 43_900),
        ("power_uw", 43_900_000, 43_900),
        ("power_kw", "2.5kW", 2_500_000),
    ],
)
def test_powers(name: str, value: Any, expected_mw: int) -> None:
    assert value_of({name: value, "temperature_c": 30}, POWER) == expected_mw


@pytest.mark.parametrize(
    ("name", "value", "expected_uj"),
    [
        ("energy_uj", "12345", 12_345),
        ("energy_mj", 12, 12_000),
        ("energy_j", 230_239_128.79, 230_239_128_790_000),
        ("energy_wh", 1, 3_600_000_000),
        ("energy_kwh", "0.1 kWh", 360_000_000_000),
    ],
)
def test_energies(name: str, value: Any, expected_uj: int) -> None:
    assert value_of({name: value}, ENERGY) == expected_uj


@given(st.integers(0, MOST))
def test_a_counter_of_microjoules_keeps_every_one(value: int) -> None:
    assert value_of({"energy_uj": str(value)}, ENERGY) == value


def test_nothing_told_is_nothing_and_negative_cannot_be() -> None:
    assert value_of({"temperature_c": 30}, POWER) is None
    assert code_of(value_of, {"power_w": -1}, POWER) == "implausible"
    assert code_of(value_of, {"energy_kwh": 2**61}, ENERGY) == "implausible"


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none()))
def test_whatever_stands_there_is_a_power_or_refused(value: Any) -> None:
    try:
        power_mw = value_of({"power_w": value}, POWER)
    except BadOutput:
        return
    assert isinstance(power_mw, int)
    assert 0 <= power_mw <= MOST


@pytest.mark.parametrize(
    "told",
    [
        {"time": "2026-11-22T22:00:00+00:00"},
        {"time": "2026-11-22T23:00:00+01:00"},
        {"time": "2026-11-22T22:00:00Z"},
        {"time": "2026-11-22 22:00:00"},
        {"time_s": 1795384800},
        {"time_ms": "1795384800000"},
        {"time_us": 1795384800000000},
        {"time_ns": 1795384800000000000},
    ],
)
def test_times(told: dict[str, Any]) -> None:
    assert time_ns(told) == 1_795_384_800_000_000_000


def test_no_time_is_none_and_no_date_is_refused() -> None:
    assert time_ns({"power_w": 3}) is None
    assert code_of(time_ns, {"time": "yesterday"}) == "no_value"
