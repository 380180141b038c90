"""Which rows a window has, and what stands in them."""

from types import SimpleNamespace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import BusyWatts, Policy
from joulefleet_collector.rows import FRONT, KINDS, SERVER_TAGS, WINDOW_TAGS

DEFAULT = Policy()
POLICIES = (
    DEFAULT,
    Policy(pair_threshold=0.0),
    Policy(pair_threshold=1.0, decode_weight=3, idle_learnt_error=0.5, model_weights={"a": 7, "b": 70}),
    Policy(idle="by_use"),
    Policy(
        busy_watts=tuple(
            BusyWatts(hardware="", model=model, prefill_w=watts, decode_w=3 * watts)
            for model, watts in {"": 50.0, "a": 80.0, "b": 900.0}.items()
        )
    ),
    Policy(idle="separate", pair_threshold=0.5),
)


def test_two_engines_of_one_key_are_one_row(build: SimpleNamespace) -> None:
    engines = [
        build.engine(name, [gpu], [build.work(output_tokens=tokens)])
        for name, gpu, tokens in (("e0", "gpu0", 100), ("e1", "gpu1", 50))
    ]
    rows = account(build.window([build.meter("gpu0", 1_000), build.meter("gpu1", 500)], engines), DEFAULT)
    assert len(build.keys(rows)) == len(rows)
    fields = build.find(rows, "usage")
    assert (build.charged_j(fields), fields["output_tokens"], fields["window_s"]) == (1_500, 150, 120)
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
    assert (build.charged_j(fields), fields["paired_s"], fields["window_s"]) == (0, 0, 60)
    assert build.find(rows, "ledger")["unmatched_j"] == 1_000


def test_a_meter_that_did_not_answer_does_not_move_the_boundary(build: SimpleNamespace) -> None:
    whole = build.four_gpus()
    failed = [
        msgspec.structs.replace(m, energy_uj=0, covered_ns=0) if m.meter.id in ("bmc", "dram-0") else m
        for m in whole.meters
    ]
    rows = account(msgspec.structs.replace(whole, meters=tuple(failed)), DEFAULT)
    assert build.keys(rows) == build.keys(account(whole, DEFAULT))
    for boundary in ("compute", "server"):
        fields = build.find(rows, "usage", model="m1", boundary=boundary)
        assert (fields["paired_s"], build.charged_j(fields), fields["unmetered_output_tokens"]) == (0, 0, 30_000)
    assert build.find(rows, "ledger", boundary="server")["metered_j"] == 0
    assert build.charged_j(build.find(rows, "usage", model="m1", boundary="accelerator")) == 48_600


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
    assert build.charged_j(build.find(rows, "usage")) == 600
    assert build.find(rows, "ledger")["unmetered_output_tokens"] == 0
    tags = {"layer": FRONT, "software": "litellm", "hardware": "", "tenant": "x"}
    assert build.find(rows, "work", **tags)["output_tokens"] == 10
    assert build.find(rows, "work", layer="", hardware="H200")["output_tokens"] == 10


@given(data=st.data())
def test_fronts_change_no_other_row(data: st.DataObject, generated: SimpleNamespace, build: SimpleNamespace) -> None:
    window = data.draw(generated.servers())
    before = account(window, DEFAULT)
    fronts = data.draw(generated.fronts())
    after = account(msgspec.structs.replace(window, engines=(*fronts, *window.engines)), DEFAULT)
    assert build.content([row for row in after if row.tags.get("layer") != FRONT]) == build.content(before)


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
def test_the_set_of_keys_does_not_depend_on_the_policy(
    data: st.DataObject, generated: SimpleNamespace, build: SimpleNamespace
) -> None:
    window = data.draw(generated.windows())
    first, *others = (account(window, policy) for policy in POLICIES)
    assert len(build.keys(first)) == len(first)
    assert all(build.keys(rows) == build.keys(first) for rows in others)


@given(data=st.data())
def test_the_set_of_keys_does_not_depend_on_what_answered(
    data: st.DataObject, generated: SimpleNamespace, build: SimpleNamespace
) -> None:
    window = data.draw(generated.windows())
    silent = tuple(msgspec.structs.replace(m, energy_uj=0, covered_ns=0) for m in window.meters)
    assert build.keys(account(msgspec.structs.replace(window, meters=silent), DEFAULT)) == build.keys(
        account(window, DEFAULT)
    )
