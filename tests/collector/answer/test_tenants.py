"""Tenants: who told, by which weights, and that nothing is lost in dividing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.hourly import WORKS, sums, total, work
from joulefleet.units import j_to_uj
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.answer.parts import OF_TIME, SQUARES
from joulefleet_collector.answer.tenants import engines_tell, split
from joulefleet_collector.rows import FRONT
from joulefleet_collector.store.store import Total

POLICY = Policy()
HOUR = {
    "window_s": 3600.0,
    "paired_s": 3600.0,
    "active_j": 800.0,
    "idle_j": 200.0,
    "counter_j": 1000.0,
    "requests_ok": 10.0,
    "prompt_tokens": 5000.0,
    "output_tokens": 1000.0,
    "requests_j": 1000.0,
    "requests_active_j": 800.0,
    "independent_j2": 100.0,
}


def by_tenant(usage: list[Total], told: list[Total], field: str) -> dict[str, float]:
    return {part.tags["tenant"]: part.fields[field] for part in split(usage, told, POLICY)}


def test_energy_goes_by_weighted_tokens_and_counts_are_the_tenants_own() -> None:
    """1 x 4,000 + 10 x 100 = 5,000 against 1 x 1,000 + 10 x 900 = 10,000: a third, idle as well as active."""
    told = [
        work("a", requests_ok=8, prompt_tokens=4000, output_tokens=100),
        work("b", requests_ok=2, prompt_tokens=1000, output_tokens=900),
    ]
    a, b = split([total(HOUR)], told, POLICY)
    assert a.fields == {
        "window_s": 3600.0,
        "paired_s": 3600.0,
        "active_j": 266.666667,
        "idle_j": 66.666667,
        "counter_j": 333.333334,
        "requests_ok": 8.0,
        "prompt_tokens": 4000.0,
        "output_tokens": 100.0,
        "requests_j": 333.333334,
        "requests_active_j": 266.666667,
        "independent_j2": pytest.approx(100 / 9),
    }
    assert (b.tags["tenant"], b.fields["output_tokens"], b.fields["active_j"]) == ("b", 900.0, 533.333333)


def test_cached_tokens_are_no_work() -> None:
    told = [
        work("a", prompt_tokens=900, cached_tokens=900, output_tokens=10),
        work("b", prompt_tokens=0, output_tokens=10),
    ]
    assert by_tenant([total(HOUR)], told, "active_j") == {"a": 400.0, "b": 400.0}


def test_energy_of_a_known_phase_goes_by_the_tokens_of_that_phase() -> None:
    """Half of the prompts, a tenth of the output: 300 J / 2 + 500 J / 10."""
    fields = {"active_j": 800.0, "prefill_active_j": 300.0, "decode_active_j": 500.0}
    told = [work("a", prompt_tokens=50, output_tokens=1), work("b", prompt_tokens=50, output_tokens=9)]
    assert by_tenant([total(fields)], told, "active_j") == {"a": 200.0, "b": 600.0}
    assert by_tenant([total(fields)], told, "prefill_active_j") == {"a": 150.0, "b": 150.0}
    assert by_tenant([total(fields)], told, "decode_active_j") == {"a": 50.0, "b": 450.0}


def test_idle_energy_that_rests_on_a_catalogue_goes_as_idle_energy_does() -> None:
    """Active energy by the prompts, half and half; idle by the output, a tenth."""
    fields = {"active_j": 100.0, "prefill_active_j": 100.0, "idle_j": 50.0, "decode_idle_j": 50.0}
    told = [work("a", prompt_tokens=50, output_tokens=1), work("b", prompt_tokens=50, output_tokens=9)]
    assert by_tenant([total(fields | {"idle_default_j": 20.0})], told, "idle_default_j") == {"a": 2.0, "b": 18.0}


def test_tenants_with_other_prompts_than_output_are_less_sure() -> None:
    """Prefill may take 100 to 500 J: half the range, for half of the prompts less a tenth of the output."""
    fields = {"active_j": 800.0, "prefill_active_j": 300.0, "decode_active_j": 500.0, "allocation_j": 8.0}
    fields |= {"prefill_low_j": 100.0, "prefill_high_j": 500.0}
    unlike = [work("a", prompt_tokens=50, output_tokens=1), work("b", prompt_tokens=50, output_tokens=9)]
    assert by_tenant([total(fields)], unlike, "allocation_j") == {"a": pytest.approx(82.0), "b": pytest.approx(86.0)}
    alike = [work("a", prompt_tokens=50, output_tokens=1), work("b", prompt_tokens=50, output_tokens=1)]
    assert by_tenant([total(fields)], alike, "allocation_j") == {"a": 4.0, "b": 4.0}


def test_by_requests_where_not_all_tell_tokens_and_equally_where_not_all_tell_requests() -> None:
    counted = [work("a", requests_ok=1, requests_failed=2), work("b", requests_ok=1, output_tokens=5)]
    assert by_tenant([total(HOUR)], counted, "idle_j") == {"a": 150.0, "b": 50.0}
    assert by_tenant([total(HOUR)], [work("a", requests_aborted=9), work("b", requests_ok=1)], "idle_j") == {
        "a": 100.0,
        "b": 100.0,
    }


def test_work_without_a_name_is_a_tenant_of_its_own() -> None:
    told = [work("", output_tokens=30), work("a", output_tokens=10)]
    assert by_tenant([total(HOUR)], told, "idle_j") == {"": 150.0, "a": 50.0}


def test_an_hour_in_which_nothing_was_read_is_missing_from_all_tenants() -> None:
    missed = {"window_s": 3600.0, "paired_s": 0.0, "active_j": 0.0, "idle_j": 0.0}
    told = [work("a"), work("b")]
    assert by_tenant([total(missed)], told, "window_s") == {"a": 3600.0, "b": 3600.0}
    assert by_tenant([total(HOUR)], told, "active_j") == {"": 800.0}
    idle = [work("a", requests_ok=0), work("b", requests_ok=0)]
    assert by_tenant([total(missed)], idle, "window_s") == {"": 3600.0}


def test_who_had_no_work_gets_nothing_and_no_row() -> None:
    told = [work("a", output_tokens=30), work("b", output_tokens=0), work("c", hour=1, output_tokens=9)]
    assert by_tenant([total(HOUR)], told, "active_j") == {"a": 800.0}


def test_all_is_of_nobody_where_nobody_is_named() -> None:
    for told in ([], [work("", output_tokens=30)], [work("a", hour=1, output_tokens=1)], [work("a", model="other")]):
        (part,) = split([total(HOUR)], told, POLICY)
        assert (part.tags["tenant"], part.fields) == ("", HOUR)


def test_a_front_tells_ratios_of_what_the_engines_count() -> None:
    """The engines' own tenants do not count then: one layer only."""
    told = [
        work("a", layer=FRONT, requests_ok=3, output_tokens=600),
        work("b", layer=FRONT, requests_ok=1, output_tokens=200),
        work("engine's own", requests_ok=10, prompt_tokens=5000, output_tokens=1000),
    ]
    assert by_tenant([total(HOUR)], told, "output_tokens") == {"a": 750.0, "b": 250.0}
    assert by_tenant([total(HOUR)], told, "requests_ok") == {"a": 8.0, "b": 2.0}
    assert by_tenant([total(HOUR)], told, "prompt_tokens") == {"a": 3750.0, "b": 1250.0}
    assert by_tenant([total(HOUR)], told, "active_j") == {"a": 600.0, "b": 200.0}


def test_a_front_that_names_no_tenant_leaves_it_to_the_engines() -> None:
    told = [work("", layer=FRONT, output_tokens=600), work("a", output_tokens=1), work("b", output_tokens=3)]
    assert by_tenant([total(HOUR)], told, "idle_j") == {"a": 50.0, "b": 150.0}


def test_a_front_without_a_group_speaks_for_groups_that_no_front_names() -> None:
    told = [
        work("a", layer=FRONT, output_tokens=1),
        work("b", layer=FRONT, group="named", output_tokens=1),
        work("c", layer=FRONT, model="other", output_tokens=1),
    ]
    usage = [total(HOUR, group="named"), total(HOUR, group="unnamed"), total(HOUR)]
    assert [part.tags["tenant"] for part in split(usage, told, POLICY)] == ["b", "a", "a"]


def test_simulated_work_divides_no_real_joules() -> None:
    told = [work("a", simulated="true", output_tokens=1)]
    assert by_tenant([total(HOUR)], told, "active_j") == {"": 800.0}


def test_engines_of_their_own_are_told_apart_as_finely_as_their_work_is() -> None:
    told = [work("a", server="s1", output_tokens=1), work("b", server="s2", output_tokens=9)]
    usage = [total(HOUR, server="s1", rack="r"), total(HOUR, server="s2", rack="r")]
    assert [(part.tags["server"], part.tags["tenant"]) for part in split(usage, told, POLICY)] == [
        ("s1", "a"),
        ("s2", "b"),
    ]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([work("a")], True),
        ([work("")], False),
        ([work("a", layer=FRONT)], False),
        ([work("a", group="g"), work("")], False),
        ([], False),
    ],
)
def test_whether_engines_of_their_own_name_tenants(told: list[Total], expected: bool) -> None:
    assert engines_tell(told) == expected


def test_members_of_a_replica_group_share_what_one_of_them_counts() -> None:
    told = [work("a", server="s1", group="g", output_tokens=1), work("b", server="s1", group="g", output_tokens=1)]
    usage = [total(HOUR, server="s1", group="g"), total({"active_j": 2.0}, server="s2", group="g")]
    assert [(p.tags["server"], p.tags["tenant"], p.fields["active_j"]) for p in split(usage, told, POLICY)] == [
        ("s1", "a", 400.0),
        ("s1", "b", 400.0),
        ("s2", "a", 1.0),
        ("s2", "b", 1.0),
    ]


def test_late_and_unpaired_work_goes_by_its_own_counts() -> None:
    fields = {"active_j": 4.0, "output_tokens": 10.0, "unmetered_output_tokens": 2.0, "late_requests_ok": 3.0}
    told = [work("a", output_tokens=6), work("b", output_tokens=6), work("c", output_tokens=0, late_requests_ok=3)]
    assert by_tenant([total(fields)], told, "unmetered_output_tokens") == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert by_tenant([total(fields)], told, "late_requests_ok") == {"a": 0.0, "b": 0.0, "c": 3.0}
    assert by_tenant([total(fields)], told, "active_j") == {"a": 2.0, "b": 2.0, "c": 0.0}


@given(st.lists(sums(), min_size=1, max_size=3), WORKS, st.sampled_from(("", "g")))
def test_tenants_add_up_to_the_undivided_hour(
    fields: list[dict[str, float]], works: list[tuple[str, str, dict[str, int]]], group: str
) -> None:
    told = [work(tenant, layer=layer, group=group, **counts) for tenant, layer, counts in works]
    usage = [total(one, group=group, server=f"s{number}") for number, one in enumerate(fields)]
    divided = split(usage, told, POLICY)
    for whole in usage:
        mine = [part for part in divided if part.tags["server"] == whole.tags["server"]]
        assert len({part.tags["tenant"] for part in mine}) == len(mine)
        for name, value in whole.fields.items():
            shared = [part.fields[name] for part in mine]
            if name in OF_TIME:
                assert shared == [value] * len(mine)
            elif name == "allocation_j":
                assert sum(shared) >= value - 1e-3
            elif name.endswith("_j"):
                assert sum(map(j_to_uj, shared)) == j_to_uj(value)
            elif name == SQUARES:
                assert sum(shared) <= value * (1 + 1e-9)
            else:
                assert sum(shared) == pytest.approx(value, abs=1e-9)
            assert min(shared) >= 0 or name == "running_delta"


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=5))
def test_what_the_engine_counted_for_a_tenant_is_what_the_tenant_gets(counts: list[tuple[int, int]]) -> None:
    told = [work(f"t{n}", requests_ok=ok, output_tokens=out) for n, (ok, out) in enumerate(counts)]
    whole = {"requests_ok": float(sum(ok for ok, _ in counts)), "output_tokens": float(sum(out for _, out in counts))}
    divided = {part.tags["tenant"]: part.fields for part in split([total(whole)], told, POLICY)}
    for number, (ok, out) in enumerate(counts):
        assert divided.get(f"t{number}", {"requests_ok": 0, "output_tokens": 0}) == {
            "requests_ok": ok,
            "output_tokens": out,
        }
