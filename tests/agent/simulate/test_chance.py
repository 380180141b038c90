"""Chance: the same everywhere, evenly spread."""

from hypothesis import given
from hypothesis import strategies as st

from joulefleet_agent.simulate.chance import about_one, pick, unit


def test_the_same_names_give_the_same_number_on_every_machine() -> None:
    assert unit(1, "a", 2) == 0.8636806596532091
    assert unit(1, "a", 2) != unit(2, "a", 2)
    assert unit(1, "a", 2) != unit(1, "a2")


@given(st.integers(), st.text(), st.floats(0, 1))
def test_numbers_stay_in_their_range(seed: int, name: str, spread: float) -> None:
    assert 0 <= unit(seed, name) < 1
    assert (1 - spread) * 1e6 - 1 <= about_one(spread, seed, name) <= (1 + spread) * 1e6 + 1


def test_numbers_are_evenly_spread() -> None:
    numbers = [unit(7, k) for k in range(10_000)]
    assert abs(sum(numbers) / len(numbers) - 0.5) < 0.02
    assert all(900 < sum(tenth <= number * 10 < tenth + 1 for number in numbers) < 1100 for tenth in range(10))


@given(st.integers(0, 30), st.integers())
def test_what_is_picked_is_picked_once(number: int, seed: int) -> None:
    chosen = pick(range(20), number, seed, "x")
    assert len(chosen) == len(set(chosen)) == min(number, 20)
