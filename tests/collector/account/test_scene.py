"""How accounting looks at a window."""

from types import SimpleNamespace

from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.scene import scene_of


def test_things_are_in_the_order_of_their_ids(build: SimpleNamespace) -> None:
    window = build.window(
        [build.meter("b"), build.meter("a")],
        [build.engine("z", works=[build.work("m")]), build.engine("y")],
    )
    scene = scene_of(window, Policy())
    assert [each.id for each in scene.declared] == ["a", "b"]
    assert [each.engine.id for each in scene.engines] == ["y", "z"]
    assert [works[0].model for works in scene.works] == ["", "m"]


def test_covered_is_the_threshold_or_more(build: SimpleNamespace) -> None:
    scene = scene_of(build.window(), Policy(pair_threshold=0.95))
    assert scene.is_covered(build.meter("m", covered_s=57))
    assert not scene.is_covered(build.meter("m", covered_s=56.9))
    assert not scene.is_covered(build.engine("e", covered_s=0))
