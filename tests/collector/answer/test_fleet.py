"""What nobody holds of a pool, shared among those who are there: worked vectors, and nothing lost or made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.grid import HOUR_NS
from joulefleet.units import j_to_uj
from joulefleet_collector.answer.fleet import Place, PoolHour, pool_hours, with_fleet, with_idle
from joulefleet_collector.answer.overhead import Fields, Overhead, energy_j
from joulefleet_collector.rows import METHODS
from joulefleet_collector.store.store import Total
from joulefleet_collector.usage import usage_figures

HOUR = 1_790_000_000_000_000_000 // HOUR_NS * HOUR_NS
POOL = {"boundary": "server", "pool": "chat", "site": "fra", "simulated": "false"}
GRADES, CLASSES = ("counter_j", "modelled_j"), ("class_platform_j", "class_modelled_j")


def engine(active_j: float, idle_j: float, reserved_s: float, **fields: float) -> Fields:
    whole_j = active_j + idle_j
    numerators = {"requests_j": whole_j, "output_tokens_j": whole_j, "output_tokens_active_j": active_j}
    known = {"counter_j": whole_j, "class_platform_j": whole_j, "by_exclusive_j": whole_j}
    time = {"window_s": 60.0, "paired_s": 60.0, "reserved_s": reserved_s}
    return {"active_j": active_j, "idle_j": idle_j, **numerators, **known, **time, **fields}


def usage(fields: Fields, **tags: str) -> Total:
    return Total(HOUR, POOL | tags, fields)


def ledger(server: str, **fields: float) -> Total:
    tags = POOL | {"server": server}
    return Total(HOUR, tags, {"window_s": 60.0, "covered_s": 60.0, "counter_j": 1.0, "class_platform_j": 1.0} | fields)


def everyone(*totals: Total) -> list[Total]:
    """The pool's usage as one sum."""
    names = ("active_j", "idle_j", "reserved_s")
    return [Total(HOUR, POOL, {name: sum(total.fields[name] for total in totals) for name in names})]


# T6: the server of the definition, with two engines that hold two and one of four boards, and one board that is free.
S1 = usage(engine(51_255.0, 17_400.0, 120.0, output_tokens=30_000.0, requests_ok=100.0), model="s1")
S2 = usage(engine(9_945.0, 8_700.0, 60.0), model="s2")
T6 = [ledger("n1", active_j=61_200.0, idle_j=26_100.0, idle_unallocated_j=8_700.0)]


def test_t6_the_idle_of_a_free_board_goes_two_to_one() -> None:
    s1, s2 = with_fleet([S1, S2], pool_hours(T6, everyone(S1, S2), []))
    assert (energy_j(s1.fields), energy_j(s2.fields)) == (74_455.0, 21_545.0)
    assert s1.tags == S1.tags | {"boundary": "fleet"}
    figures = usage_figures(s1)
    assert figures["joules_per_output_token"] == pytest.approx(2.48183, abs=5e-6)
    assert figures["joules_per_output_token_active"] == usage_figures(S1)["joules_per_output_token_active"]
    assert figures["joules_by_method"] == {"exclusive": 68_655.0, "reservation": 5_800.0}
    assert figures["joules_by_grade"] == {"counter": 74_455.0}


def test_who_was_not_asked_for_takes_its_part_all_the_same() -> None:
    pools = pool_hours(T6, everyone(S1, S2), [])
    both, alone = with_fleet([S1, S2], pools), [*with_fleet([S1], pools), *with_fleet([S2], pools)]
    assert both == alone


def test_a_server_without_an_engine_is_spare_as_a_whole() -> None:
    """Idle power is not learnt yet while it starts: its energy is `unattributed` to the server, and the pool's here."""
    spare = ledger("n2", active_j=0.0, idle_j=0.0, idle_unallocated_j=100.0, unattributed_j=200.0)
    busy = ledger("n1", active_j=58_200.0, idle_unallocated_j=30.0, unattributed_j=7.0, unmatched_j=5.0)
    idle = ledger("n3", active_j=0.0, unmetered_requests_ok=0.0, unattributed_j=11.0)
    (pool,) = pool_hours([spare, busy, idle], everyone(S1), []).values()
    assert (pool.spare_uj, pool.unattributed_uj, pool.unmatched_uj) == (330_000_000, 18_000_000, 5_000_000)
    (row,) = with_fleet([S1], pool_hours([spare, busy, idle], everyone(S1), []))
    assert energy_j(row.fields) == 68_655.0 + 330.0


def test_pools_sites_hours_and_simulated_ones_stay_apart() -> None:
    there = [{}, {"pool": "rag"}, {"site": "ams"}, {"simulated": "true"}]
    spare = [Total(HOUR, POOL | tags | {"server": "n"}, T6[0].fields) for tags in there]
    later = Total(HOUR + HOUR_NS, S1.tags, S1.fields)
    rows = with_fleet([S1, later], pool_hours(spare, everyone(S1), []))
    assert [energy_j(row.fields) for row in rows] == [77_355.0, 68_655.0]


def test_where_nobody_holds_anything_nothing_is_shared() -> None:
    unknown = usage({name: value for name, value in S1.fields.items() if name != "reserved_s"})
    pools = pool_hours(T6, [Total(HOUR, POOL, unknown.fields)], [])
    assert not pools[Place(HOUR, "chat", "fra", "false")].is_held
    assert with_fleet([unknown], pools)[0].fields == unknown.fields
    assert with_fleet([S1], {})[0].fields == S1.fields


def test_the_same_grades_and_classes_as_where_it_was_measured() -> None:
    modelled = ledger(
        "n2", unattributed_j=100.0, counter_j=0.0, modelled_j=4.0, class_platform_j=1.0, class_modelled_j=3.0
    )
    (row,) = with_fleet([S1], pool_hours([*T6, modelled], everyone(S1), []))
    assert row.fields["counter_j"] == 68_655.0 + 8_700.0
    assert row.fields["modelled_j"] == 100.0
    assert row.fields["class_modelled_j"] == 75.0


def test_declared_watts_go_in_proportion_to_energy_and_are_modelled() -> None:
    overheads = [Overhead(what="network", watts=100.0, pool="chat"), Overhead(what="storage", watts=60.0, site="fra")]
    s1, s2 = with_fleet([S1, S2], pool_hours(T6, everyone(S1, S2), overheads))
    assert energy_j(s1.fields) + energy_j(s2.fields) == pytest.approx(96_000 + 160 * 60)
    assert energy_j(s1.fields) == pytest.approx(74_455 * 1.1)
    assert s1.fields["modelled_j"] == s1.fields["class_modelled_j"] == pytest.approx(7_445.5)
    assert s1.fields["counter_j"] == 74_455.0
    assert sum(s1.fields.get(f"by_{method}_j", 0.0) for method in METHODS) == pytest.approx(energy_j(s1.fields))
    elsewhere = Overhead(what="network", watts=100.0, pool="rag")
    assert energy_j(with_fleet([S1], pool_hours(T6, everyone(S1), [elsewhere]))[0].fields) == 77_355.0


def test_watts_of_a_site_are_shared_among_its_pools() -> None:
    other = POOL | {"pool": "rag"}
    pools = pool_hours(
        [*T6, Total(HOUR, other | {"server": "n9"}, {"window_s": 30.0})],
        [*everyone(S1), Total(HOUR, other, {"active_j": 68_655.0, "reserved_s": 1.0})],
        [Overhead(what="storage", watts=10.0, site="fra")],
    )
    assert [pool.overhead_uj for pool in pools.values()] == [300_000_000, 300_000_000]


def test_what_is_counted_or_of_a_phase_for_a_part_of_the_energy_takes_that_part_of_the_idle() -> None:
    fields = engine(60.0, 40.0, 1.0, requests_j=50.0, prefill_active_j=5.0, prefill_idle_j=5.0, decode_active_j=60.0)
    fields |= {"decode_idle_j": 30.0, "prefill_low_j": 4.0, "prefill_high_j": 20.0}
    more = with_idle(fields, j_to_uj(10.0), {"counter_j": 1})
    grown = {name: more[name] - fields[name] for name in fields if more[name] != fields[name]}
    assert grown == pytest.approx(
        {
            **{"idle_j": 10.0, "counter_j": 10.0, "output_tokens_j": 10.0, "requests_j": 5.0},
            **{"prefill_idle_j": 1.0, "decode_idle_j": 9.0, "prefill_low_j": 0.4, "prefill_high_j": 2.0},
        }
    )
    assert more["by_reservation_j"] == 10.0
    nothing = with_idle({"idle_j": 0.0, "requests_j": 0.0, "prefill_idle_j": 0.0}, 5_000_000, {"counter_j": 1})
    assert (nothing["requests_j"], nothing["prefill_idle_j"]) == (5.0, 0.0)


joules = st.integers(0, 10**9).map(lambda uj: uj / 10**6)
engines = st.lists(st.tuples(joules, joules, st.integers(0, 3600).map(float)), min_size=1, max_size=5)
servers = st.lists(st.tuples(joules, joules, st.booleans()), max_size=4)


@given(engines, servers, st.integers(0, 500))
def test_nothing_is_lost_and_nothing_is_made(
    held: list[tuple[float, float, float]], there: list[tuple[float, float, bool]], watts: int
) -> None:
    """Also I5 and I6: no engine's part is less at `fleet` than at `server`."""
    totals = [usage(engine(*one), model=str(number)) for number, one in enumerate(held)]
    entries = [
        ledger(str(number), idle_unallocated_j=idle, unattributed_j=rest, **({"active_j": 1.0} if works else {}))
        for number, (idle, rest, works) in enumerate(there)
    ]
    pools = pool_hours(entries, everyone(*totals), [])
    rows = with_fleet(totals, pools)
    spare_uj = sum(j_to_uj(idle) + (0 if works else j_to_uj(rest)) for idle, rest, works in there)
    before_uj, after_uj = (sum(j_to_uj(energy_j(one.fields)) for one in each) for each in (totals, rows))
    assert after_uj - before_uj == (spare_uj if any(reserved for _, _, reserved in held) else 0)
    for row in rows:
        whole_uj = j_to_uj(energy_j(row.fields))
        for names in (GRADES, CLASSES, [f"by_{method}_j" for method in METHODS]):
            assert sum(j_to_uj(row.fields.get(name, 0.0)) for name in names) == whole_uj
    overheads = [Overhead(what="all", watts=watts, pool="chat")] if watts else []
    more = with_fleet(totals, pool_hours(entries, everyone(*totals), overheads))
    for one, other, third in zip(totals, rows, more, strict=True):
        assert energy_j(one.fields) <= energy_j(other.fields) <= energy_j(third.fields)
        assert min(third.fields.values()) >= 0
    declared_j = watts * 60.0 if entries and after_uj else 0.0
    assert sum(energy_j(one.fields) for one in more) == pytest.approx(after_uj / 1e6 + declared_j, rel=1e-9)


def test_an_hour_in_which_nobody_is_there_has_no_factor() -> None:
    assert PoolHour(overhead_uj=5).factor == 1.0
    assert PoolHour(overhead_uj=5, spare_uj=5).factor == 1.0
    assert PoolHour(overhead_uj=5, spare_uj=5, reserved_ns=1).factor == 2.0
