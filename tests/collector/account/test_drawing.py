"""What a window tells of watts, and which boards tell nothing."""

from types import SimpleNamespace

import msgspec
import pytest

from joulefleet.describe import SOMEWHERE
from joulefleet.units import s_to_ns
from joulefleet.window import EngineWindow, MeterWindow, Window
from joulefleet_collector.account.drawing import Drawing, samples
from joulefleet_collector.account.fit import BOTH, DECODE, PREFILL
from joulefleet_collector.account.policy import Policy


def engine(
    build: SimpleNamespace, model: str, busy_s: float, prefill_s: float | None = 0.0, **told: object
) -> EngineWindow:
    times = {"busy_ns": s_to_ns(busy_s)} | ({} if prefill_s is None else {"prefill_busy_ns": s_to_ns(prefill_s)})
    on = told.pop("on", "gpu")
    return build.engine(f"of {model}", [on], [build.work(model, **times)], **told)  # type: ignore[no-any-return]  # build is untyped


def board(build: SimpleNamespace, **told: object) -> MeterWindow:
    return build.meter("gpu", **{"energy_j": 7_000.0, "idle_w": 50.0, "hw_model": "H100"} | told)  # type: ignore[no-any-return]  # build is untyped


def test_a_board_tells_its_joules_above_idle_and_seconds_of_each_model_and_phase(build: SimpleNamespace) -> None:
    window = build.window([board(build)], [engine(build, "a", 20, 5), engine(build, "b", 10, 11)])
    (found,) = samples(window, Policy())
    assert (found.hardware, found.joules) == ("H100", 4_000.0)
    assert found.seconds == {("a", PREFILL): 5, ("a", DECODE): 15, ("b", PREFILL): 10, ("b", DECODE): 0}
    without = build.window([board(build)], [engine(build, "a", 20, 5), engine(build, "b", 10, None)])
    assert [each.seconds for each in samples(without, Policy())] == [{("a", BOTH): 20, ("b", BOTH): 10}]


@pytest.mark.parametrize(
    ("of_board", "of_engine"),
    [
        ({"learnt": False}, {}),
        ({"idle_w": None, "learnt": False}, {}),
        ({"hw_model": ""}, {}),
        ({"covered_s": 30}, {}),
        ({"activity_ns": {"of a": 5, "": 1}}, {}),
        ({}, {"covered_s": 30}),
        ({}, {"restarts": 1}),
        ({}, {"on": SOMEWHERE}),
    ],
    ids=[
        "idle from a catalogue",
        "idle unknown",
        "no name",
        "meter missing",
        "strangers",
        "engine missing",
        "restart",
        "no place",
    ],
)
def test_a_board_of_which_too_little_is_known_tells_nothing(
    build: SimpleNamespace, of_board: dict[str, object], of_engine: dict[str, object]
) -> None:
    window = build.window([board(build, **of_board)], [engine(build, "a", 20, 5, **of_engine)])
    assert list(samples(window, Policy())) == []


def test_a_sensor_that_is_not_well_and_an_engine_that_does_not_time_itself_tell_nothing(build: SimpleNamespace) -> None:
    doubtful = msgspec.structs.replace(board(build), states=("sensor_disagreement",))
    untimed = build.engine("e", ["gpu"], [build.work("a", output_tokens=5)])
    for window in (
        build.window([doubtful], [engine(build, "a", 20)]),
        build.window([board(build)], [untimed, engine(build, "b", 20)]),
        build.window([board(build)], []),
    ):
        assert list(samples(window, Policy())) == []


def test_windows_add_up_to_the_watts_that_were_drawn(build: SimpleNamespace) -> None:
    def window(place: int) -> Window:
        busy_s = {"a": (20 + place % 7, place % 5), "b": (5 + place % 11, place % 3)}
        watts = {"a": (400, 200), "b": (900, 300)}
        joules = sum(p * watts[m][0] + (b - p) * watts[m][1] for m, (b, p) in busy_s.items())
        engines = [engine(build, model, *times) for model, times in busy_s.items()]
        return build.window([board(build, energy_j=3_000.0 + joules)], engines)  # type: ignore[no-any-return]  # build is untyped

    drawing = Drawing(Policy())
    for place in range(250):
        drawing.add(window(place))
    (found,) = drawing.fits()
    assert (found.hardware, found.models, found.windows, found.refused) == ("H100", ("a", "b"), 250, "")
    told = [watts for each in found.watts for watts in (each.prefill_w, each.decode_w)]
    assert told == pytest.approx([400, 200, 900, 300], abs=0.01)


def test_simulated_boards_tell_only_where_no_real_one_does(build: SimpleNamespace) -> None:
    real = build.window([board(build)], [engine(build, "a", 20, 5)])
    pretended = msgspec.structs.replace(build.window([board(build)], [engine(build, "b", 20, 5)]), simulated=True)
    drawing = Drawing(Policy())
    drawing.add(pretended)
    assert [found.models for found in drawing.fits()] == [("b",)]
    drawing.add(real)
    assert [(found.models, found.windows) for found in drawing.fits()] == [(("a",), 1)]
