"""Usage rows: joules beside the work that they paid for."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import GRADES, SENSOR_CLASSES
from joulefleet.reading import Counts
from joulefleet.units import s_to_ns
from joulefleet.window import Window
from joulefleet_collector.account.account import account
from joulefleet_collector.account.cover import covers
from joulefleet_collector.account.identity import Entry
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.scene import scene_of
from joulefleet_collector.account.usage import usage
from joulefleet_collector.rows import COUNT_FIELDS, METHODS, USAGE


def entries(build: SimpleNamespace, window: Window) -> list[Entry]:
    scene = scene_of(window, Policy())
    (cover,) = covers(scene.meters, scene.step_ns)
    return list(usage(build.books(cover, scene), scene, [{"software": e.engine.software} for e in scene.engines]))


def one(build: SimpleNamespace, gpu_s: float = 60, **work: object) -> dict[str, float]:
    """Fields of one engine on one GPU of 100 J, 60 of them idle."""
    meters = [build.meter("gpu", 100, idle_w=1, covered_s=gpu_s)]
    (entry,) = entries(build, build.window(meters, [build.engine("e", ["gpu"], [build.work(**work)])]))
    return entry.fields


ALL = {
    "requests_ok": 9,
    "requests_failed": 1,
    "requests_aborted": 0,
    "prompt_tokens": 100,
    "cached_tokens": 30,
    "output_tokens": 50,
}


def test_work_of_a_pair_stands_beside_its_energy(build: SimpleNamespace) -> None:
    fields = one(build, **ALL)
    assert (fields["active_j"], fields["idle_j"], fields["paired_s"], fields["window_s"]) == (40, 60, 60, 60)
    assert {name: fields[name] for name in COUNT_FIELDS} == ALL
    assert {fields[f"unmetered_{name}"] for name in COUNT_FIELDS} == {0}
    assert fields["total_tokens"] == 120
    for name in ("requests", "output_tokens", "total_tokens"):
        assert (fields[f"{name}_j"], fields[f"{name}_active_j"]) == (100, 40)


def test_work_without_a_pair_is_unmetered(build: SimpleNamespace) -> None:
    fields = one(build, gpu_s=30, **ALL)
    assert (fields["active_j"], fields["idle_j"], fields["paired_s"], fields["window_s"]) == (0, 0, 0, 60)
    assert {fields[name] for name in (*COUNT_FIELDS, "total_tokens", "requests_j", "independent_j2")} == {0}
    assert {name: fields[f"unmetered_{name}"] for name in COUNT_FIELDS} == ALL


def test_what_is_not_counted_has_no_field(build: SimpleNamespace) -> None:
    fields = one(build, requests_ok=3)
    assert fields["requests_j"] == 100
    unknown = {
        name for name in USAGE.sums if name.startswith(("output_", "total_", "prompt_", "unmetered_out", "late_"))
    }
    assert not unknown & set(fields)
    assert "running_s" not in fields
    assert "running_delta" not in fields


def test_total_tokens_need_all_three_counts(build: SimpleNamespace) -> None:
    assert "total_tokens" not in one(build, prompt_tokens=1, output_tokens=1)
    assert "total_tokens_j" not in one(build, prompt_tokens=1, cached_tokens=0)


def test_late_work_is_apart(build: SimpleNamespace) -> None:
    fields = one(build, output_tokens=5, late=Counts(output_tokens=7))
    assert (fields["output_tokens"], fields["late_output_tokens"]) == (5, 7)
    assert "late_requests_ok" not in fields


def test_idle_from_a_catalogue_is_told(build: SimpleNamespace) -> None:
    for learnt, expected in ((True, 0), (False, 60)):
        meters = [build.meter("gpu", 100, idle_w=1, learnt=learnt)]
        (entry,) = entries(build, build.window(meters, [build.engine("e", ["gpu"])]))
        assert entry.fields["idle_default_j"] == expected


def test_what_an_engine_tells_as_a_whole_is_shared_by_its_models(build: SimpleNamespace) -> None:
    works = [build.work("a", output_tokens=30), build.work("b", output_tokens=10)]
    engine = build.engine("e", ["gpu"], works, running=(9, 1), running_s=100, restarts=3)
    a, b = (entry.fields for entry in entries(build, build.window([build.meter("gpu", 100)], [engine])))
    assert (a["running_delta"], b["running_delta"]) == (-6, -2)
    assert (a["running_s"], b["running_s"]) == (75, 25)
    assert (a["restarts"], b["restarts"]) == (2, 1)
    assert a["window_s"] == b["window_s"] == 60, "each model has the coverage of its engine"


def test_running_requests_count_over_paired_windows_only(build: SimpleNamespace) -> None:
    engine = build.engine("e", ["gpu"], [build.work()], running=(9, 1), running_s=100, restarts=1)
    (entry,) = entries(build, build.window([build.meter("gpu", 100, covered_s=0)], [engine]))
    assert not {"running_delta", "running_s"} & set(entry.fields)
    assert entry.fields["restarts"] == 1


def test_an_entry_names_boundary_model_and_revision(build: SimpleNamespace) -> None:
    engine = build.engine("e", ["gpu"], [build.work("m", revision="fp8")])
    (entry,) = entries(build, build.window([build.meter("gpu", 100)], [engine]))
    assert entry.tags == {"software": "vllm", "boundary": "accelerator", "model": "m", "revision": "fp8"}


def test_uncertainty_is_part_of_the_row(build: SimpleNamespace) -> None:
    engines = [
        build.engine("a", ["gpu"], [build.work(prompt_tokens=100, output_tokens=0)]),
        build.engine("b", ["gpu"], [build.work(prompt_tokens=0, output_tokens=10)]),
    ]
    meters = [build.meter("gpu", 600, refresh_ns=s_to_ns(1))]
    for entry in entries(build, build.window(meters, engines)):
        assert entry.fields["independent_j2"] > 0
        assert entry.fields["allocation_j"] > 0


@given(data=st.data())
def test_joules_by_grade_class_and_method_are_the_joules_charged(
    data: st.DataObject, build: SimpleNamespace, generated: SimpleNamespace
) -> None:
    scene = scene_of(data.draw(generated.windows()), Policy())
    for cover in covers(scene.meters, scene.step_ns):
        for entry in usage(build.books(cover, scene), scene, [{} for _ in scene.engines]):
            whole = pytest.approx(entry.fields["active_j"] + entry.fields["idle_j"], abs=1e-6)
            assert sum(entry.fields[f"{grade}_j"] for grade in GRADES) == whole
            assert sum(entry.fields[f"class_{name}_j"] for name in SENSOR_CLASSES) == whole
            assert sum(entry.fields[f"by_{method}_j"] for method in METHODS) == whole


def test_an_engine_holds_its_part_of_each_device_while_it_pairs(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu0", covered_s=58), build.meter("gpu1"), build.meter("gpu2")]
    engines = [
        build.engine("a", ["gpu0", ("gpu1", 0.25)], [build.work("a")]),
        build.engine("b", [("gpu2", 0.5)], [build.work("b", output_tokens=1), build.work("c", output_tokens=2)]),
        build.engine("d", ["gpu2"], [build.work("d")]),
        build.engine("e", ["unknown"], [build.work("e")]),
    ]
    rows = account(build.window(meters, engines), Policy())
    held = {model: build.find(rows, "usage", model=model)["reserved_s"] for model in "abcde"}
    assert held == pytest.approx({"a": 1.25 * 58, "b": 20 / 3, "c": 40 / 3, "d": 40, "e": 0})


def test_where_no_device_is_known_the_server_is_one(build: SimpleNamespace) -> None:
    engines = [build.engine(name, [], [build.work(name)]) for name in "ab"]
    rows = account(build.window([build.meter("bmc", kind="server")], engines), Policy())
    assert [build.find(rows, "usage", model=name)["reserved_s"] for name in "ab"] == [30, 30]


def test_the_declared_size_of_a_group_is_told(build: SimpleNamespace) -> None:
    engines = [
        build.engine("a", ["gpu0"], [build.work("a")], group="g", group_size=3),
        build.engine("b", ["gpu1"], [build.work("b")], group="g"),
    ]
    rows = account(build.window([build.meter("gpu0"), build.meter("gpu1")], engines), Policy())
    assert build.find(rows, "usage", model="a")["group_s"] == 180
    assert "group_s" not in build.find(rows, "usage", model="b")
