"""One meter's energy in parts: by reservation, by activity, and what belongs to nobody."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.account.residence import Seat, seat_of
from joulefleet_collector.account.split import (
    Pot,
    Term,
    following,
    host_pot,
    idle_uj,
    pot_of,
    reserved,
    scaled,
    split_dynamic,
    split_idle,
    unmatched,
)

HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)


def told(terms: list[Term]) -> dict[tuple[str, int | None], int]:
    return {(term.bucket, term.engine): term.energy_uj for term in terms}


def pot(build: SimpleNamespace, idle: int = 0, dynamic: int = 0) -> Pot:
    return Pot(source=build.meter("gpu"), idle_uj=idle, dynamic_uj=dynamic)


def by_reservation(pot: Pot, seat: Seat) -> list[Term]:
    return split_idle(pot, seat, {("active", 0): 1}, "busy", "by_reservation")


def test_idle_is_power_times_covered_time_and_never_more_than_there_is(build: SimpleNamespace) -> None:
    assert idle_uj(build.meter("gpu", 33_000, idle_w=90)) == 5_400 * 10**6
    assert idle_uj(build.meter("gpu", 33_000, idle_w=90, covered_s=30)) == 2_700 * 10**6
    assert idle_uj(build.meter("gpu", 1_000, idle_w=90)) == 1_000 * 10**6
    assert idle_uj(build.meter("gpu", 1_000, idle_w=None)) == 0


def test_a_pot_is_idle_first(build: SimpleNamespace) -> None:
    gpu = build.meter("gpu", 33_000, idle_w=90, learnt=False)
    found = pot_of(gpu)
    assert found.source is gpu and not found.learnt
    assert (found.idle_uj, found.dynamic_uj) == (5_400 * 10**6, 27_600 * 10**6)


@pytest.mark.parametrize(
    ("server_idle_w", "gpu_idle_w", "idle_j"),
    [(300, 100, 12_000), (None, 100, 0), (300, None, 0), (50, 100, 0), (900, 100, 14_000)],
    ids=["difference", "server unknown", "device unknown", "less than the device", "more than there is"],
)
def test_idle_of_the_host_is_what_the_server_has_beyond_its_devices(
    build: SimpleNamespace, server_idle_w: float | None, gpu_idle_w: float | None, idle_j: int
) -> None:
    whole = build.meter("bmc", 24_000, kind="server", idle_w=server_idle_w)
    found = host_pot(whole, (build.meter("gpu", 10_000, idle_w=gpu_idle_w),))
    assert (found.idle_uj, found.idle_uj + found.dynamic_uj) == (idle_j * 10**6, 14_000 * 10**6)


def test_idle_of_the_host_is_learnt_only_if_all_of_it_is(build: SimpleNamespace) -> None:
    whole = build.meter("bmc", 100, kind="server", idle_w=1)
    assert host_pot(whole, (build.meter("gpu", idle_w=1),)).learnt
    assert not host_pot(whole, (build.meter("gpu", idle_w=1, learnt=False),)).learnt


def test_idle_nobody_reserved_is_unallocated(build: SimpleNamespace) -> None:
    terms = by_reservation(pot(build, idle=1_000), seat_of({0: HALF, 1: QUARTER}))
    assert told(terms) == {("idle", 0): 500, ("idle", 1): 250, ("idle_unallocated", None): 250}
    assert {term.method for term in terms if term.engine is not None} == {"reservation"}
    assert told(by_reservation(pot(build, idle=7), seat_of({}))) == {("idle_unallocated", None): 7}
    (whole,) = by_reservation(pot(build, idle=7), seat_of({0: Fraction(1)}))
    assert whole.method == "exclusive"


def test_dynamic_energy_without_any_weight_is_unattributed(build: SimpleNamespace) -> None:
    assert told(split_dynamic(pot(build, dynamic=9), {("active", 0): 0, ("active", 1): 0}, "equal")) == {
        ("unattributed", None): 9
    }
    assert told(split_dynamic(pot(build, dynamic=9), {}, "")) == {("unattributed", None): 9}
    assert split_dynamic(pot(build, idle=9), {("active", 0): 1}, "busy") == []


def test_the_method_stands_with_engines_only(build: SimpleNamespace) -> None:
    terms = split_dynamic(pot(build, dynamic=9), reserved(seat_of({0: HALF})), "reservation")
    assert [(t.bucket, t.energy_uj, t.method) for t in terms] == [
        ("active", 5, "reservation"),
        ("unattributed", 4, ""),
    ]


def test_the_host_follows_the_devices_and_keeps_their_unknown_parts(build: SimpleNamespace) -> None:
    source = build.meter("gpu")
    terms = [
        Term(source=source, bucket="active", energy_uj=5, engine=0),
        Term(source=source, bucket="idle", energy_uj=100, engine=0),
        Term(source=source, bucket="active", energy_uj=2, engine=0),
        Term(source=source, bucket="unattributed", energy_uj=3),
        Term(source=source, bucket="idle_unallocated", energy_uj=50),
        Term(source=source, bucket="unmatched", energy_uj=4),
    ]
    assert following(terms) == {("active", 0): 7, ("unattributed", None): 3, ("unmatched", None): 4}


def test_what_was_barely_measured_is_unmatched(build: SimpleNamespace) -> None:
    assert told(unmatched(build.meter("gpu", 3))) == {("unmatched", None): 3 * 10**6}


@given(energies=st.lists(st.integers(1, 10**10), min_size=1, max_size=6), energy_uj=st.integers(0, 10**10))
def test_scaled_terms_keep_their_places_and_add_up(energies: list[int], energy_uj: int, build: SimpleNamespace) -> None:
    terms = [Term(source=build.meter("m"), bucket="active", energy_uj=e, engine=n) for n, e in enumerate(energies)]
    found = scaled(terms, energy_uj)
    assert sum(term.energy_uj for term in found) == energy_uj
    assert [term.engine for term in found] == list(range(len(energies)))
    assert all(term.energy_uj >= 0 for term in found)


USED = {("active", 0): 3, ("active", 1): 0, ("unattributed", None): 1, ("unmatched", None): 6}


def test_idle_by_use_goes_as_what_is_above_it(build: SimpleNamespace) -> None:
    seat = seat_of({0: QUARTER, 1: HALF})
    terms = split_idle(pot(build, idle=100, dynamic=1), seat, USED, "activity", "by_use")
    assert told(terms) == {("idle", 0): 30, ("idle_unallocated", None): 10, ("unmatched", None): 60}
    assert terms[0].method == "activity"


@pytest.mark.parametrize(
    ("dynamic", "used"),
    [(0, USED), (9, {("active", 0): 0, ("unattributed", None): 5}), (9, {("unmatched", None): 1})],
    ids=["nothing above idle", "no engine used it", "it is not known who used it"],
)
def test_idle_that_nobody_is_known_to_have_used_goes_by_reservation(
    build: SimpleNamespace, dynamic: int, used: dict
) -> None:
    seat = seat_of({0: QUARTER, 1: HALF})
    terms = split_idle(pot(build, idle=100, dynamic=dynamic), seat, used, "activity", "by_use")
    assert told(terms) == {("idle", 0): 25, ("idle", 1): 50, ("idle_unallocated", None): 25}
    assert {term.method for term in terms if term.engine is not None} == {"reservation"}


def test_idle_apart_is_nobodys(build: SimpleNamespace) -> None:
    terms = split_idle(pot(build, idle=100, dynamic=9), seat_of({0: HALF, 1: HALF}), USED, "activity", "separate")
    assert told(terms) == {("idle_unallocated", None): 100}
