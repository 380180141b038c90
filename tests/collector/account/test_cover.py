"""Each boundary takes meters that do not overlap, whatever is declared beside them."""

from types import SimpleNamespace

import pytest

from joulefleet.topology import ancestors, is_coarse
from joulefleet.units import j_to_uj, s_to_ns, w_to_mw
from joulefleet.window import MeterWindow
from joulefleet_collector.account.account import account
from joulefleet_collector.account.cover import Cover, covers
from joulefleet_collector.account.policy import Policy

STEP_NS = s_to_ns(60)
MODULE = {"kind": "module", "contains": ("accelerator", "cpu_package", "dram")}
HOST = {"kind": "host", "contains": ("cpu_package", "dram")}


def chosen(*meters: MeterWindow) -> dict[str, list[str]]:
    """Ids of the meters whose sum is each boundary."""
    return {cover.boundary: [m.meter.id for m in cover.meters] for cover in covers(meters, STEP_NS)}


def of(boundary: str, *meters: MeterWindow) -> Cover:
    return next(cover for cover in covers(meters, STEP_NS) if cover.boundary == boundary)


def test_a_usual_server_has_three_boundaries(build: SimpleNamespace) -> None:
    meters = [
        build.meter("gpu1"),
        build.meter("gpu0"),
        build.meter("package-0", kind="cpu_package"),
        build.meter("core-0", kind="cpu_core", inside="package-0"),
        build.meter("dram-0", kind="dram"),
        build.meter("psys", kind="psys", contains=("cpu_package", "dram", "cpu_core")),
        build.meter("bmc", kind="server"),
    ]
    assert chosen(*meters) == {
        "accelerator": ["gpu0", "gpu1"],
        "compute": ["gpu0", "gpu1", "dram-0", "package-0"],
        "server": ["bmc"],
    }
    assert chosen(*reversed(meters)) == chosen(*meters)


def test_meters_that_failed_stay_in_the_cover(build: SimpleNamespace) -> None:
    assert chosen(build.meter("gpu0", covered_s=0), build.meter("gpu1")) == {"accelerator": ["gpu0", "gpu1"]}


def test_compute_needs_a_cpu(build: SimpleNamespace) -> None:
    assert "compute" not in chosen(build.meter("gpu"), build.meter("dram-0", kind="dram"))
    assert chosen(build.meter("package-0", kind="cpu_package")) == {"compute": ["package-0"]}


def test_psys_and_cores_alone_make_no_boundary(build: SimpleNamespace) -> None:
    assert chosen(build.meter("psys", kind="psys"), build.meter("core", kind="cpu_core")) == {}


def test_a_module_holds_its_boards_and_cpus(build: SimpleNamespace) -> None:
    found = chosen(
        build.meter("module", **MODULE),
        build.meter("gpu", inside="module"),
        build.meter("package-0", kind="cpu_package"),
        build.meter("dram-0", kind="dram"),
    )
    assert found == {"accelerator": ["gpu"], "compute": ["module"]}


def test_parts_are_left_out_over_several_steps(build: SimpleNamespace) -> None:
    board = build.meter("board")
    assert chosen(board, build.meter("slice", inside="die"), build.meter("die", inside="board")) == {
        "accelerator": ["board"]
    }
    assert chosen(build.meter("slice", inside="gone")) == {"accelerator": ["slice"]}


def test_boards_that_contain_dies_do_not_exclude_one_another(build: SimpleNamespace) -> None:
    boards = [build.meter(name, contains=("accelerator",)) for name in ("b0", "b1")]
    assert chosen(*boards, build.meter("die", inside="b0")) == {"accelerator": ["b0", "b1"]}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"grade": "counter"}, {"grade": "integrated"}),
        ({"grade": "integrated", "sensor_class": "platform"}, {"grade": "integrated", "sensor_class": "modelled"}),
        ({}, {}),
    ],
)
def test_of_two_sources_of_one_device_the_better_is_taken(build: SimpleNamespace, better: dict, worse: dict) -> None:
    first = build.meter("a", device="GPU-1", **better)
    second = build.meter("b", device="GPU-1", **worse)
    assert chosen(first, second) == chosen(second, first) == {"accelerator": ["a"]}
    if better != worse:
        assert chosen(build.meter("b", device="GPU-1", **better), build.meter("a", device="GPU-1", **worse)) == {
            "accelerator": ["b"]
        }


def test_meters_without_a_device_are_different_things(build: SimpleNamespace) -> None:
    assert chosen(build.meter("a"), build.meter("b")) == {"accelerator": ["a", "b"]}


def test_a_second_source_of_a_part_is_a_part(build: SimpleNamespace) -> None:
    meters = [
        build.meter("board"),
        build.meter("die", inside="board", device="D"),
        build.meter("die-again", device="D", grade="integrated"),
    ]
    assert chosen(*meters) == {"accelerator": ["board"]}


def test_a_coarse_counter_is_a_cross_check_only(build: SimpleNamespace) -> None:
    def pdu(max_w: float, resolution_j: float) -> MeterWindow:
        return build.meter(
            "pdu", kind="server", max_power_mw=w_to_mw(max_w), resolution_uj=j_to_uj(resolution_j), device="inlet"
        )

    # 0.1 kWh at 10 kW in a minute; the bound is 2 % of 600 kJ.
    assert chosen(pdu(10_000, 360_000), build.meter("bmc", kind="server", grade="integrated")) == {"server": ["bmc"]}
    assert chosen(pdu(10_000, 360_000)) == {}
    assert not is_coarse(pdu(10_000, 12_000).meter, STEP_NS)
    assert is_coarse(pdu(10_000, 12_001).meter, STEP_NS)
    assert not is_coarse(pdu(0, 360_000).meter, STEP_NS)


def test_a_coarse_first_source_leaves_its_device_to_the_second(build: SimpleNamespace) -> None:
    coarse = build.meter("a", device="D", max_power_mw=1_000, resolution_uj=j_to_uj(1_000))
    assert chosen(coarse, build.meter("b", device="D", grade="integrated")) == {"accelerator": ["b"]}


def test_of_several_server_meters_one_is_taken(build: SimpleNamespace) -> None:
    meters = [build.meter("a", kind="server", grade="integrated"), build.meter("b", kind="server", grade="counter")]
    assert chosen(*meters) == {"server": ["b"]}
    feed = build.meter("c", kind="server", inside="a")
    assert chosen(meters[0], feed) == {"server": ["a"]}


def test_without_a_server_meter_the_host_and_its_boards_are_the_server(build: SimpleNamespace) -> None:
    host = build.meter("host", grade="modelled", **HOST)
    meters = [host, build.meter("gpu"), build.meter("package-0", kind="cpu_package")]
    assert chosen(*meters)["server"] == ["gpu", "host"]
    assert chosen(host) == {"server": ["host"]}
    assert chosen(*meters, build.meter("bmc", kind="server", covered_s=0))["server"] == ["bmc"]


def test_a_host_beside_a_module_would_count_cpus_twice(build: SimpleNamespace) -> None:
    module, host = build.meter("module", **MODULE), build.meter("host", **HOST)
    assert "server" not in chosen(module, host)
    assert chosen(module, host, build.meter("gpu", inside="module"))["server"] == ["gpu", "host"]


def test_a_server_names_its_known_parts(build: SimpleNamespace) -> None:
    cover = of(
        "server", build.meter("bmc", kind="server"), build.meter("gpu"), build.meter("package-0", kind="cpu_package")
    )
    assert [m.meter.id for m in cover.devices] == ["gpu"]
    assert [m.meter.id for m in cover.parts] == ["gpu", "package-0"]


def test_ancestors_of_a_circle_end(build: SimpleNamespace) -> None:
    a, b = build.meter("a", inside="b").meter, build.meter("b", inside="a").meter
    assert ancestors(a, {"a": a, "b": b}) == {"a", "b"}


def everything(build: SimpleNamespace, failing: str = "") -> list[MeterWindow]:
    """One module with its GPU and CPU, seven more boards, another socket, and whatever else shows them."""
    boards = [f"GPU-{k}" for k in range(8)]
    powers = {
        **{board: (500.0, {"device": board, "inside": "module" if board == "GPU-0" else ""}) for board in boards},
        **{f"{board}/mig-1": (500.0, {"device": board, "inside": board}) for board in boards},
        **{f"dcgm:{board}": (498.0, {"device": board, "grade": "integrated"}) for board in boards},
        "module": (620.0, MODULE),
        "grace": (90.0, {"kind": "cpu_package", "grade": "integrated", "inside": "module"}),
        "package-1": (200.0, {"kind": "cpu_package", "device": "socket-1"}),
        "perf-1": (200.0, {"kind": "cpu_package", "device": "socket-1", "sensor_class": "platform"}),
        "core-1": (150.0, {"kind": "cpu_core", "inside": "package-1"}),
        "dram-1": (50.0, {"kind": "dram"}),
        "psys": (270.0, {"kind": "psys", "contains": ("cpu_package", "dram")}),
        "bmc": (4_900.0, {"kind": "server", "grade": "integrated", "sensor_class": "platform"}),
        "outlet": (5_000.0, {"kind": "server", "grade": "integrated", "sensor_class": "reference"}),
        "feed-a": (2_500.0, {"kind": "server", "grade": "integrated", "inside": "outlet"}),
        "feed-b": (2_500.0, {"kind": "server", "grade": "integrated", "inside": "outlet"}),
        "chassis": (40_000.0, {"kind": "enclosure", "contains": ("server",)}),
    }
    # The socket's DRAM says where it is, or it would be taken to be the module's.
    powers["dram-1"][1]["inside"] = "psys"
    return [
        build.meter(name, power_w * 60, covered_s=0 if name == failing else 60, **declared)
        for name, (power_w, declared) in powers.items()
    ]


def test_a_server_with_everything_at_once_counts_each_joule_once(build: SimpleNamespace) -> None:
    engine = build.engine("e", ["GPU-0", "GPU-1"], [build.work(output_tokens=1_000)])
    rows = account(build.window(everything(build), [engine]), Policy())
    powers_w = {"accelerator": 8 * 500, "compute": 7 * 500 + 620 + 200 + 50, "server": 5_000}
    for boundary, power_w in powers_w.items():
        ledger = build.find(rows, "ledger", boundary=boundary)
        assert (ledger["metered_j"], ledger["residual_uj"]) == (power_w * 60, 0)
    assert build.find(rows, "ledger", boundary="server")["other_j"] == (5_000 - powers_w["compute"]) * 60


def test_a_meter_that_misses_one_window_moves_no_boundary(build: SimpleNamespace) -> None:
    usual = chosen(*everything(build))
    for failing in everything(build):
        assert chosen(*everything(build, failing.meter.id)) == usual
