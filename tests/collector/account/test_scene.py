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


def test_fronts_stand_apart_from_engines(build: SimpleNamespace) -> None:
    window = build.window(engines=[build.engine("b", front=True), build.engine("a"), build.engine("c", front=True)])
    scene = scene_of(window, Policy())
    assert [each.engine.id for each in scene.engines] == ["a"]
    assert [each.id for each in scene.served] == ["a"]
    assert [each.engine.id for each in scene.fronts] == ["b", "c"]


def test_covered_is_the_threshold_or_more(build: SimpleNamespace) -> None:
    scene = scene_of(build.window(), Policy(pair_threshold=0.95))
    assert scene.is_covered(build.meter("m", covered_s=57))
    assert not scene.is_covered(build.meter("m", covered_s=56.9))
    assert not scene.is_covered(build.engine("e", covered_s=0))


def test_what_is_found_once_is_not_looked_for_again(build: SimpleNamespace) -> None:
    scene, asked = scene_of(build.window(), Policy()), []
    assert [scene.once("key", lambda: asked.append(1) or len(asked)) for _ in range(2)] == [1, 1]
    assert scene_of(build.window(), Policy()).once("key", lambda: 7) == 7


def test_models_share_to_the_microjoule(build: SimpleNamespace) -> None:
    works = [build.work("a", output_tokens=1), build.work("b", output_tokens=2)]
    scene = scene_of(build.window(engines=[build.engine("e", works=works)]), Policy())
    assert scene.model_weights == ([10, 20],)
    assert scene.among_models(0, 10) == [3, 7]


def test_a_varied_scene_prefers_another_way_where_it_is_known(build: SimpleNamespace) -> None:
    works = [build.work("a", output_tokens=1, busy_ns=5), build.work("b", output_tokens=2, busy_ns=5)]
    scene = scene_of(build.window(engines=[build.engine("e", works=works)]), Policy())
    other = scene.varied("work", 3)
    assert (scene.model_weights, other.model_weights) == (([5, 5],), ([3, 6],))
    assert other is scene.varied("work", 3) and other.meters == scene.meters
    assert (scene.chosen({"busy": 1, "work": 2}), other.chosen({"busy": 1, "work": 2})) == (("busy", 1), ("work", 2))
    assert other.chosen({"busy": 1}) == ("busy", 1)


def test_what_processes_did_is_told_by_the_meter_another_of_the_same_thing_or_its_parts(build: SimpleNamespace) -> None:
    meters = [
        build.meter("dcgm-0", device="D0"),
        build.meter("gpu0", device="D0", inside="module", activity_ns={"a": 1}),
        build.meter("gpu1", device="D1", inside="module", activity_ns={"a": 2, "": 5}),
        build.meter("module", kind="module"),
        build.meter("gpu2", inside="other", activity_ns={"a": 3}),
        build.meter("gpu3", inside="other"),
        build.meter("other", kind="module"),
        build.meter("alone"),
    ]
    scene = scene_of(build.window(meters), Policy())
    told = {each.meter.id: scene.activity_of(each) for each in scene.meters}
    assert told["dcgm-0"] == told["gpu0"] == {"a": 1}
    assert told["module"] == {"a": 3, "": 5}
    assert (told["other"], told["gpu3"], told["alone"]) == (None, None, None)
