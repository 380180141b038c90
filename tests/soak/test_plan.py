"""The kills of a soak follow from the seed, and leave everything running at the end."""

from hypothesis import given
from hypothesis import strategies as st

from soak.plan import BETWEEN_S, SPARED_FROM, Prey, plan

PREYS = [
    Prey(kind="collector", names=("a", "b"), every_s=10.0, spared=("a",)),
    Prey(kind="store", names=("c",), every_s=20.0),
]
SEEDS = st.integers(0, 10**6)


@given(SEEDS, st.sampled_from([60, 600]))
def test_a_process_lives_a_while_between_kills_and_runs_at_the_end(seed: int, seconds: int) -> None:
    kills = plan(seed, seconds, PREYS)
    assert [kill.at_s for kill in kills] == sorted(kill.at_s for kill in kills)
    free_s = dict.fromkeys("abc", 0.0)
    for kill in kills:
        assert kill.at_s >= free_s[kill.victim]
        free_s[kill.victim] = kill.at_s + kill.down_s + BETWEEN_S
    assert all(kill.at_s + kill.down_s < seconds for kill in kills)
    assert {kill.kind for kill in kills} == {"collector", "store"}


@given(SEEDS)
def test_what_is_spared_lives_from_the_middle_on(seed: int) -> None:
    late = [kill.victim for kill in plan(seed, 600, PREYS) if kill.at_s > 600 * SPARED_FROM]
    assert set(late) == {"b", "c"}


def test_the_same_seed_makes_the_same_kills_and_another_one_others() -> None:
    assert plan(1, 600, PREYS) == plan(1, 600, PREYS)
    assert plan(1, 600, PREYS) != plan(2, 600, PREYS)
