"""What is decided from declarations, and which servers no plan is made for."""

from types import SimpleNamespace

import pytest

from joulefleet.window import Window
from joulefleet_collector.account.plan import NOBODY, Plan, plan_of
from joulefleet_collector.account.policy import Policy

DEFAULT = Policy()


def server(build: SimpleNamespace, name: str = "n1", engines: object = None) -> Window:
    meters = [
        build.meter("bmc", 2_000, kind="server"),
        *(build.meter(f"{name}-gpu{k}", 500, hw_model="H200") for k in range(3)),
        build.meter("package-0", 100, kind="cpu_package"),
    ]
    own = [build.engine("e", [f"{name}-gpu2", f"{name}-gpu0"], [build.work(output_tokens=1)])]
    return build.window(meters, own if engines is None else engines, server=name)


def planned(window: Window, policy: Policy = DEFAULT) -> Plan:
    found = plan_of(window, policy)
    assert found is not None
    return found[0]


def test_meters_are_told_by_their_place_and_devices_by_their_holder(build: SimpleNamespace) -> None:
    accelerator, compute, whole = planned(server(build)).covers
    assert (accelerator.devices, accelerator.holders, accelerator.meters) == ((1, 2, 3), (0, NOBODY, 0), (1, 2, 3))
    assert (compute.rest, compute.whole, compute.meters) == ((4,), None, (1, 2, 3, 4))
    assert (whole.whole, whole.meters, whole.parts) == (0, (0,), (1, 2, 3, 4))


def test_servers_built_alike_share_a_plan_and_have_rows_of_their_own(build: SimpleNamespace) -> None:
    (one, its), (other, others) = plan_of(server(build), DEFAULT), plan_of(server(build, "n2"), DEFAULT)  # type: ignore[misc]  # neither is None
    assert one == other and hash(one) == hash(other)
    assert {tags["server"] for _, tags in its.rows()} == {"n1"}
    assert {tags["server"] for _, tags in others.rows()} == {"n2"}


def test_engines_of_one_key_share_rows(build: SimpleNamespace) -> None:
    engines = [
        build.engine(f"e{k}", [f"n1-gpu{k}"], [build.work("b" if k == 1 else "a", output_tokens=1)]) for k in range(3)
    ]
    plan = planned(server(build, engines=engines))
    assert plan.usage_rows == (0, 1, 0, 2, 3, 2, 4, 5, 4)
    assert plan.work_rows == (0, 1, 0)


def test_the_order_of_engines_in_the_window_is_remembered(build: SimpleNamespace) -> None:
    engines = [build.engine(name, [gpu], [build.work()]) for name, gpu in (("z", "n1-gpu0"), ("a", "n1-gpu1"))]
    plan = planned(server(build, engines=engines))
    assert plan.engines == (1, 0)
    assert plan.covers[0].holders == (1, 0, NOBODY)


@pytest.mark.parametrize(
    "devices",
    [[("n1-gpu0", 0.5)], ["n1-gpu0", "elsewhere"], []],
    ids=["a part of a board", "a board that is not measured", "the whole server beside another engine"],
)
def test_what_is_shared_or_not_measured_is_left_to_the_definition(build: SimpleNamespace, devices: list) -> None:
    engines = [
        build.engine("e0", devices, [build.work()]),
        build.engine("e1", ["n1-gpu1"], [build.work()]),
    ]
    assert plan_of(server(build, engines=engines), DEFAULT) is None


def test_an_engine_that_was_never_read_and_no_engine_are_left_to_the_definition(build: SimpleNamespace) -> None:
    assert plan_of(server(build, engines=[build.engine("e", ["n1-gpu0"], [])]), DEFAULT) is None
    assert plan_of(server(build, engines=[]), DEFAULT) is None


def test_a_front_is_left_to_the_definition(build: SimpleNamespace) -> None:
    own, fronted = build.engine("e", [], [build.work()]), build.engine("f", [], [build.work()], front=True)
    assert plan_of(server(build, engines=[own]), DEFAULT) is not None
    assert plan_of(server(build, engines=[own, fronted]), DEFAULT) is None


def test_models_are_numbered_by_engine_and_told_by_name_where_the_policy_names_them(build: SimpleNamespace) -> None:
    works = [build.work("b"), build.work("a", tenant="y"), build.work("a", tenant="x")]
    engines = [
        build.engine("e1", ["n1-gpu1"], works),
        build.engine("e0", ["n1-gpu0"], [build.work("z", tenant=name) for name in "xy"]),
    ]
    plan = planned(server(build, engines=engines), Policy(model_weights={"a": 8}, phase_weights={"z": (1, 7)}))
    assert (plan.model_engines, plan.model_names) == ((0, 1, 1), ("z", "a", None))
    assert plan.work_models == (0, 0, 2, 1, 1)
    assert (plan.models_of(0), plan.models_of(1)) == ([0], [1, 2])
    assert len(set(plan.usage_rows)) == 3 * len(plan.covers)
    assert len(set(plan.work_rows)) == 5


def test_a_boundary_without_a_board_is_left_to_the_definition(build: SimpleNamespace) -> None:
    engine = build.engine("e", [], [build.work()])
    assert plan_of(build.window([build.meter("bmc", 5, kind="server")], [engine]), DEFAULT) is None
