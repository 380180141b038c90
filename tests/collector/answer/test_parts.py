"""Parts of one field: exact, in whole microjoules, nanoseconds and counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.hourly import sums
from joulefleet.units import j_to_uj
from joulefleet_collector.answer.parts import OF_TIME, SQUARES, energy_uj, parts

WEIGHTS = st.lists(st.integers(0, 10**15), min_size=1, max_size=6).filter(any)


@given(sums(), WEIGHTS)
def test_parts_add_up_to_the_whole(fields: dict[str, float], weights: list[int]) -> None:
    for name, value in fields.items():
        divided = parts(name, value, weights)
        if name in OF_TIME:
            assert divided == [value] * len(weights)
        elif name.endswith("_j"):
            assert sum(map(j_to_uj, divided)) == j_to_uj(value)
        elif name != SQUARES:
            assert sum(divided) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("active_j", 0.000004, [0.000001, 0.000003]),
        ("active_j", 0.000001, [0.0, 0.000001]),
        ("requests_ok", 7.0, [2.0, 5.0]),
        ("running_delta", -4.0, [-1.0, -3.0]),
        ("reserved_s", 3600.0, [900.0, 2700.0]),
        ("paired_s", 3600.0, [3600.0, 3600.0]),
        ("independent_j2", 16.0, [1.0, 9.0]),
    ],
)
def test_each_sort_of_field_by_one_to_three(name: str, value: float, expected: list[float]) -> None:
    assert parts(name, value, [1, 3]) == expected


def test_the_whole_to_the_only_one() -> None:
    assert parts("active_j", 0.1 + 0.2, [7]) == [0.1 + 0.2]


def test_energies_together_where_some_are_not_known() -> None:
    assert energy_uj({"active_j": 1.5, "idle_j": 0.25}, "active_j", "idle_j", "late_j") == 1_750_000
