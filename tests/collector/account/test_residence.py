"""Who holds how much of what."""

from fractions import Fraction
from types import SimpleNamespace

from joulefleet.describe import Slice
from joulefleet.units import s_to_ns
from joulefleet.window import EngineWindow, MeterWindow
from joulefleet_collector.account.cover import covers
from joulefleet_collector.account.residence import Residence, Seat, reside, seat_of

HALF, THIRD, WHOLE = Fraction(1, 2), Fraction(1, 3), Fraction(1)


def at(boundary: str, meters: list[MeterWindow], engines: list[EngineWindow]) -> Residence:
    cover = next(cover for cover in covers(meters, s_to_ns(60)) if cover.boundary == boundary)
    return reside(cover, [engine.engine for engine in engines], [m.meter for m in meters])


def test_shares_are_as_reserved(build: SimpleNamespace) -> None:
    engines = [build.engine("a", [("gpu0", 0.25), "gpu1"]), build.engine("b", [("gpu0", 0.5)])]
    found = at("accelerator", [build.meter(name) for name in ("gpu0", "gpu1", "gpu2")], engines)
    assert found.seats == ({0: Fraction(1, 4), 1: HALF}, {0: WHOLE}, {})
    assert found.of_server == Seat((0, 1), (5, 2), 5)
    assert (found.elsewhere, found.unmetered) == ((), frozenset())


def test_a_device_reserved_twice_over_is_shared_in_proportion(build: SimpleNamespace) -> None:
    found = at("accelerator", [build.meter("gpu")], [build.engine("a", ["gpu"]), build.engine("b", [("gpu", 0.5)])])
    assert found.seats == ({0: 2 * THIRD, 1: THIRD},)


def test_engines_without_devices_share_all_of_them_equally(build: SimpleNamespace) -> None:
    meters = [build.meter(name) for name in ("gpu0", "gpu1")]
    found = at("accelerator", meters, [build.engine(name) for name in "abc"])
    assert found.seats == ({0: THIRD, 1: THIRD, 2: THIRD},) * 2
    assert at("accelerator", meters, [build.engine("a")]).of_server.is_sole


def test_where_no_device_is_measured_engines_are_on_the_server_itself(build: SimpleNamespace) -> None:
    found = at("compute", [build.meter("package-0", kind="cpu_package")], [build.engine("a"), build.engine("b")])
    assert found.seats == ()
    assert found.of_server == Seat((0, 1), (1, 1), 0)
    assert found.unmetered == frozenset()


def test_an_accelerator_without_a_meter_is_somewhere_else(build: SimpleNamespace) -> None:
    found = at("accelerator", [build.meter("gpu0")], [build.engine("a", ["gpu0"]), build.engine("b", ["gpu1"])])
    assert found.seats == ({0: WHOLE},)
    assert found.elsewhere == ({1: WHOLE},)
    assert found.unmetered == {1}
    assert found.of_server == Seat((0, 1), (1, 1), 0)


def test_a_second_source_names_the_same_device(build: SimpleNamespace) -> None:
    meters = [build.meter("nvml-0", device="D"), build.meter("smi-0", device="D", grade="integrated")]
    found = at("accelerator", meters, [build.engine("a", ["smi-0"])])
    assert (found.seats, found.unmetered) == (({0: WHOLE},), frozenset())


def test_a_slice_is_its_part_of_the_board(build: SimpleNamespace) -> None:
    slices = [build.meter(f"slice-{n}", inside="board") for n in range(3)]
    found = at("accelerator", [build.meter("board"), *slices], [build.engine("a", ["slice-0", ("slice-1", 0.5)])])
    assert found.seats == ({0: HALF},)


def test_a_named_slice_without_a_meter_is_its_part_of_the_board(build: SimpleNamespace) -> None:
    board = build.meter("gpu", slices=(Slice("MIG-a", 3), Slice("MIG-b", 2)), slots=7)
    found = at("accelerator", [board], [build.engine("a", ["MIG-a"]), build.engine("b", [("MIG-b", 0.5)])])
    assert (found.seats, found.unmetered) == (({0: Fraction(3, 7), 1: Fraction(1, 7)},), frozenset())


def test_a_slice_that_no_board_can_have_is_somewhere_else(build: SimpleNamespace) -> None:
    board = build.meter("gpu", slices=(Slice("MIG-a", 8), Slice("MIG-b", 0)), slots=7)
    found = at("accelerator", [board], [build.engine("a", ["MIG-a"]), build.engine("b", ["MIG-b"])])
    assert (found.seats, found.unmetered) == (({},), {0, 1})


def test_a_board_and_its_module_stand_for_each_other(build: SimpleNamespace) -> None:
    module = build.meter("module", kind="module", contains=("accelerator", "cpu_package"))
    board = build.meter("gpu", inside="module")
    assert at("compute", [module, board], [build.engine("a", ["gpu"])]).seats == ({0: WHOLE},)
    assert at("accelerator", [module, board], [build.engine("a", ["module"])]).seats == ({0: WHOLE},)
    loose = build.meter("gpu")
    assert at("compute", [module, loose], [build.engine("a", ["gpu"])]).seats == ({0: WHOLE},)


def test_a_board_is_not_given_to_one_of_several_modules_by_guess(build: SimpleNamespace) -> None:
    modules = [build.meter(name, kind="module", contains=("accelerator",)) for name in ("m0", "m1")]
    found = at("compute", [*modules, build.meter("gpu")], [build.engine("a", ["gpu"])])
    assert (found.seats, found.unmetered) == (({}, {}), {0})


def test_one_engine_on_part_of_a_device_does_not_hold_it(build: SimpleNamespace) -> None:
    assert not seat_of({0: HALF}).is_sole
    assert not seat_of({0: HALF, 1: HALF}).is_sole
    assert not seat_of({}).is_sole
    assert seat_of({3: WHOLE}).is_sole


def test_a_seat_is_told_in_whole_numbers() -> None:
    assert seat_of({2: THIRD, 0: HALF}) == Seat((0, 2), (3, 2), 1)
    assert seat_of({1: Fraction(0)}) == Seat((1,), (0,), 1)
    assert seat_of({}) == Seat((), (), 1)


def test_the_seats_of_devices_are_theirs(build: SimpleNamespace) -> None:
    found = at("accelerator", [build.meter("gpu0"), build.meter("gpu1")], [build.engine("a", [("gpu1", 0.25)])])
    assert found.by_device == (Seat((), (), 1), Seat((0,), (1,), 3))
