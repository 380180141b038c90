"""An engine pairs where it, its meters and those who share its devices were all covered."""

from types import SimpleNamespace

import pytest

from joulefleet.units import s_to_ns
from joulefleet.window import EngineWindow, MeterWindow
from joulefleet_collector.account.cover import covers
from joulefleet_collector.account.pair import neighbours, pair
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.residence import reside
from joulefleet_collector.account.scene import scene_of


def paired_s(
    build: SimpleNamespace, boundary: str, meters: list[MeterWindow], engines: list[EngineWindow]
) -> dict[int, int]:
    scene = scene_of(build.window(meters, engines), Policy())
    cover = next(cover for cover in covers(scene.meters, scene.step_ns) if cover.boundary == boundary)
    residence = reside(cover, [each.engine for each in scene.engines], scene.declared)
    return {number: ns // s_to_ns(1) for number, ns in pair(cover, residence, scene).items()}


def test_the_least_coverage_is_that_of_the_pair(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu0", covered_s=58), build.meter("gpu1", covered_s=57)]
    engines = [build.engine("a", ["gpu0"], covered_s=59), build.engine("b", ["gpu0", "gpu1"])]
    assert paired_s(build, "accelerator", meters, engines) == {0: 58, 1: 57}


@pytest.mark.parametrize(("gpu_s", "engine_s", "pairs"), [(57, 57, True), (56, 60, False), (60, 56, False)])
def test_both_sides_must_be_covered(build: SimpleNamespace, gpu_s: int, engine_s: int, pairs: bool) -> None:
    found = paired_s(
        build, "accelerator", [build.meter("gpu", covered_s=gpu_s)], [build.engine("a", ["gpu"], covered_s=engine_s)]
    )
    assert (0 in found) == pairs


def test_another_engines_device_does_not_matter_but_the_cpu_does(build: SimpleNamespace) -> None:
    engines = [build.engine("a", ["gpu0"]), build.engine("b", ["gpu1"])]
    meters = [build.meter("gpu0"), build.meter("gpu1", covered_s=0), build.meter("package-0", kind="cpu_package")]
    assert set(paired_s(build, "compute", meters, engines)) == {0}
    meters.append(build.meter("dram-0", kind="dram", covered_s=50))
    assert paired_s(build, "compute", meters, engines) == {}
    assert set(paired_s(build, "accelerator", meters, engines)) == {0}


def test_a_server_meter_is_enough_at_server(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu", covered_s=0), build.meter("bmc", kind="server", covered_s=58)]
    assert paired_s(build, "server", meters, [build.engine("a", ["gpu"])]) == {0: 58}
    assert paired_s(build, "server", meters, [build.engine("a", ["unknown"])]) == {0: 58}
    host = [build.meter("gpu", covered_s=0), build.meter("host", kind="host")]
    assert paired_s(build, "server", host, [build.engine("a", ["gpu"])]) == {}


def test_an_accelerator_without_a_meter_cannot_pair_where_it_should_be_measured(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu"), build.meter("package-0", kind="cpu_package"), build.meter("host", kind="host")]
    engines = [build.engine("a", ["gpu", "unknown"])]
    for boundary in ("accelerator", "compute", "server"):
        assert paired_s(build, boundary, meters, engines) == {}


def test_whoever_shares_with_an_unseen_engine_cannot_be_told_apart_from_it(build: SimpleNamespace) -> None:
    meters = [build.meter("gpu0"), build.meter("gpu1")]
    engines = [
        build.engine("a", [("gpu0", 0.5)]),
        build.engine("b", [("gpu0", 0.5)], covered_s=0),
        build.engine("c", ["gpu1"]),
    ]
    assert set(paired_s(build, "accelerator", meters, engines)) == {2}


def test_without_devices_all_share_the_server(build: SimpleNamespace) -> None:
    meters = [build.meter("package-0", kind="cpu_package")]
    assert paired_s(build, "compute", meters, [build.engine("a"), build.engine("b", covered_s=0)]) == {}
    assert set(paired_s(build, "compute", meters, [build.engine("a"), build.engine("b")])) == {0, 1}


def test_neighbours_share_a_device(build: SimpleNamespace) -> None:
    meters = [build.meter(name) for name in ("gpu0", "gpu1", "gpu2")]
    engines = [build.engine("a", ["gpu0", "gpu1"]), build.engine("b", ["gpu1"]), build.engine("c", ["gpu2"])]
    (cover,) = covers(meters, s_to_ns(60))
    residence = reside(cover, [each.engine for each in engines], [m.meter for m in meters])
    assert [neighbours(number, cover, residence) for number in range(3)] == [{1}, {0}, set()]
