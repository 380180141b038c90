"""Every microjoule of a boundary is in one term, and the terms are where they belong."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulefleet.describe import SOMEWHERE, Slice
from joulefleet.units import uj_to_j
from joulefleet.window import EngineWindow, MeterWindow
from joulefleet_collector.account.books import Books, keep_again, ways_of
from joulefleet_collector.account.cover import covers
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.scene import scene_of


def books(build: SimpleNamespace, boundary: str, meters: list[MeterWindow], engines: list[EngineWindow]) -> Books:
    scene = scene_of(build.window(meters, engines), Policy())
    return next(
        build.books(cover, scene) for cover in covers(scene.meters, scene.step_ns) if cover.boundary == boundary
    )


def told_j(kept: Books) -> dict[tuple[str, int | None], float]:
    """Joules by bucket and engine."""
    sums: dict[tuple[str, int | None], float] = {}
    for term in kept.terms:
        sums[term.bucket, term.engine] = sums.get((term.bucket, term.engine), 0.0) + uj_to_j(term.energy_uj)
    return sums


def methods(kept: Books) -> set[str]:
    return {term.method for term in kept.terms if term.engine is not None}


@given(data=st.data())
@settings(max_examples=200)
def test_terms_add_up_to_the_microjoule(
    data: st.DataObject, build: SimpleNamespace, generated: SimpleNamespace
) -> None:
    scene = scene_of(data.draw(generated.windows()), Policy())
    for cover in covers(scene.meters, scene.step_ns):
        kept = build.books(cover, scene)
        assert sum(term.energy_uj for term in kept.terms) == sum(m.energy_uj for m in cover.meters)
        assert all(term.energy_uj >= 0 for term in kept.terms)
        assert {term.engine for term in kept.terms} <= {None, *kept.paired_ns}


@given(data=st.data(), method=st.sampled_from(["", "activity", "busy", "running", "work"]), weight=st.integers(1, 30))
@settings(max_examples=200)
def test_books_kept_again_are_those_of_the_other_scene(
    data: st.DataObject, method: str, weight: int, build: SimpleNamespace, generated: SimpleNamespace
) -> None:
    scene = scene_of(data.draw(generated.windows()), Policy())
    other = scene.varied(method, weight)
    for cover in covers(scene.meters, scene.step_ns):
        kept = build.books(cover, scene)
        again = keep_again(kept, other)
        assert again == build.books(cover, other)
        assert ways_of(kept, scene) or again == kept


def test_the_ways_to_split_a_shared_board_are_told_the_best_first(build: SimpleNamespace) -> None:
    def ways(activity_ns: dict[str, int] | None = None, engines: str = "ab", **counts: int) -> list[tuple[str, ...]]:
        several = [build.engine(name, ["gpu"], [build.work(**counts)]) for name in engines]
        scene = scene_of(build.window([build.meter("gpu", 9, activity_ns=activity_ns)], several), Policy())
        return ways_of(build.books(covers(scene.meters, scene.step_ns)[0], scene), scene)

    told = {"a": 5, "b": 7}
    assert ways(output_tokens=1) == [("work",)]
    assert ways(output_tokens=1, busy_ns=1) == [("busy", "work")]
    assert ways(told, output_tokens=1) == [("activity", "work")]
    assert ways(requests_ok=1) == [("equal", "only 0", "only 1")]
    assert ways(told, requests_ok=1) == ways(told, engines="a", output_tokens=1) == ways(busy_ns=1) == []


def test_energy_of_an_engine_that_does_not_pair_is_unmatched(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu0", 100, idle_w=1), build.meter("gpu1", 50, covered_s=30)]
    kept = books(build, "accelerator", meters, [build.engine("a", [("gpu0", 0.5), "gpu1"])])
    assert told_j(kept) == {("unmatched", None): 120, ("idle_unallocated", None): 30}


def test_a_free_device_is_idle_unallocated_and_what_it_did_is_unattributed(build: SimpleNamespace) -> None:
    known, unknown = build.meter("gpu0", 100, idle_w=1), build.meter("gpu1", 50)
    assert told_j(books(build, "accelerator", [known, unknown], [])) == {
        ("idle_unallocated", None): 60,
        ("unattributed", None): 90,
    }
    missed = build.meter("gpu1", 50, covered_s=10)
    assert told_j(books(build, "accelerator", [missed], [])) == {("unmatched", None): 50}


def test_an_unseen_neighbour_leaves_the_shared_device_unmatched(build: SimpleNamespace) -> None:
    engines = [build.engine("a", [("gpu", 0.25)]), build.engine("b", [("gpu", 0.25)], covered_s=0)]
    kept = books(build, "accelerator", [build.meter("gpu", 100, idle_w=1)], engines)
    assert told_j(kept) == {("unmatched", None): 70, ("idle_unallocated", None): 30}


def test_a_neighbours_other_device_does_not_cost_the_split(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu0", 100), build.meter("gpu1", 10, covered_s=0)]
    engines = [
        build.engine("a", ["gpu0"], [build.work(output_tokens=30)]),
        build.engine("b", ["gpu0", "gpu1"], [build.work(output_tokens=10)]),
    ]
    assert told_j(books(build, "accelerator", meters, engines)) == {("active", 0): 75, ("unmatched", None): 35}


def test_a_server_without_accelerators_is_shared_like_a_device(build: SimpleNamespace) -> None:
    meters = [build.meter("package-0", 100, kind="cpu_package", idle_w=1), build.meter("bmc", 300, kind="server")]
    engines = [build.engine(name, works=[build.work(output_tokens=n)]) for name, n in (("a", 30), ("b", 10))]
    compute = books(build, "compute", meters, engines)
    assert told_j(compute) == {("idle", 0): 30, ("idle", 1): 30, ("active", 0): 30, ("active", 1): 10}
    assert methods(compute) == {"reservation", "work"}
    assert told_j(books(build, "server", meters, engines)) == {("active", 0): 225, ("active", 1): 75}
    assert methods(books(build, "server", meters, engines[:1])) == {"exclusive"}


def test_the_host_follows_the_accelerators(build: SimpleNamespace) -> None:
    meters = [
        build.meter("gpu0", 100, idle_w=1),
        build.meter("gpu1", 70, idle_w=1),
        build.meter("gpu2", 60, idle_w=1),
        build.meter("host", 80, kind="host", idle_w=0.5),
    ]
    engines = [build.engine("a", ["gpu0"]), build.engine("b", ["gpu1"])]
    kept = books(build, "server", meters, engines)
    assert told_j(kept) == {
        ("idle", 0): 60 + 10,
        ("idle", 1): 60 + 10,
        ("idle_unallocated", None): 60 + 10,
        ("active", 0): 40 + 40,
        ("active", 1): 10 + 10,
    }
    assert methods(kept) == {"exclusive", "reservation", "accelerator"}


def test_whoever_holds_the_whole_server_has_its_host_even_while_idle(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu", 60, idle_w=1), build.meter("package-0", 20, kind="cpu_package")]
    kept = books(build, "compute", meters, [build.engine("a", ["gpu"])])
    assert told_j(kept) == {("idle", 0): 60, ("active", 0): 20}
    free = books(build, "compute", [*meters, build.meter("gpu1", 60, idle_w=1)], [build.engine("a", ["gpu"])])
    assert told_j(free)["unattributed", None] == 20


def test_a_free_device_at_work_draws_the_host_along(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu0", 30), build.meter("gpu1", 10), build.meter("package-0", 20, kind="cpu_package")]
    kept = books(build, "compute", meters, [build.engine("a", ["gpu0"])])
    assert told_j(kept) == {("active", 0): 45, ("unattributed", None): 15}


def test_an_unseen_accelerator_leaves_the_server_to_its_only_holder(build: SimpleNamespace) -> None:
    meters = [
        build.meter("gpu0", 100),
        build.meter("gpu1", covered_s=0),
        build.meter("bmc", 300, kind="server", idle_w=1),
    ]
    kept = books(build, "server", meters, [build.engine("a", ["gpu0", "gpu1"])])
    assert told_j(kept) == {("idle", 0): 60, ("active", 0): 240}
    assert methods(kept) == {"exclusive"}


def test_an_unseen_accelerator_leaves_the_server_to_reservations(build: SimpleNamespace) -> None:
    meters = [build.meter(f"gpu{n}", 10, covered_s=60 if n else 0) for n in range(4)]
    meters.append(build.meter("bmc", 300, kind="server", idle_w=1))
    engines = [build.engine("a", ["gpu0", "gpu1"]), build.engine("b", ["gpu2"])]
    kept = books(build, "server", meters, engines)
    assert told_j(kept) == {
        ("idle", 0): 30,
        ("idle", 1): 15,
        ("idle_unallocated", None): 15,
        ("active", 0): 120,
        ("active", 1): 60,
        ("unattributed", None): 60,
    }
    assert methods(kept) == {"reservation"}


def test_an_unseen_accelerator_does_not_give_its_host_share_to_the_others(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu0", 10), build.meter("gpu1", covered_s=0), build.meter("p", 40, kind="cpu_package")]
    engines = [build.engine("a", ["gpu0"]), build.engine("b", ["gpu1"])]
    assert told_j(books(build, "compute", meters, engines)) == {("active", 0): 10 + 20, ("unmatched", None): 20}


def test_an_unseen_cpu_is_unmatched_with_all_that_needs_it(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu", 60, idle_w=1), build.meter("p", 40, kind="cpu_package", covered_s=20)]
    kept = books(build, "compute", meters, [build.engine("a", [("gpu", 0.5)])])
    assert told_j(kept) == {("unmatched", None): 30 + 40, ("idle_unallocated", None): 30}


def test_an_unseen_server_is_unmatched(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu", 60, idle_w=1), build.meter("bmc", 90, kind="server", covered_s=50, idle_w=1)]
    assert told_j(books(build, "server", meters, [build.engine("a", [("gpu", 0.5)])])) == {("unmatched", None): 90}


def test_an_accelerator_without_a_meter_leaves_the_server_to_reservations(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu0", 60), build.meter("bmc", 100, kind="server")]
    kept = books(build, "server", meters, [build.engine("a", ["gpu0"]), build.engine("b", ["unknown"])])
    assert told_j(kept) == {("active", 0): 50, ("active", 1): 50}
    assert methods(kept) == {"reservation"}


def test_a_server_that_told_less_than_its_boards_is_shared_as_they_are(build: SimpleNamespace) -> None:
    meters = [
        build.meter("gpu0", 120, idle_w=1),
        build.meter("gpu1", 60, idle_w=1),
        build.meter("bmc", 90, kind="server", idle_w=5),
    ]
    kept = books(build, "server", meters, [build.engine("a", ["gpu0"])])
    assert told_j(kept) == {("idle", 0): 30, ("active", 0): 30, ("idle_unallocated", None): 30}
    assert {term.source.meter.id for term in kept.terms} == {"bmc"}


def test_what_rests_on_a_catalogue_is_told(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu0", 60, idle_w=1, learnt=False), build.meter("gpu1", 60, idle_w=1)]
    kept = books(build, "accelerator", meters, [build.engine("a", ["gpu0", "gpu1"])])
    assert {term.source.meter.id: term.learnt for term in kept.terms} == {"gpu0": False, "gpu1": True}


def shared(build: SimpleNamespace, activity_ns: dict[str, int] | None, **gpu: object) -> Books:
    """A board of 900 J on which two engines run, whose tokens say 1 to 9."""
    engines = [
        build.engine(name, ["gpu"], [build.work(output_tokens=tokens)]) for name, tokens in (("a", 100), ("b", 900))
    ]
    return books(build, "accelerator", [build.meter("gpu", 900, activity_ns=activity_ns, **gpu)], engines)


def test_engines_on_one_board_share_by_what_their_processes_did(build: SimpleNamespace) -> None:
    kept = shared(build, {"a": 2_000, "b": 1_000}, idle_w=5)
    assert told_j(kept) == {("idle", 0): 150, ("idle", 1): 150, ("active", 0): 400, ("active", 1): 200}
    assert {term.method for term in kept.terms if term.bucket == "active"} == {"activity"}


def test_what_processes_of_no_engine_did_is_nobody_s(build: SimpleNamespace) -> None:
    told = told_j(shared(build, {"a": 2_000, "b": 0, "": 500, "elsewhere": 500}))
    assert told == {("active", 0): 600, ("unattributed", None): 300}


def test_where_the_processes_of_one_are_not_known_their_work_tells(build: SimpleNamespace) -> None:
    """It may have done all that processes of no engine did."""
    for told in (None, {}, {"a": 2_000, "": 100}, {"a": 0, "b": 0}, {"a": 0, "b": 0, "": 9}):
        assert methods(shared(build, told)) == {"work"}


def test_an_engine_alone_on_a_board_has_all_of_it(build: SimpleNamespace) -> None:
    engine = build.engine("a", ["gpu"], [build.work(output_tokens=1)])
    kept = books(build, "accelerator", [build.meter("gpu", 900, activity_ns={"a": 1, "": 99})], [engine])
    assert told_j(kept) == {("active", 0): 900}


@pytest.mark.parametrize(
    ("told", "joules"),
    [
        ({"a": 1, "": 2}, {("active", 0): 200, ("unattributed", None): 400}),
        ({"a": 0, "": 9}, {("unattributed", None): 600}),
        ({"a": 3}, {("active", 0): 600}),
        (None, {("active", 0): 600}),
    ],
)
def test_an_engine_beside_processes_of_nobody_has_what_its_own_did(
    build: SimpleNamespace, told: dict[str, int] | None, joules: dict[tuple[str, int | None], int]
) -> None:
    engine = build.engine("a", [("gpu", 0.5)], [build.work(output_tokens=1)])
    kept = books(build, "accelerator", [build.meter("gpu", 900, idle_w=5, activity_ns=told)], [engine])
    assert told_j(kept) == joules | {("idle", 0): 150, ("idle_unallocated", None): 150}


def test_an_engine_of_which_nobody_told_where_it_runs_has_no_joules_and_takes_none(build: SimpleNamespace) -> None:
    engines = [build.engine("a", ["gpu0"], [build.work(output_tokens=1)])]
    engines += [build.engine("b", [SOMEWHERE], [build.work(output_tokens=9)])]
    meters = [build.meter("gpu0", 900), build.meter("gpu1", 100), build.meter("wall", 2_000, kind="server")]
    kept = books(build, "accelerator", meters, engines)
    assert told_j(kept) == {("active", 0): 900, ("unattributed", None): 100}
    assert set(kept.paired_ns) == {0}
    kept = books(build, "server", meters, engines)
    assert told_j(kept) == {("active", 0): 1_800, ("unattributed", None): 200}
    assert set(kept.paired_ns) == {0}


def test_the_host_follows_the_boards_also_where_nobody_is_known(build: SimpleNamespace) -> None:
    engines = [build.engine(name, ["gpu"], [build.work(output_tokens=1)]) for name in "ab"]
    meters = [build.meter("gpu", 900, activity_ns={"a": 2, "b": 3, "": 4}), build.meter("wall", 1_800, kind="server")]
    assert told_j(books(build, "server", meters, engines)) == {
        ("active", 0): 400,
        ("active", 1): 600,
        ("unattributed", None): 800,
    }


def test_busy_time_of_a_slice_counts_by_its_slots_and_that_of_parts_of_one_board_alike(build: SimpleNamespace) -> None:
    slices = (Slice("large", 4), Slice("small", 2))
    board = build.meter("gpu0", 600.0, idle_w=0.0, slices=slices, slots=7)

    def shared(*places: str | tuple[str, float]) -> dict[tuple[str, int | None], float]:
        works = [build.work("m", busy_ns=30_000_000_000)]
        engines = [build.engine(f"e{number}", [place], works) for number, place in enumerate(places)]
        return told_j(books(build, "accelerator", [board], engines))

    assert shared("large", "small") == {("active", 0): 400.0, ("active", 1): 200.0}
    assert shared(("gpu0", 0.6), ("gpu0", 0.3)) == {("active", 0): 300.0, ("active", 1): 300.0}
    assert shared("large", ("gpu0", 0.3)) == {("active", 0): 300.0, ("active", 1): 300.0}
