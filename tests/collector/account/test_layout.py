"""What is decided from declarations alone, once for many windows."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.account.cover import covers
from joulefleet_collector.account.identity import engine_tags
from joulefleet_collector.account.layout import Declared, Layout, layout_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.residence import reside
from joulefleet_collector.account.scene import Scene, scene_of


def laid_out(scene: Scene, hardware: str = "") -> Layout:
    return layout_of(Declared(scene.declared, scene.served, scene.step_ns, hardware))


@given(data=st.data())
def test_a_layout_is_what_the_readings_would_have_told(data: st.DataObject, generated: SimpleNamespace) -> None:
    scene = scene_of(data.draw(generated.windows()), Policy())
    found, expected = laid_out(scene, "box"), covers(scene.meters, scene.step_ns)
    assert tuple(placed.of(scene.meters) for placed in found.covers) == expected
    assert found.residences == tuple(reside(cover, scene.served, scene.declared) for cover in expected)
    assert found.tags == tuple(engine_tags(each, scene.meters, "box", expected) for each in scene.served)


def test_equal_declarations_are_one_key(build: SimpleNamespace) -> None:
    windows = [build.window([build.meter("gpu", energy_j)], [build.engine("e", ["gpu"])]) for energy_j in (1, 2)]
    one, other = (scene_of(window, Policy()) for window in windows)
    keys = {Declared(scene.declared, scene.served, scene.step_ns, "") for scene in (one, other)}
    assert len(keys) == 1
