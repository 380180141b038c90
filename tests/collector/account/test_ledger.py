"""The ledger of a boundary."""

from types import SimpleNamespace

from joulefleet.units import j_to_uj, s_to_ns
from joulefleet.window import Window
from joulefleet_collector.account.cover import covers
from joulefleet_collector.account.ledger import ledger
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.scene import scene_of


def fields(build: SimpleNamespace, window: Window, boundary: str) -> dict[str, float]:
    scene = scene_of(window, Policy())
    cover = next(cover for cover in covers(scene.meters, scene.step_ns) if cover.boundary == boundary)
    entry = ledger(build.books(cover, scene), scene)
    assert entry.tags == {"boundary": boundary}
    return entry.fields


def test_all_that_was_metered_is_somewhere(build: SimpleNamespace) -> None:
    meters = [
        build.meter("gpu0", 100, idle_w=1, covered_s=58),
        build.meter("gpu1", 50, covered_s=10, grade="integrated"),
        build.meter("gpu2", 30),
    ]
    found = fields(build, build.window(meters, [build.engine("e", ["gpu0"])]), "accelerator")
    assert (found["metered_j"], found["active_j"], found["idle_j"]) == (180, 42, 58)
    assert (found["idle_unallocated_j"], found["unattributed_j"], found["unmatched_j"]) == (0, 30, 50)
    assert (found["residual_uj"], found["window_s"], found["covered_s"]) == (0, 60, 10)
    assert (found["counter_j"], found["integrated_j"]) == (130, 50)


def test_late_and_refused_joules_have_terms_of_their_own(build: SimpleNamespace) -> None:
    meter = build.meter("gpu", 100, late_j=7)
    meter.rejected_uj = j_to_uj(3)
    found = fields(build, build.window([meter]), "accelerator")
    assert (found["metered_j"], found["late_j"], found["rejected_j"]) == (100, 7, 3)


def test_only_meters_of_the_cover_count(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu", 100), build.meter("slice", 60, inside="gpu", late_j=1)]
    found = fields(build, build.window(meters), "accelerator")
    assert (found["metered_j"], found["late_j"]) == (100, 0)


def test_other_is_signed_and_only_at_server(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu", 100), build.meter("p", 30, kind="cpu_package"), build.meter("b", 90, kind="server")]
    window = build.window(meters)
    assert fields(build, window, "server")["other_j"] == -40
    assert "other_j" not in fields(build, window, "compute")
    assert fields(build, build.window([build.meter("b", 90, kind="server")]), "server")["other_j"] == 90


def test_other_is_unknown_while_a_part_is(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu", 10, covered_s=5), build.meter("b", 90, kind="server")]
    assert "other_j" not in fields(build, build.window(meters), "server")


def test_work_is_unmetered_where_its_engine_does_not_pair(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu0", 1), build.meter("gpu1", 1, covered_s=0)]
    engines = [
        build.engine("a", ["gpu0"], [build.work(output_tokens=5, requests_ok=1)]),
        build.engine("b", ["gpu1"], [build.work("x", output_tokens=7), build.work("y", output_tokens=2)]),
    ]
    found = fields(build, build.window(meters, engines), "accelerator")
    assert (found["unmetered_output_tokens"], found["unmetered_requests_ok"]) == (9, 0)
    assert "unmetered_prompt_tokens" not in found


def test_joules_of_sensors_that_are_not_well_are_told_with_the_boundary_they_are_in(build: SimpleNamespace) -> None:
    gpu0, gpu1, again = build.meter("gpu0", 100), build.meter("gpu1", 50), build.meter("again", 40, inside="gpu1")
    gpu0.states, again.states = ("sensor_disagreement", "unvalidated"), ("sensor_disagreement",)
    gpu1.states, gpu0.gaps_ns = ("stuck",), {"hung": s_to_ns(3), "reset": s_to_ns(1), "stale": s_to_ns(2)}
    found = fields(build, build.window([gpu0, gpu1, again]), "accelerator")
    assert (found["unvalidated_j"], found["disagreeing_j"], found["faulty_s"]) == (100, 100, 65)
