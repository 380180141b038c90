"""Replica groups: whose energy, whose counts, and which hours are refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.hourly import BEGIN_NS, sums
from joulefleet.grid import HOUR_NS
from joulefleet.units import j_to_uj
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.answer.groups import joined
from joulefleet_collector.store.store import Total
from joulefleet_collector.usage import usage_figures

POLICY = Policy()
COUNTED = {"requests_ok": 10.0, "prompt_tokens": 500.0, "cached_tokens": 100.0, "output_tokens": 1000.0}
COUNTED |= {"total_tokens": 1400.0, "requests_j": 100.0, "output_tokens_j": 100.0, "total_tokens_j": 100.0}


def row(server: str, hour: int = 0, active_j: float = 100.0, **more: Any) -> Total:
    """A member's hour: numbers are fields, texts are tags; whole, covered, and of a group of two unless told."""
    tags = {"boundary": "server", "simulated": "false", "group": "g", "server": server, "software": "vllm"}
    tags |= {"version": "1", "model": "", "revision": "", "hardware": "H100", "pool": "p"}
    tags |= {name: value for name, value in more.items() if isinstance(value, str)}
    usual = {"window_s": 3600.0, "active_j": active_j, "idle_j": 0.0}
    fields = usual | {name: float(value) for name, value in more.items() if not isinstance(value, str)}
    fields.setdefault("paired_s", fields["window_s"])
    fields.setdefault("group_s", 2 * fields["window_s"])
    if not fields["group_s"]:
        del fields["group_s"]
    return Total(BEGIN_NS + hour * HOUR_NS, tags, fields)


def hours(usage: list[Total]) -> dict[int, Total]:
    """The one sum of each hour."""
    together = joined(usage, POLICY)
    found = {((one.start_ns or 0) - BEGIN_NS) // HOUR_NS: one for one in together}
    assert len(found) == len(together)
    return found


def test_energy_of_all_members_and_work_of_the_one_that_counts() -> None:
    (one,) = joined(
        [row("a", model="llama", **COUNTED), row("b", active_j=300.0, idle_j=20.0, hardware="A100")], POLICY
    )
    assert one.tags == {
        "boundary": "server",
        "simulated": "false",
        "group": "g",
        "server": "a+b",
        "software": "vllm",
        "version": "1",
        "model": "llama",
        "revision": "",
        "hardware": "A100+H100",
        "pool": "p",
    }
    figures = usage_figures(one)
    assert (figures["energy_j"], figures["coverage"], figures["window_s"]) == (420.0, 1.0, 3600.0)
    assert (figures["joules_per_request"], figures["joules_per_output_token"]) == (42.0, 0.42)
    assert figures["joules_per_total_token"] == pytest.approx(420 / 1400)
    assert figures["notes"] == []
    assert "group_s" not in one.fields


def test_who_is_in_no_group_passes_as_it_is() -> None:
    alone = [row("a", group=""), row("b", group="", paired_s=0)]
    assert joined(alone, POLICY) == alone


def test_an_hour_without_one_of_the_members_is_refused_and_the_others_are_right() -> None:
    usage = [row("a", hour, model="llama", **COUNTED) for hour in range(3)] + [row("b", hour) for hour in (0, 2)]
    found = hours(usage)
    assert [usage_figures(found[hour])["joules_per_request"] for hour in range(3)] == [20.0, None, 20.0]
    refused = found[1].fields
    assert (refused["window_s"], refused["paired_s"], refused["active_j"], refused["requests_j"]) == (3600.0, 0, 0, 0)
    assert refused["left_out_j"] == 100.0
    assert (refused["requests_ok"], refused["unmetered_requests_ok"], refused["total_tokens"]) == (0.0, 10.0, 0.0)


@pytest.mark.parametrize(
    ("window_s", "paired_s", "coverage"),
    [
        (3600, 3600, 1.0),
        (3600, 3420, 0.95),
        (3600, 3419, 0.0),
        (3420, 3420, 0.95),
        (3419, 3419, 0.0),
        (1800, 1800, 0.0),
    ],
)
def test_an_hour_is_covered_like_its_least_covered_member(window_s: float, paired_s: float, coverage: float) -> None:
    around = [row(server, hour) for server in "ab" for hour in (0, 2)]
    usage = [row("a", 1, model="llama", **COUNTED), row("b", 1, window_s=window_s, paired_s=paired_s), *around]
    fields = hours(usage)[1].fields
    assert (fields["paired_s"] / fields["window_s"], fields["active_j"]) == (coverage, 200.0 if coverage else 0.0)


def test_a_group_that_began_within_the_hour_is_measured_by_the_time_it_was_there() -> None:
    usage = [row(server, 0, window_s=600, **(COUNTED if server == "a" else {})) for server in "ab"]
    usage += [row(server, 1, **(COUNTED if server == "a" else {})) for server in "ab"]
    found = hours(usage)
    assert (found[0].fields["window_s"], found[0].fields["paired_s"], found[0].fields["active_j"]) == (600, 600, 200)


def test_members_that_were_there_in_turns_are_no_group() -> None:
    usage = [row(server, hour) for server in "ab" for hour in (0, 2)]
    usage += [row(server, 1, window_s=1800, **COUNTED) for server in "ab"]
    assert hours(usage)[1].fields["paired_s"] == 0.0


def test_a_member_that_moved_to_another_server_is_not_missed() -> None:
    usage = [row(server, hour, **(COUNTED if server == "a" else {})) for server in "ab" for hour in (0, 2)]
    usage += [
        row("a", 1, **COUNTED),
        row("b", 1, window_s=1800),
        row("c", 1, window_s=1800),
    ]
    assert hours(usage)[1].fields["paired_s"] == 3600.0


@pytest.mark.parametrize(("day", "energy_j"), [(0, 0.0), (24, 100.0)])
def test_without_a_declared_size_servers_seen_on_that_day_are_missed(day: int, energy_j: float) -> None:
    usage = [row("a", day, group_s=0, **COUNTED), row("a", 5, group_s=0, **COUNTED), row("b", 5, group_s=0)]
    found = hours(usage)
    assert found[day].fields["active_j"] == energy_j
    assert found[5].fields["active_j"] == 200.0


def test_a_new_version_in_mid_hour_is_told_apart_and_misses_nothing() -> None:
    half = {name: value / 2 for name, value in COUNTED.items()} | {"window_s": 1800.0}
    usage = [row("a", active_j=50.0, version=version, model="llama", **half) for version in ("1", "2")]
    together = joined([*usage, row("b", version="", active_j=300.0)], POLICY)
    assert [(one.tags["version"], one.fields["active_j"], one.fields["window_s"]) for one in together] == [
        ("1", 200.0, 1800.0),
        ("2", 200.0, 1800.0),
    ]
    assert [one.fields["paired_s"] for one in together] == [1800.0, 1800.0]


def test_what_a_server_is_called_before_its_first_page_is_no_member_of_its_own() -> None:
    first = {"window_s": 60.0, "paired_s": 0.0, "active_j": 0.0}
    usage = [row("a", software="unknown", version="", hardware="", **first), row("b")]
    usage.append(row("a", model="llama", **COUNTED | {"window_s": 3540.0}))
    (one,) = joined(usage, POLICY)
    assert (one.tags["software"], one.fields["active_j"]) == ("vllm", 200.0)
    assert one.fields["paired_s"] == pytest.approx(3540)


def test_time_in_which_a_member_was_not_covered_is_uncertain() -> None:
    (one,) = joined([row("a", **COUNTED, independent_j2=2.0), row("b", paired_s=3456)], POLICY)
    assert one.fields["independent_j2"] == pytest.approx(2.0 + (200 * 0.04) ** 2 / 3)


def test_several_models_share_the_energy_of_who_counts_nothing_by_their_work() -> None:
    usage = [
        row("a", model="small", active_j=10.0, output_tokens=100, prompt_tokens=0, output_tokens_j=10),
        row("a", model="large", active_j=90.0, output_tokens=300, prompt_tokens=0, output_tokens_j=90),
        row("b", active_j=400.0),
    ]
    found = {one.tags["model"]: one.fields for one in joined(usage, POLICY)}
    assert (found["small"]["active_j"], found["large"]["active_j"]) == (110.0, 390.0)
    assert (found["small"]["output_tokens_j"], found["large"]["output_tokens_j"]) == (110.0, 390.0)
    assert found["small"]["window_s"] == found["small"]["paired_s"] == 3600.0


def test_a_member_with_a_model_of_its_own_stays_with_it() -> None:
    usage = [row("a", model="m", output_tokens=1), row("a", model="n", output_tokens=9), row("b", model="m")]
    found = {one.tags["model"]: one.fields["active_j"] for one in joined(usage, POLICY)}
    assert found == {"m": 200.0, "n": 100.0}


def test_a_group_in_which_nobody_counts_is_one_row_of_energy() -> None:
    (one,) = joined([row("a", model="m"), row("b", software="triton")], POLICY)
    assert (one.tags["model"], one.tags["software"], one.fields["active_j"]) == ("m", "triton+vllm", 200.0)
    assert usage_figures(one)["joules_per_request"] is None


def test_prefill_and_decode_apart_count_each_request_once() -> None:
    """Both count every request; a prefill worker writes one token of each, a decode worker is told all prompts."""
    prefill = {"requests_ok": 10, "prompt_tokens": 500, "cached_tokens": 100, "output_tokens": 10, "total_tokens": 410}
    decode = {"requests_ok": 9, "prompt_tokens": 500, "cached_tokens": 500, "output_tokens": 990, "total_tokens": 990}
    paid = {"requests_j": 100, "output_tokens_j": 100, "total_tokens_j": 100}
    usage = [
        row("a", model="llama", prefill_active_j=100, prefill_idle_j=0, decode_active_j=0, **prefill, **paid),
        row("b", model="llama", prefill_active_j=0, decode_idle_j=0, decode_active_j=100, **decode, **paid),
    ]
    (one,) = joined(usage, POLICY)
    counts = {name: one.fields[name] for name in prefill}
    assert counts == {
        "requests_ok": 9.0,
        "prompt_tokens": 500.0,
        "cached_tokens": 100.0,
        "output_tokens": 990.0,
        "total_tokens": 1390.0,
    }
    assert [one.fields[name] for name in ("requests_j", "output_tokens_j", "total_tokens_j")] == [200.0] * 3
    assert (one.fields["prefill_active_j"], one.fields["decode_active_j"]) == (100.0, 100.0)


def test_unmetered_requests_of_prefill_and_decode_are_counted_once_too() -> None:
    """A member that did not pair has no energy in that hour: its phase is known from the others."""
    usage = []
    for hour in (0, 1):
        paired = {"paired_s": 3600 * (1 - hour), "active_j": 100 * (1 - hour)}
        counts = {"requests_ok": 10 * (1 - hour), "unmetered_requests_ok": 10 * hour}
        usage += [
            row("a", hour, model="m", prefill_active_j=paired["active_j"], decode_active_j=0, **paired, **counts),
            row("b", hour, model="m", decode_active_j=paired["active_j"], prefill_active_j=0, **paired, **counts),
        ]
    assert [one.fields["unmetered_requests_ok"] for one in hours(usage).values()] == [0.0, 10.0]


def test_energy_of_who_counts_nothing_is_of_the_phases_of_who_does() -> None:
    phases = {"prefill_active_j": 25, "decode_active_j": 50, "prefill_low_j": 20, "prefill_high_j": 40}
    (one,) = joined([row("a", model="m", output_tokens=5, **phases), row("b", active_j=300.0)], POLICY)
    assert {name: one.fields[name] for name in phases} == {
        "prefill_active_j": 100.0,
        "decode_active_j": 200.0,
        "prefill_low_j": 80.0,
        "prefill_high_j": 160.0,
    }


def test_boundaries_and_groups_are_apart() -> None:
    usage = [row("a", boundary=boundary, group=group) for boundary in ("server", "compute") for group in ("g", "h")]
    assert len(joined([*usage, *(row(**one.tags | {"server": "b"}) for one in usage)], POLICY)) == 4


@given(st.lists(st.tuples(sums(), st.sampled_from(("", "m", "n"))), min_size=1, max_size=4))
def test_energy_and_counts_of_a_whole_hour_add_up(members: list[tuple[dict[str, float], str]]) -> None:
    counted = ("prompt_tokens", "output_tokens", "requests_ok", "requests_failed")
    usage = [
        row(str(number), model=model, **fields | {"window_s": 3600.0, "paired_s": 3600.0, "group_s": 0.0})
        for number, (fields, model) in enumerate(members)
    ]
    together = joined(usage, POLICY)
    apart = any(total.fields.get("prefill_active_j") for total in usage)
    for name in ("active_j", "idle_j", "counter_j", "class_onboard_j", *(() if apart else counted)):
        whole = [one.fields[name] for one in usage if name in one.fields]
        parts = [one.fields[name] for one in together if name in one.fields]
        if name.endswith("_j"):
            assert sum(map(j_to_uj, parts)) == sum(map(j_to_uj, whole))
        else:
            assert sum(parts) == sum(whole)
