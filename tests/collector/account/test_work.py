"""Weights of engines and models: the best thing that all of them count."""

from types import SimpleNamespace

import msgspec
import pytest

from joulefleet.reading import Counts
from joulefleet.window import EngineWindow
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.work import (
    ModelWork,
    by_model,
    counted,
    engine_ways,
    full_sum,
    known_sum,
    model_ways,
    own_work,
    work_units,
)

DEFAULT = Policy()
BUSY_S = 10**9


def test_what_is_not_known_is_not_zero() -> None:
    assert (known_sum([None, 2, 3]), known_sum([None]), known_sum([])) == (5, None, None)
    assert (full_sum([1, 2]), full_sum([None, 2]), full_sum([])) == (3, None, None)
    assert counted(Counts(requests_ok=0, output_tokens=7), "late_") == {
        "late_requests_ok": 0.0,
        "late_output_tokens": 7.0,
    }


def test_where_prefill_and_decode_are_apart_each_tells_its_own_counts_alone(build: SimpleNamespace) -> None:
    counts = {"requests_ok": 3, "prompt_tokens": 40, "cached_tokens": 5, "output_tokens": 7, "busy_ns": 9}
    read = build.engine("e", works=[build.work("m", late=Counts(output_tokens=2, prompt_tokens=1), **counts)])

    def told(phase: str) -> tuple[Counts, Counts]:
        engine = msgspec.structs.replace(read.engine, phase=phase)
        (work,) = own_work(msgspec.structs.replace(read, engine=engine)).work
        return work.counts, work.late

    assert told("") == (Counts(**counts), Counts(output_tokens=2, prompt_tokens=1))
    none = {"requests_ok": 0, "output_tokens": 0}
    assert told("prefill") == (Counts(**counts | none), Counts(output_tokens=0, prompt_tokens=1))
    none = {"prompt_tokens": 0, "cached_tokens": 0}
    assert told("decode") == (Counts(**counts | none), Counts(output_tokens=2, prompt_tokens=0))


def test_work_is_summed_over_tenants_and_sorted_by_model(build: SimpleNamespace) -> None:
    works = [
        build.work("b", tenant="y", output_tokens=1, requests_ok=1),
        build.work("a", output_tokens=10),
        build.work("b", tenant="x", output_tokens=2, late=Counts(output_tokens=5)),
    ]
    a, b = by_model(build.engine("e", works=works))
    assert (a.model, a.counts.output_tokens) == ("a", 10)
    assert (b.model, b.counts.output_tokens, b.late.output_tokens) == ("b", 3, 5)
    assert b.counts.requests_ok is None, "a sum without tenant x would be too small"


def test_revisions_are_models_of_their_own(build: SimpleNamespace) -> None:
    found = by_model(build.engine("e", works=[build.work("m", revision=r) for r in ("fp8", "bf16")]))
    assert [each.revision for each in found] == ["bf16", "fp8"]


def test_an_engine_that_was_never_read_has_one_nameless_model(build: SimpleNamespace) -> None:
    assert by_model(build.engine("e")) == [ModelWork()]


@pytest.mark.parametrize(
    ("counts", "units"),
    [
        ([{"prompt_tokens": 100, "cached_tokens": 30, "output_tokens": 5}], [70 + 50]),
        ([{"prompt_tokens": 100, "output_tokens": 5}], [150]),
        ([{"prompt_tokens": 10, "cached_tokens": 30, "output_tokens": 0}], [0]),
        ([{"output_tokens": 3}, {"output_tokens": 4, "prompt_tokens": 1_000}], [30, 40]),
        ([{"output_tokens": 3}, {"prompt_tokens": 1_000}], None),
        ([{"requests_ok": 3}], None),
    ],
    ids=["cached is no work", "cached unknown", "cached ahead", "only what all count", "nothing in common", "none"],
)
def test_work_units(counts: list[dict[str, int]], units: list[int] | None) -> None:
    assert work_units([ModelWork(counts=Counts(**each)) for each in counts], DEFAULT) == units


def test_sizes_of_models_count_only_where_all_are_known() -> None:
    works = [ModelWork(model=m, counts=Counts(output_tokens=1)) for m in ("a", "b")]
    assert work_units(works, Policy(model_weights={"a": 8, "b": 70})) == [80, 700]
    assert work_units(works, Policy(model_weights={"a": 8})) == [10, 10]


@pytest.mark.parametrize(
    ("counts", "ways"),
    [
        ([{"busy_ns": 7, "output_tokens": 3}, {"busy_ns": 2, "output_tokens": 1}], {"busy": [7, 2], "work": [30, 10]}),
        ([{"busy_ns": 7, "output_tokens": 3}, {"output_tokens": 1}], {"work": [30, 10]}),
        ([{"output_tokens": 3, "requests_ok": 9}, {"output_tokens": 1, "requests_ok": 9}], {"work": [30, 10]}),
        ([{"requests_ok": 3, "requests_failed": 2}, {"requests_ok": 4}], {"requests": [5, 4]}),
        ([{"output_tokens": 0, "requests_ok": 3}, {"output_tokens": 0, "requests_ok": 1}], {"requests": [3, 1]}),
        ([{"requests_ok": 3}, {}], {"equal": [1, 1]}),
        ([{"requests_ok": 0}, {"requests_ok": 0}], {"equal": [1, 1]}),
    ],
    ids=["busy and tokens", "busy of one", "tokens", "requests", "no tokens", "not all known", "idle"],
)
def test_models_share_their_engine(counts: list[dict[str, int]], ways: dict[str, list[int]]) -> None:
    found = model_ways([ModelWork(counts=Counts(**each)) for each in counts], DEFAULT)
    assert list(found.items()) == list(ways.items())


def pair_of(
    build: SimpleNamespace, *counts: dict[str, int], at_finish: bool = False, running_s: tuple = (None, None)
) -> list:
    return [
        build.engine(str(n), works=[build.work(**each)], counts_at_finish=at_finish, running_s=running_s[n])
        for n, each in enumerate(counts)
    ]


def test_a_way_is_one_that_is_known_for_all_and_the_best_comes_first(build: SimpleNamespace) -> None:
    busy = pair_of(build, {"busy_ns": BUSY_S, "output_tokens": 9}, {"busy_ns": 2 * BUSY_S, "output_tokens": 1})
    assert list(engine_ways(busy, DEFAULT).items()) == [("busy", [BUSY_S, 2 * BUSY_S]), ("work", [90, 10])]
    one = pair_of(build, {"busy_ns": BUSY_S, "output_tokens": 9}, {"output_tokens": 1})
    assert engine_ways(one, DEFAULT) == {"work": [90, 10]}
    still = pair_of(build, {"busy_ns": 0, "output_tokens": 9}, {"busy_ns": 0, "output_tokens": 1})
    assert engine_ways(still, DEFAULT) == {"work": [90, 10]}


def test_running_requests_come_before_tokens_that_are_counted_at_the_end(build: SimpleNamespace) -> None:
    tokens, running = ({"output_tokens": 13}, {"output_tokens": 87}), (60.0, 30.0)
    assert list(engine_ways(pair_of(build, *tokens, running_s=running), DEFAULT)) == ["work", "running"]
    found = engine_ways(pair_of(build, *tokens, running_s=running, at_finish=True), DEFAULT)
    assert list(found) == ["running", "work"]
    assert found["running"][0] == 2 * found["running"][1]
    assert list(engine_ways(pair_of(build, *tokens, running_s=(60.0, None), at_finish=True), DEFAULT)) == ["work"]
    assert list(engine_ways(pair_of(build, {}, {}, running_s=running), DEFAULT)) == ["running"]


def test_engines_that_cannot_be_compared_share_equally_if_they_did_something(build: SimpleNamespace) -> None:
    engines = [
        *pair_of(build, {"output_tokens": 9}, {"requests_ok": 1}),
        build.engine("idle", works=[build.work(requests_ok=0)]),
        build.engine("running", works=[build.work()], running=(0, 2)),
        build.engine("cached", works=[build.work(prompt_tokens=5, cached_tokens=5)]),
    ]
    assert engine_ways(engines, DEFAULT) == {"equal": [1, 1, 0, 1, 0]}


def test_there_is_no_way_where_nothing_happened(build: SimpleNamespace) -> None:
    assert engine_ways(pair_of(build, {"output_tokens": 0}, {"output_tokens": 0}), DEFAULT) == {}


def test_joules_of_both_phases_on_one_server_pay_for_each_request_once(build: SimpleNamespace) -> None:
    def side(name: str, board: str, phase: str, **counts: int) -> EngineWindow:
        engine: EngineWindow = build.engine(name, [board], [build.work(**counts)])
        return msgspec.structs.replace(engine, engine=msgspec.structs.replace(engine.engine, phase=phase, group="pd"))

    prefill = side("p", "gpu0", "prefill", requests_ok=10, prompt_tokens=1000, cached_tokens=100, output_tokens=10)
    decode = side("d", "gpu1", "decode", requests_ok=9, prompt_tokens=990, cached_tokens=0, output_tokens=500)
    window = build.window([build.meter("gpu0", 1_000), build.meter("gpu1", 3_000)], [prefill, decode])
    row = build.find(account(window, DEFAULT), "usage", boundary="accelerator")
    assert (row["requests_ok"], row["prompt_tokens"], row["cached_tokens"], row["output_tokens"]) == (9, 1000, 100, 500)
    assert row["total_tokens"] == 1400
    assert [row[name] for name in ("requests_j", "output_tokens_j", "total_tokens_j")] == [4_000.0] * 3
    assert row["prefill_active_j"] + row["prefill_idle_j"] == 1_000.0
