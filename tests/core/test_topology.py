"""Each boundary takes meters that do not overlap, and what is left out says why; whatever is declared."""

from itertools import combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import GRADES, Kind, Meter
from joulefleet.topology import Comparisons, Tree, comparisons, covers, topology
from joulefleet.units import j_to_uj, s_to_ns, w_to_mw

STEP_NS = s_to_ns(60)
EVERYTHING: tuple[Kind, ...] = ("accelerator", "module", "cpu_package", "cpu_core", "dram", "psys", "host")
MODULE: tuple[Kind, ...] = ("accelerator", "cpu_package", "cpu_core", "dram")


def meter(name: str, kind: Kind = "accelerator", grade: str = "counter", **declared: object) -> Meter:
    return msgspec.convert(
        {"id": name, "kind": kind, "grade": grade, "sensor_class": "onboard", **declared}, Meter, strict=False
    )


def sums(*meters: Meter) -> dict[str, list[str]]:
    """Ids of the meters whose sum is each boundary."""
    return {cover.boundary: [one.id for one in cover.meters] for cover in covers(meters, STEP_NS)}


def reasons(*meters: Meter) -> set[tuple[str, str, str, str]]:
    return {(one.boundary, one.meter, one.code, one.of) for one in topology(meters, STEP_NS).left_out}


# Which meters are taken


def test_a_cpu_beside_a_module_is_kept_where_the_module_tells_its_own_by_id() -> None:
    module = meter("module", "module", contains=MODULE)
    grace, other = meter("grace", "cpu_package", inside="module"), meter("x86", "cpu_package")
    assert sums(module, grace, other)["compute"] == ["module", "x86"]
    # Where nothing says which CPU is the module's, none is counted beside it.
    assert sums(module, other)["compute"] == ["module"]


def test_each_of_two_modules_holds_its_own_cpu() -> None:
    modules = [meter(f"m{k}", "module", contains=MODULE) for k in (0, 1)]
    cpus = [meter(f"cpu{k}", "cpu_package", inside=f"m{k}") for k in (0, 1)]
    assert sums(*modules, *cpus, meter("cpu2", "cpu_package"))["compute"] == ["m0", "m1", "cpu2"]
    # The second module tells none by id, and may hold the third CPU.
    assert sums(*modules, cpus[0], meter("cpu2", "cpu_package"))["compute"] == ["m0", "m1"]


def test_a_module_on_one_half_and_packages_on_the_other_that_say_where_they_are() -> None:
    module = meter("module", "module", contains=MODULE, inside="left")
    cpu, board = meter("cpu", "cpu_package", inside="right"), meter("board", inside="right")
    halves = [meter(half, "psys") for half in ("left", "right")]
    assert sums(module, cpu, board, *halves) == {"accelerator": ["board"], "compute": ["board", "module", "cpu"]}


def test_parts_that_add_up_are_taken_where_they_are_known_as_well() -> None:
    board = meter("board", adds_up=True)
    dies = [meter(f"die{k}", inside="board") for k in (0, 1)]
    assert sums(board, *dies) == {"accelerator": ["die0", "die1"]}
    assert sums(board, dies[0], meter("die1", inside="board", grade="integrated")) == {"accelerator": ["board"]}
    assert sums(meter("board"), *dies) == {"accelerator": ["board"]}
    coarse = meter("die1", inside="board", max_power_mw=1, resolution_uj=j_to_uj(1_000))
    assert sums(board, dies[0], coarse) == {"accelerator": ["board"]}
    assert reasons(board, *dies) == {("accelerator", "board", "holds", "die0")}
    # Both boards would take the same die.
    other = meter("other", adds_up=True)
    twin = meter("die0-again", inside="other", device="D")
    assert sums(board, other, meter("die0", inside="board", device="D"), twin) == {"accelerator": ["board", "other"]}


def test_a_residual_is_no_figure_of_a_board() -> None:
    card = meter("card", grade="residual")
    found = [card, meter("cpu", "cpu_package"), meter("bmc", "server")]
    assert sums(*found) == {"server": ["bmc"]}
    assert ("accelerator", "card", "residual", "") in reasons(*found)
    assert sums(*found, meter("gpu"))["accelerator"] == ["gpu"]
    better = meter("card-2", device="D", grade="integrated")
    assert sums(meter("card", grade="residual", device="D"), better)["accelerator"] == ["card-2"]


def test_host_and_boards_are_taken_where_they_are_known_better_than_the_server() -> None:
    share = meter("share", "server", grade="modelled")
    host, gpu = meter("host", "host", grade="integrated"), meter("gpu")
    assert sums(share, host, gpu)["server"] == ["gpu", "host"]
    assert ("server", "share", "holds", "gpu") in reasons(share, host, gpu)
    assert sums(meter("bmc", "server", grade="integrated"), host, gpu)["server"] == ["bmc"]
    assert "server" not in sums(host, meter("card", grade="residual"))


def test_an_enclosure_is_at_no_boundary() -> None:
    chassis = meter("chassis", "enclosure", contains=("server",))
    assert sums(chassis) == {}
    assert reasons(chassis) == {("", "chassis", "at_no_boundary", "")}
    assert ("server", "chassis", "holds", "bmc") in reasons(chassis, meter("bmc", "server"))


def test_a_second_source_of_what_is_inside_another_is_inside_it_too() -> None:
    found = [meter("module", "module", contains=MODULE), meter("x86", "cpu_package")]
    found += [
        meter("grace-perf", "cpu_package", device="socket-0", inside="module"),
        meter("grace-powercap", "cpu_package", device="socket-0"),
    ]
    assert sums(*found)["compute"] == ["module", "x86"]


def test_slices_that_repeat_their_board_are_the_board() -> None:
    board = meter("GPU-1", device="GPU-1", grade="integrated")
    slices = [meter(f"GPU-1/{k}", device="GPU-1", inside="GPU-1") for k in range(7)]
    assert sums(board, *slices) == {"accelerator": ["GPU-1"]}


# Why the others are left out


def test_what_is_left_out_says_why() -> None:
    found = [
        meter("gpu", device="GPU-1"),
        meter("exporter", device="GPU-1", grade="integrated"),
        meter("slice", inside="gpu"),
        meter("package-0", "cpu_package"),
        meter("core-0", "cpu_core", inside="package-0"),
        meter("psys", "psys", contains=("cpu_package", "dram")),
        meter("outlet", "server", max_power_mw=w_to_mw(3_000), resolution_uj=j_to_uj(360_000)),
        meter("bmc", "server", grade="integrated"),
    ]
    assert reasons(*found) == {
        ("accelerator", "exporter", "second_source_of", "gpu"),
        ("accelerator", "slice", "part_of", "gpu"),
        ("compute", "exporter", "second_source_of", "gpu"),
        ("compute", "slice", "part_of", "gpu"),
        ("compute", "core-0", "part_of", "package-0"),
        ("compute", "psys", "holds", "package-0"),
        ("server", "outlet", "coarse", ""),
        *(("server", one.id, "part_of", "bmc") for one in found if one.kind != "server"),
    }


def test_a_module_whose_boards_are_not_known_apart_says_so() -> None:
    module, board = meter("module", "module", contains=MODULE), meter("board")
    apart = ("accelerator", "module", "not_apart", "")
    assert reasons(module) == {apart}
    # The board beside it says that it is another one.
    found = [module, meter("board", inside="bmc"), meter("bmc", "server")]
    assert apart in reasons(*found) and sums(*found)["accelerator"] == ["board"]
    assert apart not in reasons(module, board)


def test_what_makes_no_boundary_says_so() -> None:
    assert reasons(meter("dram", "dram"), meter("psys", "psys")) == {
        ("", "dram", "at_no_boundary", ""),
        ("", "psys", "at_no_boundary", ""),
    }


# What has to agree


def test_two_sources_and_parts_with_their_whole_are_compared() -> None:
    found = comparisons(
        [
            meter("gpu", device="GPU-1"),
            meter("exporter", device="GPU-1", grade="integrated"),
            meter("model", device="GPU-1", grade="modelled"),
            meter("package-0", "cpu_package"),
            meter("core-0", "cpu_core", inside="package-0"),
            meter("bmc", "server", grade="integrated"),
            meter("host", "host", grade="modelled"),
        ],
        STEP_NS,
    )
    assert found == Comparisons((("gpu", "exporter"),), (("package-0", ("core-0",)), ("bmc", ("gpu", "package-0"))))


def test_a_part_that_bears_the_device_of_its_whole_is_no_second_source_of_it() -> None:
    dies = [meter(name, device="GPU-1", inside="gpu") for name in ("a-die", "b-die")]
    board, other = meter("gpu", device="GPU-1"), meter("exporter", device="GPU-1", grade="integrated")
    assert comparisons([*dies, board, other], STEP_NS).twins == (("gpu", "exporter"),)


# Whatever is declared

KINDS: tuple[Kind, ...] = (*EVERYTHING, "server", "enclosure")
names = st.sampled_from([f"m{k}" for k in range(8)])
rubbish = st.builds(
    lambda **told: Meter(sensor_class="onboard", **told),
    id=names,
    kind=st.sampled_from(KINDS),
    grade=st.sampled_from(GRADES),
    contains=st.lists(st.sampled_from(KINDS), max_size=4).map(tuple),
    inside=st.one_of(st.just(""), names, st.just("unknown")),
    device=st.sampled_from(["", "", "D", "E"]),
    adds_up=st.booleans(),
    max_power_mw=st.sampled_from([0, 1_000]),
    resolution_uj=st.sampled_from([0, 10**9]),
)


@given(st.lists(rubbish, max_size=12), st.data())
def test_rubbish_gives_the_same_answer_in_any_order_and_counts_nothing_twice(
    declared: list[Meter], data: st.DataObject
) -> None:
    found = topology(declared, STEP_NS)
    assert topology(data.draw(st.permutations(declared)), STEP_NS) == found
    tree = Tree(declared, STEP_NS)
    for cover in found.covers:
        things = [tree.thing[one.id] for one in cover.meters]
        assert len(set(things)) == len(things)
        assert not any(tree.above[thing] & set(things) for thing in things)
        assert all(one.grade != "residual" for one in cover.meters if cover.boundary == "accelerator")
        assert all(one.kind != "enclosure" for one in cover.meters)
    taken = {one.id for cover in found.covers for one in cover.meters}
    told = {one.meter for one in found.left_out}
    assert taken | told == {one.id for one in declared}
    pairs = {(cover.boundary, one.id) for cover in found.covers for one in cover.meters}
    assert not pairs & {(one.boundary, one.meter) for one in found.left_out}


def test_a_circle_keeps_its_best_meter() -> None:
    circle = [meter("a", inside="b", grade="integrated"), meter("b", inside="c"), meter("c", inside="a")]
    assert sums(*circle) == {"accelerator": ["b"]}


def test_the_most_that_a_window_may_declare_is_decided_soon() -> None:
    """Each of 256 meters is said to hold all the others of another kind: what takes minutes would hang the test."""
    many = [meter(f"m{k}", KINDS[k % 6], contains=KINDS[:6], inside=f"m{(k + 6) % 256}") for k in range(0, 256, 2)]
    many += [meter(f"n{k}", KINDS[k % 6], contains=KINDS[:6]) for k in range(128)]
    assert topology(many, STEP_NS) == topology(many[::-1], STEP_NS)


# Random servers whose true powers are known

PARTS: dict[str, tuple[Kind, ...]] = {
    "server": ("module", "accelerator", "cpu_package", "dram"),
    "module": ("accelerator", "cpu_package", "dram"),
    "accelerator": ("accelerator",),
    "cpu_package": ("cpu_core",),
}


class Node(msgspec.Struct):
    """One physical thing; it draws what its parts do and something of its own, unless they add up to it."""

    name: str
    kind: Kind
    own_uj: int
    parts: list["Node"]
    meters: list[Meter]
    adds_up: bool

    @property
    def energy_uj(self) -> int:
        return self.own_uj + sum(part.energy_uj for part in self.parts)

    def everything(self) -> list["Node"]:
        return [self, *(one for part in self.parts for one in part.everything())]


@st.composite
def nodes(draw: st.DrawFn, kind: Kind, name: str, measured_above: str, depth: int = 0) -> Node:
    """A thing with meters that are declared honestly: `inside` is the next thing above that has a meter."""
    adds_up = draw(st.booleans())
    number = draw(st.integers(0, 2))
    meters = [
        Meter(
            id=f"{name}#{k}",
            kind=kind,
            grade=draw(st.sampled_from(["counter", "integrated"])),
            sensor_class=draw(st.sampled_from(["onboard", "platform"])),
            device=name if number > 1 or draw(st.booleans()) else "",
            inside=measured_above,
        )
        for k in range(number)
    ]
    inner = meters[0].id if meters else measured_above
    kinds = PARTS.get(kind, ()) if depth < 3 else ()
    chosen = draw(st.lists(st.sampled_from(kinds), max_size=4)) if kinds else []
    parts = [draw(nodes(one, f"{name}.{k}", inner, depth + 1)) for k, one in enumerate(chosen)]
    # Parts that add up are only declared so where each has a meter of its own.
    adds_up = adds_up and bool(parts) and all(part.meters for part in parts)
    meters = [msgspec.structs.replace(one, adds_up=adds_up) for one in meters]
    return Node(name, kind, 0 if adds_up else draw(st.integers(1, 1_000)), parts, meters, adds_up)


@given(nodes("server", "s", ""), st.data())
def test_a_boundary_is_never_more_than_what_its_things_truly_use(server: Node, data: st.DataObject) -> None:
    things = server.everything()
    of_meter = {one.id: thing for thing in things for one in thing.meters}
    declared = data.draw(st.permutations([one for thing in things for one in thing.meters]))
    found = covers(declared, STEP_NS)
    for cover in found:
        leaves = [of_meter[one.id] for one in cover.meters]
        inside = [one.name for leaf in leaves for one in leaf.everything()]
        assert len(set(inside)) == len(inside), "two of them measure one thing"
        of_cover = [one for one in things if one.name in set(inside)]
        assert sum(leaf.energy_uj for leaf in leaves) == sum(one.own_uj for one in of_cover)
        # Nothing that has a meter and belongs there is missing.
        if cover.boundary == "server" and cover.whole is not None:
            assert sum(leaf.energy_uj for leaf in leaves) == server.energy_uj
            assert sum(of_meter[one.id].energy_uj for one in cover.parts) <= server.energy_uj
        if cover.boundary == "accelerator":
            assert {one.name for one in things if one.kind == "accelerator" and one.meters} <= set(inside) | {
                thing.name
                for leaf in leaves
                for thing in things
                if thing.adds_up and leaf.name.startswith(f"{thing.name}.")
            }
    energies = [sum(of_meter[one.id].energy_uj for one in cover.meters) for cover in found]
    by_name = dict(zip((cover.boundary for cover in found), energies, strict=True))
    assert all(by_name[a] <= by_name[b] for a, b in combinations(by_name, 2))
    for whole, parts in comparisons(declared, STEP_NS).parts:
        assert sum(of_meter[one].energy_uj for one in parts) <= of_meter[whole].energy_uj
    for one, other in comparisons(declared, STEP_NS).twins:
        assert of_meter[one] is of_meter[other]


@pytest.mark.parametrize("order", [1, -1])
def test_a_server_with_everything_at_once(order: int) -> None:
    boards = [f"GPU-{k}" for k in range(8)]
    found = [
        *(meter(one, device=one, inside="module" if k == 0 else "") for k, one in enumerate(boards)),
        *(meter(f"{one}/mig{k}", device=one, inside=one) for one in boards for k in (1, 2)),
        *(meter(f"dcgm:{one}", device=one, grade="integrated") for one in boards),
        meter("module", "module", contains=MODULE, inside="bmc"),
        meter("grace", "cpu_package", grade="integrated", inside="module"),
        meter("package-1", "cpu_package", device="socket-1"),
        meter("perf-1", "cpu_package", device="socket-1"),
        meter("core-1", "cpu_core", inside="package-1"),
        meter("dram-1", "dram", inside="psys"),
        meter("psys", "psys", contains=("cpu_package", "dram", "cpu_core")),
        meter("bmc", "server", grade="integrated", sensor_class="platform", contains=EVERYTHING),
        meter("outlet", "server", grade="integrated", sensor_class="reference", contains=EVERYTHING, adds_up=True),
        *(meter(f"feed-{k}", "server", grade="integrated", sensor_class="reference", inside="outlet") for k in "ab"),
        meter("chassis", "enclosure", contains=("server",)),
    ][::order]
    others = boards[1:]
    assert sums(*found) == {
        "accelerator": boards,
        "compute": [*others, "module", "dram-1", "package-1"],
        "server": ["outlet"],
    }
    told = reasons(*found)
    assert {
        ("compute", "GPU-0", "part_of", "module"),
        ("compute", "grace", "part_of", "module"),
        ("compute", "perf-1", "second_source_of", "package-1"),
        ("compute", "psys", "holds", "dram-1"),
        ("accelerator", "module", "holds", "GPU-0"),
        ("accelerator", "dcgm:GPU-3", "second_source_of", "GPU-3"),
        ("server", "bmc", "second_source_of", "outlet"),
        ("server", "feed-a", "part_of", "outlet"),
        ("server", "chassis", "holds", "outlet"),
    } <= told
