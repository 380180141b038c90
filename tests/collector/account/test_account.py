"""The worked vectors and the invariants of accounting, from window to rows."""

import random
from collections.abc import Callable
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulefleet.describe import GRADES
from joulefleet.reading import Counts
from joulefleet.units import j_to_uj
from joulefleet.window import EngineWindow, Window
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.rows import BOUNDARIES, FRONT, KINDS, SERVER_TAGS, WINDOW_TAGS, Row

DEFAULT = Policy()
POLICIES = (
    DEFAULT,
    Policy(pair_threshold=0.0),
    Policy(pair_threshold=1.0, decode_weight=3, idle_learnt_error=0.5, model_weights={"a": 7, "b": 70}),
    Policy(idle="by_use"),
    Policy(idle="separate", pair_threshold=0.5),
)
SIGNED = {"other_j", "running_delta"}


def keys(rows: list[Row]) -> set[tuple[object, ...]]:
    return {(row.kind, row.start_ns, frozenset(row.tags.items())) for row in rows}


def content(rows: list[Row]) -> dict[tuple[object, ...], dict[str, float]]:
    return {(row.kind, row.start_ns, frozenset(row.tags.items())): row.fields for row in rows}


def charged_j(fields: dict[str, float]) -> float:
    return fields["active_j"] + fields["idle_j"]


def energy_only(rows: list[Row]) -> dict[tuple[object, ...], dict[str, float]]:
    """Where the joules went, by key of the usage and ledger rows."""
    names = {"metered_j", "active_j", "idle_j", "idle_unallocated_j", "unattributed_j", "unmatched_j"}
    return {
        key: {name: value for name, value in fields.items() if name in names}
        for key, fields in content([row for row in rows if row.kind in ("usage", "ledger")]).items()
    }


# T5: one GPU of 33,000 J, 90 W idle, reserved 0.4 and 0.6


def shared_gpu(build: SimpleNamespace, a: dict[str, int], b: dict[str, int]) -> Window:
    return build.window(
        [build.meter("gpu", 33_000, idle_w=90)],
        [
            build.engine("A", [("gpu", 0.4)], [build.work("8b", **a)]),
            build.engine("B", [("gpu", 0.6)], [build.work("70b", **b)]),
        ],
    )


BUSY = ({"busy_ns": 30 * 10**9}, {"busy_ns": 15 * 10**9})
RAW_TOKENS = ({"output_tokens": 9_000}, {"output_tokens": 1_500})
TOKENS = (
    {"prompt_tokens": 40_000, "cached_tokens": 0, "output_tokens": 9_000},
    {"prompt_tokens": 6_000, "cached_tokens": 0, "output_tokens": 1_500},
)
ACTIVE_PARAMETERS = Policy(model_weights={"8b": 8_030, "70b": 70_600})


@pytest.mark.parametrize(
    ("work", "policy", "method", "a_j", "b_j"),
    [
        (BUSY, DEFAULT, "busy", 20_560.0, 12_440.0),
        (RAW_TOKENS, DEFAULT, "work", 25_817.143, 7_182.857),
        (TOKENS, ACTIVE_PARAMETERS, "work", 13_563.776, 19_436.224),
    ],
    ids=["busy", "raw tokens", "tokens by active parameters"],
)
def test_t5_a_shared_gpu(
    build: SimpleNamespace, work: tuple[dict, dict], policy: Policy, method: str, a_j: float, b_j: float
) -> None:
    rows = account(shared_gpu(build, *work), policy)
    for model, energy_j in (("8b", a_j), ("70b", b_j)):
        fields = build.find(rows, "usage", model=model)
        assert charged_j(fields) == pytest.approx(energy_j, abs=1e-3)
        assert fields[f"by_{method}_j"] == fields["active_j"]
        assert fields["by_reservation_j"] == fields["idle_j"]
    assert sum(charged_j(build.find(rows, "usage", model=m)) for m in ("8b", "70b")) == pytest.approx(33_000, abs=1e-9)


def test_idle_power_is_paid_as_the_policy_has_it_and_the_sum_stays(build: SimpleNamespace) -> None:
    # 27,600 J above idle go 2 to 1; 5,400 J of idle by the reservation, by the same 2 to 1, or to nobody.
    paid = {"by_reservation": (2_160, 3_240), "by_use": (3_600, 1_800), "separate": (0, 0)}
    for idle, (a_j, b_j) in paid.items():
        rows = account(shared_gpu(build, *BUSY), Policy(idle=idle))
        a, b = (build.find(rows, "usage", model=model) for model in ("8b", "70b"))
        ledger = build.find(rows, "ledger")
        assert (a["idle_j"], b["idle_j"]) == (a_j, b_j)
        assert (a["active_j"], b["active_j"]) == (18_400, 9_200)
        assert ledger["idle_unallocated_j"] == 5_400 - a_j - b_j
        assert (ledger["metered_j"], ledger["residual_uj"]) == (33_000, 0)


def test_idle_power_of_a_host_follows_its_boards_by_use(build: SimpleNamespace) -> None:
    rows = account(four_gpus(build), Policy(idle="by_use"))
    s1, s2 = (build.find(rows, "usage", model=model, boundary="server") for model in ("m1", "m2"))
    # 18,000 J of the host as 40,200 to 7,800 J of the boards; the idle energy of the free board stays nobody's.
    assert (s1["idle_j"], s2["idle_j"]) == (8_400 + 15_075, 4_200 + 2_925)
    assert build.find(rows, "ledger", boundary="server")["idle_unallocated_j"] == 4_200


@given(data=st.data())
def test_who_pays_for_idle_power_changes_no_other_energy(data: st.DataObject, generated: SimpleNamespace) -> None:
    window = data.draw(generated.windows())
    usual, *others = (account(window, Policy(idle=idle)) for idle in ("by_reservation", "by_use", "separate"))
    for rows in others:
        assert keys(rows) == keys(usual)
        for key, fields in energy_only(rows).items():
            before = energy_only(usual)[key]
            assert fields.get("metered_j") == before.get("metered_j")
            for name in ("active_j", "unattributed_j"):
                # A server's meter below its boards scales all parts: a microjoule may go to another.
                assert fields.get(name) == pytest.approx(before.get(name), abs=1e-5)


# T6: a server of four GPUs, two engines and a free GPU


def four_gpus(build: SimpleNamespace, **changed: object) -> Window:
    gpus = [
        build.meter(name, energy_j, idle_w=70)
        for name, energy_j in (("gpu0", 24_000), ("gpu1", 24_600), ("gpu2", 12_000), ("gpu3", 4_200))
    ]
    others = [
        build.meter("package-0", 9_000, kind="cpu_package"),
        build.meter("dram-0", 1_800, kind="dram"),
        # 18,000 J of the host and 4 x 4,200 J of the GPUs, in 60 s
        build.meter("bmc", 96_000, kind="server", idle_w=580, grade="integrated", sensor_class="platform"),
    ]
    engines = [
        build.engine("s1", ["gpu0", "gpu1"], [build.work("m1", requests_ok=100, output_tokens=30_000)]),
        build.engine("s2", ["gpu2"], [build.work("m2", requests_ok=10, output_tokens=3_000)]),
    ]
    return msgspec.structs.replace(build.window(gpus + others, engines), **changed)


def test_t6_a_server(build: SimpleNamespace) -> None:
    rows = account(four_gpus(build), DEFAULT)
    s1 = build.find(rows, "usage", model="m1", boundary="server")
    s2 = build.find(rows, "usage", model="m2", boundary="server")
    ledger = build.find(rows, "ledger", boundary="server")
    assert charged_j(s1) == 68_655
    assert charged_j(s2) == 18_645
    assert (ledger["idle_unallocated_j"], ledger["unattributed_j"], ledger["unmatched_j"]) == (8_700, 0, 0)
    assert (ledger["metered_j"], ledger["residual_uj"]) == (96_000, 0)
    assert ledger["active_j"] + ledger["idle_j"] == 68_655 + 18_645
    assert ledger["other_j"] == 96_000 - 64_800 - 9_000 - 1_800
    accelerator = build.find(rows, "usage", model="m1", boundary="accelerator")
    assert accelerator["output_tokens_j"] / accelerator["output_tokens"] == 1.62
    assert s1["output_tokens_j"] / s1["output_tokens"] == pytest.approx(2.2885)
    assert s1["requests_j"] / s1["requests_ok"] == 686.55


def test_t6_says_how_its_joules_are_known(build: SimpleNamespace) -> None:
    s1 = build.find(account(four_gpus(build), DEFAULT), "usage", model="m1", boundary="server")
    assert (s1["integrated_j"], s1["class_platform_j"], s1["counter_j"]) == (68_655, 68_655, 0)
    assert s1["by_exclusive_j"] == 48_600
    assert s1["by_reservation_j"] == 9_000
    assert s1["by_accelerator_j"] == 11_055


def test_at_compute_the_host_is_cpus_and_memory(build: SimpleNamespace) -> None:
    rows = account(four_gpus(build), DEFAULT)
    # No idle power of CPU and memory is known: all of it follows the GPUs' dynamic energy, 40,200 to 7,800 J.
    assert charged_j(build.find(rows, "usage", model="m1", boundary="compute")) == 48_600 + 10_800 * 40_200 / 48_000
    ledger = build.find(rows, "ledger", boundary="compute")
    assert (ledger["metered_j"], ledger["idle_unallocated_j"], ledger["residual_uj"]) == (75_600, 4_200, 0)


# T9, T10, T12, T22: ratios are made of sums of rows


def summed(rows: list[Row], kind: str = "usage", **tags: str) -> dict[str, float]:
    total: dict[str, float] = {}
    for row in rows:
        if row.kind == kind and tags.items() <= row.tags.items():
            for name, value in row.fields.items():
                total[name] = total.get(name, 0.0) + value
    return total


def one_gpu(build: SimpleNamespace, energy_j: float, covered_s: float = 60, **work: object) -> Window:
    running = work.pop("running", (None, None))
    meters = [build.meter("gpu", energy_j, covered_s=covered_s, grade="integrated")]
    return build.window(meters, [build.engine("e", ["gpu"], [build.work(**work)], running=running)])


def test_t9_a_gap_of_the_gauge_makes_work_unmetered_and_never_energy_cheap(build: SimpleNamespace) -> None:
    seen = [one_gpu(build, 36_000, output_tokens=180_000) for _ in range(6)]
    missed = [one_gpu(build, 0, 0, output_tokens=175_000) for _ in range(4)]
    total = summed([row for window in seen + missed for row in account(window, DEFAULT)])
    assert total["output_tokens_j"] / total["output_tokens"] == 0.2
    assert total["paired_s"] / total["window_s"] == 0.6
    assert total["unmetered_output_tokens"] == 700_000


def test_t10_an_idle_window_costs_energy_and_has_no_work(build: SimpleNamespace) -> None:
    window = build.window(
        [build.meter("gpu", 5_400, idle_w=90)],
        [build.engine("e", ["gpu"], [build.work(requests_ok=0, output_tokens=0)])],
    )
    fields = build.find(account(window, DEFAULT), "usage")
    assert (fields["idle_j"], fields["active_j"]) == (5_400, 0)
    assert (fields["output_tokens"], fields["requests_ok"]) == (0, 0)
    busy = account(one_gpu(build, 10_800, output_tokens=1_000, requests_ok=5), DEFAULT)
    assert summed([*busy, *account(window, DEFAULT)])["output_tokens_j"] == 16_200


def test_t12_joules_per_request_are_a_ratio_of_sums(build: SimpleNamespace) -> None:
    rows = [row for n in (10, 1_000) for row in account(one_gpu(build, 36_000, requests_ok=n), DEFAULT)]
    total = summed(rows)
    assert total["requests_j"] / total["requests_ok"] == pytest.approx(71.287, abs=1e-3)


def test_t22_requests_in_flight_bound_the_lag(build: SimpleNamespace) -> None:
    hours = [((40, 50), 700), ((50, 64), 500)]
    rows = [row for running, n in hours for row in account(one_gpu(build, 1, requests_ok=n, running=running), DEFAULT)]
    total = summed(rows)
    assert abs(total["running_delta"]) / total["requests_ok"] == 0.02


# Rows and their keys


def test_two_engines_of_one_key_are_one_row(build: SimpleNamespace) -> None:
    engines = [
        build.engine(name, [gpu], [build.work(output_tokens=tokens)])
        for name, gpu, tokens in (("e0", "gpu0", 100), ("e1", "gpu1", 50))
    ]
    rows = account(build.window([build.meter("gpu0", 1_000), build.meter("gpu1", 500)], engines), DEFAULT)
    assert len(keys(rows)) == len(rows)
    fields = build.find(rows, "usage")
    assert (charged_j(fields), fields["output_tokens"], fields["window_s"]) == (1_500, 150, 120)
    assert build.find(rows, "work")["output_tokens"] == 150


def test_tenants_are_summed_in_usage_and_apart_in_work(build: SimpleNamespace) -> None:
    works = [build.work(tenant=tenant, output_tokens=n) for tenant, n in (("x", 30), ("y", 12))]
    rows = account(build.window([build.meter("gpu", 1_000)], [build.engine("e", ["gpu"], works)]), DEFAULT)
    assert build.find(rows, "usage")["output_tokens"] == 42
    assert [build.find(rows, "work", tenant=t)["output_tokens"] for t in ("x", "y")] == [30, 12]


def test_an_engine_that_was_never_read_has_a_row_without_a_model(build: SimpleNamespace) -> None:
    window = build.window([build.meter("gpu", 1_000)], [build.engine("e", ["gpu"], covered_s=0)])
    rows = account(window, DEFAULT)
    fields = build.find(rows, "usage", model="")
    assert (charged_j(fields), fields["paired_s"], fields["window_s"]) == (0, 0, 60)
    assert build.find(rows, "ledger")["unmatched_j"] == 1_000


def test_a_meter_that_did_not_answer_does_not_move_the_boundary(build: SimpleNamespace) -> None:
    whole = four_gpus(build)
    failed = [
        msgspec.structs.replace(m, energy_uj=0, covered_ns=0) if m.meter.id in ("bmc", "dram-0") else m
        for m in whole.meters
    ]
    rows = account(msgspec.structs.replace(whole, meters=tuple(failed)), DEFAULT)
    assert keys(rows) == keys(account(whole, DEFAULT))
    for boundary in ("compute", "server"):
        fields = build.find(rows, "usage", model="m1", boundary=boundary)
        assert (fields["paired_s"], charged_j(fields), fields["unmetered_output_tokens"]) == (0, 0, 30_000)
    assert build.find(rows, "ledger", boundary="server")["metered_j"] == 0
    assert charged_j(build.find(rows, "usage", model="m1", boundary="accelerator")) == 48_600


def test_a_window_of_nothing_has_the_row_of_its_agent(build: SimpleNamespace) -> None:
    assert [row.kind for row in account(build.window(), DEFAULT)] == ["agent"]


def test_a_front_has_rows_of_work_alone(build: SimpleNamespace) -> None:
    engines = [
        build.engine("e", [], [build.work("m", output_tokens=10)]),
        build.engine(
            "f", [], [build.work("m", tenant="x", output_tokens=10)], front=True, software="litellm", covered_s=9
        ),
    ]
    rows = account(build.window([build.meter("gpu", 600, hw_model="H200")], engines), DEFAULT)
    assert charged_j(build.find(rows, "usage")) == 600
    assert build.find(rows, "ledger")["unmetered_output_tokens"] == 0
    tags = {"layer": FRONT, "software": "litellm", "hardware": "", "tenant": "x"}
    assert build.find(rows, "work", **tags)["output_tokens"] == 10
    assert build.find(rows, "work", layer="", hardware="H200")["output_tokens"] == 10


@given(data=st.data())
def test_fronts_change_no_other_row(data: st.DataObject, generated: SimpleNamespace) -> None:
    window = data.draw(generated.servers())
    before = account(window, DEFAULT)
    fronts = data.draw(generated.fronts())
    after = account(msgspec.structs.replace(window, engines=(*fronts, *window.engines)), DEFAULT)
    assert content([row for row in after if row.tags.get("layer") != FRONT]) == content(before)


@given(data=st.data())
def test_rows_have_the_declared_shape(data: st.DataObject, generated: SimpleNamespace) -> None:
    window = msgspec.structs.replace(data.draw(generated.windows()), labels={"rack": "r1"}, facts={"driver": "1"})
    for row in account(window, DEFAULT):
        kind = KINDS[row.kind]
        assert set(row.tags) == {*kind.tags, *SERVER_TAGS, *WINDOW_TAGS, "rack"}
        assert set(row.fields) <= {*kind.sums, *kind.latest}
        assert all(type(value) is float for value in row.fields.values())
        assert row.start_ns == window.start_ns


@given(data=st.data())
def test_the_set_of_keys_does_not_depend_on_the_policy(data: st.DataObject, generated: SimpleNamespace) -> None:
    window = data.draw(generated.windows())
    first, *others = (account(window, policy) for policy in POLICIES)
    assert len(keys(first)) == len(first)
    assert all(keys(rows) == keys(first) for rows in others)


@given(data=st.data())
def test_the_set_of_keys_does_not_depend_on_what_answered(data: st.DataObject, generated: SimpleNamespace) -> None:
    window = data.draw(generated.windows())
    silent = tuple(msgspec.structs.replace(m, energy_uj=0, covered_ns=0) for m in window.meters)
    assert keys(account(msgspec.structs.replace(window, meters=silent), DEFAULT)) == keys(account(window, DEFAULT))


# Invariants


@given(data=st.data(), policy=st.sampled_from(POLICIES))
@settings(max_examples=300)
def test_i1_conservation(data: st.DataObject, policy: Policy, generated: SimpleNamespace) -> None:
    window = data.draw(generated.windows())
    rows = account(window, policy)
    for row in rows:
        if row.kind != "ledger":
            continue
        fields = row.fields
        parts = ("active_j", "idle_j", "idle_unallocated_j", "unattributed_j", "unmatched_j")
        assert fields["residual_uj"] == 0
        assert sum(j_to_uj(fields[part]) for part in parts) == j_to_uj(fields["metered_j"])
        used = summed(rows, boundary=row.tags["boundary"])
        for part in ("active_j", "idle_j"):
            assert used.get(part, 0.0) == pytest.approx(fields[part], abs=1e-6)
        assert sum(fields[f"{grade}_j"] for grade in GRADES) == pytest.approx(fields["metered_j"], abs=1e-6)


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
    charged = [j_to_uj(charged_j(build.find(rows, "usage", boundary=boundary))) for boundary in BOUNDARIES]
    metered = [j_to_uj(build.find(rows, "ledger", boundary=boundary)["metered_j"]) for boundary in BOUNDARIES]
    assert charged == sorted(charged)
    assert charged == metered


@given(data=st.data(), seed=st.integers(0, 100))
def test_i8_order_changes_nothing(data: st.DataObject, seed: int, generated: SimpleNamespace) -> None:
    window = data.draw(generated.windows())
    shuffle = random.Random(seed)
    turned = msgspec.structs.replace(
        window,
        meters=tuple(shuffle.sample(window.meters, len(window.meters))),
        engines=tuple(shuffle.sample(window.engines, len(window.engines))),
    )
    assert content(account(turned, DEFAULT)) == content(account(window, DEFAULT))


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
    before = energy_only(account(window, DEFAULT))
    after = energy_only(account(msgspec.structs.replace(window, meters=(*parts, more, added)), DEFAULT))
    assert before.keys() == after.keys()
    for key, fields in before.items():
        assert after[key]["active_j"] <= fields["active_j"] + 1e-6
        if key[0] == "ledger":
            idle = [each["idle_j"] + each["idle_unallocated_j"] for each in (fields, after[key])]
            dynamic = [each["active_j"] + each["unattributed_j"] for each in (fields, after[key])]
            assert idle[1] == pytest.approx(idle[0] + idle_w * 60, abs=1e-6)
            assert dynamic[1] == pytest.approx(dynamic[0], abs=1e-6)


@given(data=st.data())
def test_i10_cached_tokens_change_no_share(data: st.DataObject, generated: SimpleNamespace) -> None:
    window = data.draw(generated.windows())
    cached = data.draw(st.integers(1, 10**6))
    assert energy_only(account(with_cached(window, cached), DEFAULT)) == energy_only(account(window, DEFAULT))


def with_cached(window: Window, cached: int) -> Window:
    def more(counts: Counts) -> Counts:
        if counts.prompt_tokens is None:
            return counts
        return msgspec.structs.replace(counts, prompt_tokens=counts.prompt_tokens + cached, cached_tokens=cached)

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
    data: st.DataObject, generated: SimpleNamespace
) -> None:
    window = data.draw(generated.windows())
    without = with_counts(window, lambda engine, counts: counts if engine.covered_ns else Counts())
    assert energy_only(account(without, DEFAULT)) == energy_only(account(window, DEFAULT))
