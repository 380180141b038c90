"""Windows accounted at once have the rows that the definition gives them."""

from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulefleet.describe import Engine, Reservation
from joulefleet.reading import COUNT_FIELDS, Counts, WorkKey
from joulefleet.units import j_to_uj, s_to_ns
from joulefleet.window import AgentCost, EngineWindow, Losses, Window, Work
from joulefleet_collector.account import accounting as module
from joulefleet_collector.account.account import account
from joulefleet_collector.account.accounting import Accounting
from joulefleet_collector.account.numbers import told
from joulefleet_collector.account.policy import BusyWatts, Policy
from joulefleet_collector.account.skim import Skimmed, digest, skim
from joulefleet_collector.rows import Row
from joulefleet_collector.sheet import SheetRows

POLICIES = (
    Policy(),
    Policy(pair_threshold=0.5),
    Policy(pair_threshold=1.0, idle_learnt_error=0.5, idle_catalogue_error=0.1),
    Policy(prefill_weight=3, decode_weight_range=(1, 99), model_weights={"m": 8, "n": 70}),
    Policy(phase_weights={"m": (3, 50)}),
    Policy(idle="by_use"),
    Policy(
        busy_watts=tuple(
            BusyWatts(hardware="", model=model, prefill_w=watts, decode_w=3 * watts)
            for model, watts in {"": 50.0, "m": 80.0, "n": 900.0}.items()
        )
    ),
    Policy(idle="separate"),
)
WHOLE_NUMBERS = {"requests_ok", "output_tokens", "total_tokens", "residual_uj", "restarts", "running_delta", "windows"}


def skimmed(window: Window) -> Skimmed:
    found = skim(window.encode())
    assert found is not None
    return found


def at_once(windows: list[Window], policy: Policy) -> list[SheetRows | None]:
    accounting = Accounting(policy)
    marked = [(digest(each), told(each)) for each in map(skimmed, windows)]
    for (mark, _), window in zip(marked, windows, strict=True):
        if not accounting.knows(mark):
            accounting.learn(mark, window)
    return accounting.at_once(marked)


def content(rows: list[Row]) -> dict[tuple[object, ...], dict[str, float]]:
    return {(row.kind, row.start_ns, frozenset(row.tags.items())): row.fields for row in rows}


def assert_same(window: Window, rows: SheetRows, policy: Policy) -> None:
    expected = account(window, policy)
    wanted, found = content(expected), content(list(rows))
    assert len(rows) == len(expected) and found.keys() == wanted.keys()
    for key, fields in wanted.items():
        assert found[key] == pytest.approx(fields, rel=1e-12, abs=1e-12)
        assert all(found[key][name] == fields[name] for name in WHOLE_NUMBERS & fields.keys())
        assert all(type(value) is float for value in found[key].values())


some = st.one_of(st.none(), st.integers(0, 10**7), st.just(0))
counts = st.one_of(
    st.fixed_dictionaries(dict.fromkeys(COUNT_FIELDS, some)),
    st.fixed_dictionaries(dict.fromkeys(COUNT_FIELDS, st.integers(0, 10**7))),
)
keys = st.one_of(
    st.just([WorkKey("m")]),
    st.lists(
        st.sampled_from(
            [WorkKey("n"), WorkKey("m", "", "t"), WorkKey("m", "", "u"), WorkKey("m"), WorkKey("m", "fp8")]
        ),
        unique=True,
        min_size=1,
    ),
)


@st.composite
def alike(draw: st.DrawFn, generated: SimpleNamespace) -> Window:
    """A server that is mostly well: each board free or held by one engine, some with equal names or several models."""
    window = draw(generated.servers())
    boards = [one.meter.id for one in window.meters if one.meter.kind == "accelerator"]
    holders = draw(st.lists(st.sampled_from(["", "e0", "e1", "e2"]), min_size=len(boards), max_size=len(boards)))
    engines = tuple(
        EngineWindow(
            engine=Engine(
                id=name,
                software=draw(st.sampled_from(["vllm", "sglang"])),
                devices=tuple(
                    Reservation(board) for board, holder in zip(boards, holders, strict=True) if holder == name
                ),
                phase=draw(st.sampled_from(["", "", "prefill", "decode"])),
                group_size=draw(st.sampled_from([0, 2])),
            ),
            work=tuple(Work(key=key, counts=Counts(**draw(counts)), late=Counts(**draw(counts))) for key in draw(keys)),
            covered_ns=s_to_ns(draw(st.sampled_from([60, 58]))),
            restarts=draw(st.integers(0, 3)),
            running_start=draw(st.none() | st.integers(0, 50)),
            running_end=draw(st.none() | st.integers(0, 50)),
            running_ns=draw(st.none() | st.integers(0, 10**12)),
        )
        for name in draw(st.permutations(sorted(set(holders) - {""})))
    )
    meters = [
        msgspec.structs.replace(
            one,
            covered_ns=s_to_ns(draw(st.sampled_from([60, 60, 60, 58]))),
            late_uj=(late := draw(st.integers(0, 10**9))),
            last_uj=one.energy_uj + late,
            rejected_uj=draw(st.integers(0, 10**9)),
            interpolated_ns=draw(st.integers(0, 10**9)),
            gauge_uj=draw(st.integers(0, 10**9)),
            gauge_ns=draw(st.sampled_from([0, 10**9])),
            gaps_ns=draw(st.sampled_from([{}, {"hung": 5, "reset": 7}, {"stuck": 3, "stale": 4, "implausible": 1}])),
            states=draw(st.sampled_from([(), ("unvalidated",), ("sensor_disagreement", "unvalidated"), ("stuck",)])),
        )
        for one in draw(st.permutations(window.meters))
    ]
    return msgspec.structs.replace(
        window,
        meters=tuple(meters),
        engines=engines,
        labels={"rack": "r1"},
        facts=draw(st.sampled_from([{}, {"driver": "1", "config": "2"}])),
        agent=AgentCost(
            cpu_ns=draw(st.integers(0, 10**9)),
            rss_bytes=draw(st.sampled_from([0, 5])),
            energy_uj=7,
            spool_windows=2,
            spool_bytes=9,
            clock_ahead_ns=draw(st.none() | st.integers(-(10**12), 10**12)),
            clock_error_ns=draw(st.none() | st.integers(0, 10**10)),
        ),
        losses=Losses(windows=draw(st.integers(0, 5)), seconds=draw(st.floats(0, 1e6)), energy_uj=3),
    )


@given(data=st.data(), policy=st.sampled_from(POLICIES))
@settings(max_examples=300, deadline=None)
def test_servers_at_once_have_the_rows_of_the_definition(
    data: st.DataObject, policy: Policy, generated: SimpleNamespace
) -> None:
    windows = data.draw(st.lists(alike(generated), min_size=1, max_size=4))
    for window, rows in zip(windows, at_once(windows, policy), strict=True):
        if rows is not None:
            assert_same(window, rows, policy)


@given(data=st.data(), policy=st.sampled_from(POLICIES))
@settings(max_examples=300, deadline=None)
def test_windows_of_any_kind_have_the_rows_of_the_definition_or_are_left_to_it(
    data: st.DataObject, policy: Policy, generated: SimpleNamespace
) -> None:
    window = data.draw(generated.windows())
    good = msgspec.structs.replace(
        window, meters=tuple(msgspec.structs.replace(one, last_uj=one.energy_uj) for one in window.meters)
    )
    (rows,) = at_once([good], policy)
    if rows is not None:
        assert_same(good, rows, policy)


def well(build: SimpleNamespace, name: str = "n1", **changed: object) -> Window:
    meters = [build.meter("gpu0", 900, idle_w=70), build.meter("bmc", 2_000, kind="server", idle_w=300)]
    engines = [build.engine("e", ["gpu0"], [build.work(output_tokens=7, requests_ok=2)])]
    return build.window(meters, engines, server=name, **changed)


def test_a_server_that_is_well_is_accounted_at_once(build: SimpleNamespace) -> None:
    windows = [well(build, name, facts=facts) for name in ("n1", "n2") for facts in ({}, {"driver": "1"})]
    for window, rows in zip(windows, at_once(windows, Policy()), strict=True):
        assert rows is not None
        assert_same(window, rows, Policy())


def test_one_that_is_not_is_left_to_the_definition_and_the_others_are_not(build: SimpleNamespace) -> None:
    shared = build.window(
        [build.meter("gpu", 900)],
        [build.engine(name, [("gpu", 0.5)], [build.work(output_tokens=1)]) for name in "ab"],
    )
    windows = [well(build, "n1"), shared, well(build, "n2")]
    assert [rows is None for rows in at_once(windows, Policy())] == [False, True, False]


def test_models_and_tenants_of_one_engine_are_accounted_at_once(build: SimpleNamespace) -> None:
    works = [
        build.work("b", output_tokens=300, prompt_tokens=1, requests_ok=1),
        build.work("a", tenant="x", output_tokens=7, prompt_tokens=900, requests_ok=2),
        build.work("a", tenant="y", output_tokens=0, prompt_tokens=50, requests_ok=3),
    ]
    meters = [build.meter("gpu0", 901.000_001, idle_w=7), build.meter("bmc", 2_000, kind="server", idle_w=9)]
    window = build.window(meters, [build.engine("e", ["gpu0"], works, running=(9, 2), running_s=61, restarts=1)])
    (rows,) = at_once([window], Policy())
    assert rows is not None
    assert_same(window, rows, Policy())
    models = [build.find(rows, "usage", boundary="accelerator", model=model) for model in "ab"]
    assert all(fields["allocation_j"] > 0 for fields in models)
    assert sum(j_to_uj(fields["active_j"] + fields["idle_j"]) for fields in models) == 901_000_001
    assert sum(fields["running_delta"] for fields in models) == -7


def test_numbers_too_large_to_be_shared_exactly_are_left_to_the_definition(build: SimpleNamespace) -> None:
    works = [build.work("a", output_tokens=2**45), build.work("b", output_tokens=1)]
    window = build.window([build.meter("gpu0", 900)], [build.engine("e", ["gpu0"], works)])
    assert at_once([window], Policy()) == [None]


def test_what_was_not_learnt_is_left_to_the_definition(build: SimpleNamespace) -> None:
    found = skimmed(well(build))
    assert Accounting(Policy()).at_once([(digest(found), told(found))]) == [None]


def test_declarations_not_seen_for_longest_go_first(build: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PLANS", 2)
    accounting = Accounting(Policy())
    windows = [well(build, name) for name in "abc"]
    marks = [(digest(each), told(each)) for each in map(skimmed, windows)]
    for (mark, _), window in zip(marks[:2], windows, strict=False):
        accounting.learn(mark, window)
    accounting.at_once(marks[:1])
    accounting.learn(marks[2][0], windows[2])
    assert [accounting.knows(mark) for mark, _ in marks] == [True, False, True]


def test_one_window_is_accounted_by_the_definition(build: SimpleNamespace) -> None:
    assert Accounting(Policy())(well(build)) == account(well(build), Policy())


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_remembered_layouts_change_no_row(data: st.DataObject, generated: SimpleNamespace) -> None:
    accounting = Accounting(Policy())
    for window in data.draw(st.lists(generated.windows(), min_size=1, max_size=3)) * 2:
        assert accounting(window) == account(window, Policy())
