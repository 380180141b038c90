"""What holds for every server: the invariants of accounting over generated windows.

I2 and I11 are also where windows are cut (tests/agent/test_cutter.py), I13 where pages are read
(tests/plugins/work/test_table.py).
"""

import random
from collections.abc import Callable
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulefleet.describe import GRADES
from joulefleet.reading import COUNT_FIELDS, Counts
from joulefleet.units import j_to_uj
from joulefleet.window import EngineWindow, Window, Work
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Idle, Policy
from joulefleet_collector.rows import BOUNDARIES
from joulefleet_collector.store.store import Total
from joulefleet_collector.usage import usage_figures

DEFAULT = Policy()
POLICIES = (
    DEFAULT,
    Policy(pair_threshold=0.0),
    Policy(pair_threshold=1.0, decode_weight=3, idle_learnt_error=0.5, model_weights={"a": 7, "b": 70}),
    Policy(idle="by_use"),
    Policy(idle="separate", pair_threshold=0.5),
)
IDLE: tuple[Idle, ...] = ("by_reservation", "by_use", "separate")
PARTS = ("active_j", "idle_j", "idle_unallocated_j", "unattributed_j", "unmatched_j")
SIGNED = {"other_j", "running_delta"}


@given(data=st.data(), policy=st.sampled_from(POLICIES))
@settings(max_examples=300)
def test_i1_conservation(
    data: st.DataObject, policy: Policy, generated: SimpleNamespace, build: SimpleNamespace
) -> None:
    window = data.draw(generated.windows())
    rows = account(window, policy)
    for row in rows:
        if row.kind != "ledger":
            continue
        fields = row.fields
        assert fields["residual_uj"] == 0
        assert sum(j_to_uj(fields[part]) for part in PARTS) == j_to_uj(fields["metered_j"])
        used = build.summed(rows, boundary=row.tags["boundary"])
        for part in ("active_j", "idle_j"):
            assert used.get(part, 0.0) == pytest.approx(fields[part], abs=1e-6)
        assert sum(fields[f"{grade}_j"] for grade in GRADES) == pytest.approx(fields["metered_j"], abs=1e-6)


@given(data=st.data())
def test_who_pays_for_idle_power_changes_no_other_energy(
    data: st.DataObject, generated: SimpleNamespace, build: SimpleNamespace
) -> None:
    window = data.draw(generated.windows())
    usual, *others = (account(window, Policy(idle=idle)) for idle in IDLE)
    for rows in others:
        assert build.keys(rows) == build.keys(usual)
        for key, fields in build.energy_only(rows).items():
            before = build.energy_only(usual)[key]
            assert fields.get("metered_j") == before.get("metered_j")
            for name in ("active_j", "unattributed_j"):
                # A server's meter below its boards scales all parts: a microjoule may go to another.
                assert fields.get(name) == pytest.approx(before.get(name), abs=1e-5)


@given(data=st.data())
def test_i5_nothing_is_negative(data: st.DataObject, generated: SimpleNamespace) -> None:
    for row in account(data.draw(generated.windows()), DEFAULT):
        for name, value in row.fields.items():
            # A count of total tokens may be: cached tokens are read at another instant than the prompt's.
            assert value >= 0 or name in SIGNED


@given(data=st.data())
def test_i6_a_wider_boundary_holds_more(
    data: st.DataObject, generated: SimpleNamespace, build: SimpleNamespace
) -> None:
    rows = account(data.draw(generated.servers()), DEFAULT)
    metered = [build.find(rows, "ledger", boundary=boundary)["metered_j"] for boundary in BOUNDARIES]
    assert metered == sorted(metered)


@given(data=st.data())
def test_i6_an_engine_that_holds_the_server_is_charged_more_at_a_wider_boundary(
    data: st.DataObject, generated: SimpleNamespace, build: SimpleNamespace
) -> None:
    window = data.draw(generated.servers())
    window = msgspec.structs.replace(window, engines=(build.engine("e", works=[build.work()]),))
    rows = account(window, DEFAULT)
    charged = [j_to_uj(build.charged_j(build.find(rows, "usage", boundary=boundary))) for boundary in BOUNDARIES]
    metered = [j_to_uj(build.find(rows, "ledger", boundary=boundary)["metered_j"]) for boundary in BOUNDARIES]
    assert charged == sorted(charged)
    assert charged == metered


@given(data=st.data(), seed=st.integers(0, 100))
def test_i8_order_changes_nothing(
    data: st.DataObject, seed: int, generated: SimpleNamespace, build: SimpleNamespace
) -> None:
    window = data.draw(generated.windows())
    shuffle = random.Random(seed)
    turned = msgspec.structs.replace(
        window,
        meters=tuple(shuffle.sample(window.meters, len(window.meters))),
        engines=tuple(shuffle.sample(window.engines, len(window.engines))),
    )
    assert build.content(account(turned, DEFAULT)) == build.content(account(window, DEFAULT))


@given(data=st.data(), idle_w=st.integers(0, 700))
def test_i9_an_idle_device_raises_only_idle_buckets(
    data: st.DataObject, idle_w: int, generated: SimpleNamespace, build: SimpleNamespace
) -> None:
    window = data.draw(generated.servers())
    added = build.meter("idle", idle_w * 60, idle_w=idle_w)
    *parts, whole = window.meters
    more = msgspec.structs.replace(
        whole,
        energy_uj=whole.energy_uj + added.energy_uj,
        idle_mw=None if whole.idle_mw is None else whole.idle_mw + added.idle_mw,
    )
    before = build.energy_only(account(window, DEFAULT))
    after = build.energy_only(account(msgspec.structs.replace(window, meters=(*parts, more, added)), DEFAULT))
    assert before.keys() == after.keys()
    for key, fields in before.items():
        assert after[key]["active_j"] <= fields["active_j"] + 1e-6
        if key[0] == "ledger":
            idle = [each["idle_j"] + each["idle_unallocated_j"] for each in (fields, after[key])]
            dynamic = [each["active_j"] + each["unattributed_j"] for each in (fields, after[key])]
            assert idle[1] == pytest.approx(idle[0] + idle_w * 60, abs=1e-6)
            assert dynamic[1] == pytest.approx(dynamic[0], abs=1e-6)


@given(data=st.data())
def test_i10_cached_tokens_change_no_share(
    data: st.DataObject, generated: SimpleNamespace, build: SimpleNamespace
) -> None:
    window = data.draw(generated.windows())
    cached = data.draw(st.integers(1, 10**6))
    assert build.energy_only(account(with_cached(window, cached), DEFAULT)) == build.energy_only(
        account(window, DEFAULT)
    )


def with_cached(window: Window, cached: int) -> Window:
    def more(counts: Counts) -> Counts:
        if counts.prompt_tokens is None:
            return counts
        return msgspec.structs.replace(
            counts, prompt_tokens=counts.prompt_tokens + cached, cached_tokens=(counts.cached_tokens or 0) + cached
        )

    return with_counts(window, lambda engine, counts: more(counts))


def with_counts(window: Window, change: Callable[[EngineWindow, Counts], Counts]) -> Window:
    engines = tuple(
        msgspec.structs.replace(
            engine,
            work=tuple(msgspec.structs.replace(work, counts=change(engine, work.counts)) for work in engine.work),
        )
        for engine in window.engines
    )
    return msgspec.structs.replace(window, engines=engines)


@given(data=st.data())
def test_i11_what_a_barely_read_engine_counted_changes_no_share(
    data: st.DataObject, generated: SimpleNamespace, build: SimpleNamespace
) -> None:
    window = data.draw(generated.windows())
    without = with_counts(window, lambda engine, counts: counts if engine.covered_ns else Counts())
    energy, other = (build.energy_only(account(each, DEFAULT)) for each in (window, without))
    assert energy.keys() == other.keys()
    for key, fields in energy.items():
        # Whether it counts tokens decides which fields are 0 and which are not known, where there is no energy.
        assert {n: j for n, j in fields.items() if j} == {n: j for n, j in other[key].items() if j}


def split_in_tenants(window: Window, part: float) -> Window:
    def parts(work: Work) -> tuple[Work, ...]:
        known = {name: count for name in COUNT_FIELDS if (count := getattr(work.counts, name)) is not None}
        mine = {name: round(count * part) for name, count in known.items()}
        rest = {name: count - mine[name] for name, count in known.items()}
        keys = [msgspec.structs.replace(work.key, tenant=work.key.tenant + name) for name in ("+1", "+2")]
        return tuple(Work(key=key, counts=Counts(**counts)) for key, counts in zip(keys, (mine, rest), strict=True))

    engines = tuple(
        msgspec.structs.replace(engine, work=tuple(part for work in engine.work for part in parts(work)))
        for engine in window.engines
    )
    return msgspec.structs.replace(window, engines=engines)


@given(data=st.data(), part=st.floats(0, 1))
def test_i4_tenants_change_no_energy_and_no_total(
    data: st.DataObject, part: float, generated: SimpleNamespace, build: SimpleNamespace
) -> None:
    def totals(window: Window) -> dict[tuple[object, ...], dict[str, float]]:
        return build.content([row for row in account(window, DEFAULT) if row.kind != "work"])

    window = data.draw(generated.windows())
    assert totals(split_in_tenants(window, part)) == totals(window)


minutes = st.tuples(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**4))


@given(seen=st.lists(minutes, min_size=1, max_size=60), idle_mw=st.integers(0, 10**6), idle=st.sampled_from(IDLE))
def test_i4_minutes_add_up_to_the_whole_time(
    seen: list[tuple[int, int, int]], idle_mw: int, idle: Idle, build: SimpleNamespace
) -> None:
    """Of a board that one engine has, and that never used less than its idle power."""

    def used(dynamic_uj: int, outputs: int, prompts: int, several: int) -> Window:
        step_s = 60 * several
        board = build.meter("gpu", covered_s=step_s)
        board.energy_uj, board.idle_mw = dynamic_uj + idle_mw * 60_000 * several, idle_mw
        engine = build.engine(
            "e", ["gpu"], [build.work(output_tokens=outputs, prompt_tokens=prompts)], covered_s=step_s, phase="decode"
        )
        return build.window([board], [engine], step_s=step_s)

    policy = Policy(idle=idle)
    apart = [row for minute in seen for row in account(used(*minute, 1), policy)]
    whole = account(used(*map(sum, zip(*seen, strict=True)), len(seen)), policy)
    for kind in ("usage", "ledger"):
        one, other = build.summed(apart, kind), build.summed(whole, kind)
        for name in set(one) & (
            {*build.ENERGY, "window_s", "paired_s", "reserved_s", *COUNT_FIELDS} - {"allocation_j"}
        ):
            assert one[name] == pytest.approx(other[name], abs=1e-6)


@given(data=st.data(), seed=st.integers(0, 100))
def test_i3_sums_do_not_depend_on_how_they_are_made(
    data: st.DataObject, seed: int, generated: SimpleNamespace, build: SimpleNamespace
) -> None:
    windows = data.draw(st.lists(generated.windows(), min_size=2, max_size=4))
    rows = [row for window in windows for row in account(window, DEFAULT)]
    shuffle = random.Random(seed)
    turned, cut = shuffle.sample(rows, len(rows)), shuffle.randint(0, len(rows))
    for boundary in BOUNDARIES:
        parts = [build.summed(part, "ledger", boundary=boundary) for part in (turned[:cut], turned[cut:])]
        told = build.summed(rows, "ledger", boundary=boundary)
        for name in told.keys() & set(build.ENERGY):
            assert j_to_uj(told[name]) == sum(j_to_uj(part.get(name, 0.0)) for part in parts)
        metered = sum(j_to_uj(told.get(name, 0.0)) for name in PARTS)
        assert metered == j_to_uj(told.get("metered_j", 0.0))


def scaled(window: Window, factor: int) -> Window:
    meters = tuple(
        msgspec.structs.replace(
            one, energy_uj=one.energy_uj * factor, idle_mw=None if one.idle_mw is None else one.idle_mw * factor
        )
        for one in window.meters
    )
    return msgspec.structs.replace(window, meters=meters)


@given(data=st.data(), policy=st.sampled_from(POLICIES))
def test_i7_the_unit_of_energy_changes_no_share(
    data: st.DataObject, policy: Policy, generated: SimpleNamespace, build: SimpleNamespace
) -> None:
    # A host follows its boards, so that a microjoule more or less of a board moves its share of the host: a board of
    # any energy has a joule at least.
    window = scaled(data.draw(generated.windows()), 10**6)
    before = build.energy_only(account(window, policy))
    after = build.energy_only(account(scaled(window, 1_000), policy))
    assert before.keys() == after.keys()
    most_j = max((fields.get("metered_j", 0.0) for fields in before.values()), default=0.0)
    for key, fields in before.items():
        thousandth = {name: joules / 1_000 for name, joules in after[key].items()}
        assert thousandth == pytest.approx(fields, rel=1e-5, abs=1e-4 * most_j)


@given(
    energy_uj=st.integers(1, 10**11),
    requests=st.integers(1, 10**5),
    outputs=st.integers(1, 10**7),
    idle_w=st.integers(0, 900),
)
def test_i12_figures_agree_with_each_other(
    energy_uj: int, requests: int, outputs: int, idle_w: int, build: SimpleNamespace
) -> None:
    board = build.meter("gpu", idle_w=idle_w)
    board.energy_uj = energy_uj
    engine = build.engine("e", ["gpu"], [build.work(requests_ok=requests, output_tokens=outputs)])
    sums = build.summed(account(build.window([board], [engine]), DEFAULT))
    told = usage_figures(Total(0, {}, sums))
    each_j = told["joules_per_output_token"]
    assert each_j * outputs / requests == pytest.approx(told["joules_per_request"], rel=1e-12)
    assert (sums["active_j"] + sums["idle_j"]) / 60 / (outputs / 60) == pytest.approx(each_j, rel=1e-12)
    assert told["output_tokens_per_joule"] * each_j == pytest.approx(1, rel=1e-12)
    assert told["wh_per_1k_requests"] == pytest.approx(told["joules_per_request"] / 3.6, rel=1e-12)


@given(data=st.data())
def test_i13_labels_change_no_number(data: st.DataObject, generated: SimpleNamespace) -> None:
    window = data.draw(generated.windows())
    labelled = msgspec.structs.replace(window, labels={"rack": "r1", "owner": "x"})
    assert [row.fields for row in account(labelled, DEFAULT)] == [row.fields for row in account(window, DEFAULT)]
