"""Tags of rows: from the window alone."""

from types import SimpleNamespace

import pytest

from joulefleet.describe import Slice
from joulefleet_collector.account.cover import covers
from joulefleet_collector.account.identity import engine_tags, window_tags


def hardware(build: SimpleNamespace, meters: list, engine: object, named: str = "") -> str:
    window = build.window(meters, [engine], hardware=named)
    return engine_tags(engine.engine, window.meters, window.hardware, covers(window.meters, window.step_ns))["hardware"]


def test_a_window_is_told_by_its_key_and_labels(build: SimpleNamespace) -> None:
    window = build.window(step_s=10, timeline=0xABC, pool="p", site="s", labels={"rack": "r7", "server": "other"})
    assert window_tags(window) == {
        "server": "n1",
        "pool": "p",
        "site": "s",
        "simulated": "false",
        "timeline": "00000abc",
        "step_s": "10",
        "rack": "r7",
    }


def test_a_window_is_simulated_as_soon_as_anything_in_it_is(build: SimpleNamespace) -> None:
    windows = [
        build.window(simulated=True),
        build.window([build.meter("gpu"), build.meter("sim", simulated=True)]),
        build.window(engines=[build.engine("e", simulated=True)]),
    ]
    assert [window_tags(window)["simulated"] for window in windows] == ["true"] * 3


def test_an_engine_is_told_by_its_software_and_hardware(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu0", hw_model="H100"), build.meter("gpu1", hw_model="A100"), build.meter("gpu2")]
    engine = build.engine("e", ["gpu0", "gpu1", "gpu2"], version="0.9", group="g", hardware="told")
    window = build.window(meters, [engine])
    assert engine_tags(engine.engine, window.meters, window.hardware, covers(window.meters, window.step_ns)) == {
        "software": "vllm",
        "version": "0.9",
        "hardware": "A100+H100",
        "group": "g",
    }


def test_boards_of_one_model_are_named_once(build: SimpleNamespace) -> None:
    meters = [build.meter(f"gpu{n}", hw_model="H100") for n in range(8)]
    assert hardware(build, meters, build.engine("e", ["gpu3", "gpu5"])) == "H100"
    assert hardware(build, meters, build.engine("e")) == "H100", "an engine without devices is on all of them"


@pytest.mark.parametrize(
    ("engine_hardware", "window_hardware", "found"),
    [("e-hw", "w-hw", "e-hw"), ("", "w-hw", "w-hw"), ("", "", "DL380")],
)
def test_where_no_device_tells_its_model_the_next_best_is_taken(
    build: SimpleNamespace, engine_hardware: str, window_hardware: str, found: str
) -> None:
    meters = [
        build.meter("a-host", kind="host", hw_model="Xeon"),
        build.meter("bmc", kind="server", hw_model="DL380"),
        build.meter("package-0", kind="cpu_package", hw_model="8480C"),
    ]
    engine = build.engine("e", ["unknown"], hardware=engine_hardware)
    assert hardware(build, meters, engine, window_hardware) == found


def test_a_slice_of_a_board_has_the_board_s_name(build: SimpleNamespace) -> None:
    board = build.meter("gpu", hw_model="H100", slices=(Slice("MIG-a", 1),), slots=7)
    assert hardware(build, [board, build.meter("gpu1", hw_model="A100")], build.engine("e", ["MIG-a"])) == "H100"


def test_hardware_nobody_tells_is_empty(build: SimpleNamespace) -> None:
    assert hardware(build, [build.meter("gpu")], build.engine("e", ["gpu"])) == ""
