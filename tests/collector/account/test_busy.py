"""Busy time weighed with watts: what is charged, and when busy time is left as it is."""

from types import SimpleNamespace

import msgspec
import pytest

from joulefleet.describe import Engine, Meter, Reservation, Slice
from joulefleet.reading import Counts
from joulefleet.units import s_to_ns
from joulefleet_collector.account.account import account
from joulefleet_collector.account.busy import busy_weights, hardware_of
from joulefleet_collector.account.policy import BusyWatts, Policy
from joulefleet_collector.account.work import ModelWork

LARGE = BusyWatts(hardware="H100", model="large", prefill_w=500.0, decode_w=300.0)
SMALL = BusyWatts(hardware="H100", model="small", prefill_w=100.0, decode_w=100.0)
KNOWN = Policy(busy_watts=(LARGE, SMALL))


def did(model: str, busy_s: float | None, prefill_s: float | None) -> ModelWork:
    times = [None if seconds is None else s_to_ns(seconds) for seconds in (busy_s, prefill_s)]
    return ModelWork(model=model, counts=Counts(busy_ns=times[0], prefill_busy_ns=times[1]))


def test_each_phase_of_each_model_weighs_its_own_watts() -> None:
    works = [did("large", 10, 4), did("small", 10, 2)]
    assert busy_weights(works, "H100", KNOWN) == [(4 * 500 + 6 * 300) * 10**12, 10 * 100 * 10**12]


def test_a_model_that_draws_alike_in_both_phases_need_not_tell_them() -> None:
    assert busy_weights([did("small", 10, None)], "H100", KNOWN) == [10**15]


def test_prompts_took_no_longer_than_all() -> None:
    assert busy_weights([did("large", 2, 3)], "H100", KNOWN) == [2 * 500 * 10**12]


@pytest.mark.parametrize(
    ("works", "hardware"),
    [
        ([did("large", 10, 4), did("other", 10, 2)], "H100"),
        ([did("large", 10, 4)], "A100"),
        ([did("large", 10, 4)], ""),
        ([did("large", 10, None), did("small", 10, 2)], "H100"),
        ([did("large", None, None), did("small", 10, 2)], "H100"),
        ([did("large", 0, 0), did("small", 0, 0)], "H100"),
    ],
    ids=["a model that is not named", "other hardware", "no hardware", "phases not told", "not timed", "nothing done"],
)
def test_else_busy_time_is_left_as_it_is(works: list[ModelWork], hardware: str) -> None:
    assert busy_weights(works, hardware, KNOWN) is None


def test_the_hardware_is_that_of_the_devices_or_slices_that_are_named_and_of_all_where_none_is() -> None:
    a, b = (
        Meter(id=name, kind="accelerator", grade="counter", sensor_class="onboard", hw_model=name.upper(), slices=own)
        for name, own in (("a", ()), ("b", (Slice("b/1", 1),)))
    )
    host = Meter(id="c", kind="cpu_package", grade="counter", sensor_class="onboard", hw_model="CPU")
    on = {name: Engine(id="e", software="x", devices=(Reservation(name),)) for name in ("a", "b/1", "z")}
    assert [hardware_of(each, (a, b, host)) for each in on.values()] == ["A", "B", ""]
    nowhere = Engine(id="e", software="x")
    assert [hardware_of(nowhere, meters) for meters in ((a, host), (a, b), (host,))] == ["A", "", ""]


def test_engines_on_a_board_and_models_of_an_engine_are_charged_by_watts(build: SimpleNamespace) -> None:
    board = build.meter("gpu", 2_400, idle_w=10.0, hw_model="H100")
    works = [build.work(name, busy_ns=s_to_ns(4), prefill_busy_ns=s_to_ns(2)) for name in ("large", "small")]
    apart = build.window([board], [build.engine(work.key.model, ["gpu"], [work]) for work in works])
    for window in (apart, build.window([board], [build.engine("e", ["gpu"], works)])):
        by_time, by_watts = (
            [build.find(account(window, policy), "usage", model=name)["active_j"] for name in ("large", "small")]
            for policy in (Policy(), KNOWN)
        )
        assert by_time == [900.0, 900.0]
        assert by_watts == [1_440.0, 360.0]
    methods = build.find(account(apart, KNOWN), "usage", model="large")
    assert methods["by_busy_j"] == 1_440.0


def test_slices_are_weighed_by_watts_or_by_slots_never_by_both(build: SimpleNamespace) -> None:
    slices = (Slice("big", 4), Slice("little", 2))
    board = build.meter("gpu", 600, idle_w=0.0, hw_model="H100", slices=slices, slots=7)
    works = [build.work("small", busy_ns=s_to_ns(4)), build.work("large", busy_ns=s_to_ns(4), prefill_busy_ns=0)]
    engines = [build.engine(place, [place], [work]) for place, work in zip(("big", "little"), works, strict=True)]
    window = build.window([board], engines)
    assert build.find(account(window, KNOWN), "usage", model="small")["active_j"] == 150.0
    elsewhere = Policy(busy_watts=(msgspec.structs.replace(LARGE, hardware="A100"),))
    assert build.find(account(window, elsewhere), "usage", model="small")["active_j"] == 400.0


def test_watts_come_before_the_driver_s_shares_of_time_unless_strangers_were_at_work(build: SimpleNamespace) -> None:
    works = [build.work(name, busy_ns=s_to_ns(4), prefill_busy_ns=0) for name in ("large", "small")]
    engines = [build.engine(work.key.model, ["gpu"], [work]) for work in works]

    def charged(policy: Policy, **strange_ns: int) -> tuple[float, set[str]]:
        told_ns = {"large": s_to_ns(3), "small": s_to_ns(3)} | strange_ns
        board = build.meter("gpu", 1_200, idle_w=0.0, hw_model="H100", activity_ns=told_ns)
        fields = build.find(account(build.window([board], engines), policy), "usage", model="large")
        return fields["active_j"], {name for name in fields if name.startswith("by_") and fields[name]}

    assert charged(Policy()) == (600.0, {"by_activity_j"})
    assert charged(KNOWN) == (900.0, {"by_busy_j"})
    assert charged(KNOWN, stranger=s_to_ns(6)) == (300.0, {"by_activity_j"})
