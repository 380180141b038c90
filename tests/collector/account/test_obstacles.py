"""Whatever keeps an engine from pairing is named, and nothing where it pairs."""

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from joulefleet.describe import SOMEWHERE
from joulefleet.window import EngineWindow, MeterWindow, Window
from joulefleet_collector.account.books import Books, keep
from joulefleet_collector.account.cover import covers
from joulefleet_collector.account.obstacles import obstacles
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.residence import reside
from joulefleet_collector.account.scene import Scene, scene_of


def all_books(window: Window) -> tuple[Scene, list[Books]]:
    scene = scene_of(window, Policy())
    found = covers(scene.meters, scene.step_ns)
    return scene, [keep(cover, reside(cover, scene.served, scene.declared), scene) for cover in found]


def told(
    build: SimpleNamespace, meters: list[MeterWindow], engines: list[EngineWindow], number: int = 0
) -> list[tuple[str, str, float, float]]:
    scene, (books, *_) = all_books(build.window(meters, engines))
    return [(one.code, one.subject, one.covered_s, one.needed_s) for one in obstacles(number, books, scene)]


def test_each_thing_that_is_missing_is_named_with_its_seconds(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu0", covered_s=30), build.meter("gpu1", covered_s=0)]
    engines = [build.engine("a", ["gpu0"], covered_s=57), build.engine("b", ["gpu0", "gpu1"], covered_s=10)]
    assert told(build, meters, engines) == [("neighbour", "b", 10.0, 57.0), ("meter", "gpu0", 30.0, 57.0)]
    assert [code for code, *_ in told(build, meters, engines, number=1)] == ["engine", "meter", "meter"]


def test_a_device_that_no_meter_measures_is_one(build: SimpleNamespace) -> None:
    assert told(build, [build.meter("gpu0")], [build.engine("a", ["gpu0", "elsewhere"])])[0][:2] == (
        "unmetered_device",
        "a",
    )


def test_an_engine_of_which_nobody_told_where_it_runs_is_named_for_that(build: SimpleNamespace) -> None:
    assert [code for code, *_ in told(build, [build.meter("gpu0")], [build.engine("a", [SOMEWHERE])])] == ["unplaced"]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_an_engine_pairs_where_nothing_is_in_its_way(generated: SimpleNamespace, data: st.DataObject) -> None:
    scene, every = all_books(data.draw(generated.windows()))
    for books in every:
        for number in range(len(scene.engines)):
            assert (number in books.paired_ns) == (not obstacles(number, books, scene))
