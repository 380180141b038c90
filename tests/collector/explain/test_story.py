"""A window in full: raw counters, both engines of the board, what is left out, and who was charged what."""

from collections.abc import Callable
from typing import Any

from joulefleet.window import EngineWindow, Window
from joulefleet_collector.explain.scope import Wanted
from joulefleet_collector.explain.seen import Seen
from joulefleet_collector.explain.story import Story, story

Shared = Callable[..., Window]
See = Callable[..., Seen | None]


def told(see: See, window: Window, wanted: Wanted | None = None) -> Story:
    found = see(window, wanted) if wanted else see(window)
    assert found is not None
    return story(found, ["first"])


def test_the_counter_and_what_became_of_it(shared: Shared, see: See) -> None:
    one = told(see, shared())
    (board,) = one.meters
    assert (board.meter, board.role, board.first_uj, board.last_uj) == ("gpu0", "sum", "1000000000", "34000000000")
    assert (board.energy_uj, board.charged_uj, board.idle_w, board.driver) == (
        33_000_000_000,
        20_560_000_000,
        90,
        "570",
    )
    assert (one.energy_uj, one.server, one.schema, one.listed_as) == (20_560_000_000, "n1", 1, ("first",))
    assert one.facts["config"] == "c0ffee"


def test_the_neighbour_on_the_board_is_told_beside_the_engine(shared: Shared, see: See) -> None:
    charges = [
        (one.engine, one.bucket, one.method, one.energy_uj, one.charged_uj) for one in told(see, shared()).charges
    ]
    assert charges == [
        ("a", "idle", "reservation", 2_160_000_000, 2_160_000_000),
        ("b", "idle", "reservation", 3_240_000_000, 0),
        ("a", "active", "busy", 18_400_000_000, 18_400_000_000),
        ("b", "active", "busy", 9_200_000_000, 0),
    ]


def test_the_second_source_of_the_board_is_left_out_with_its_reason(shared: Shared, see: See) -> None:
    (left,) = told(see, shared()).left_out
    assert (left.meter, left.code, left.of) == ("gpu0-again", "second_source_of", "gpu0")


def test_the_engine_with_its_work_and_its_share(shared: Shared, see: See) -> None:
    (one,) = told(see, shared()).engines
    assert (one.engine, one.devices, one.paired_s, one.obstacles) == ("a", {"gpu0": 0.4}, 60.0, [])
    (model,) = one.models
    assert (model["model"], model["charged_uj"]) == ("model-a", 20_560_000_000)
    assert model["counts"] == {"requests_ok": 900, "output_tokens": 9_000, "busy_ns": 30_000_000_000}


def test_an_engine_that_does_not_pair_says_why(shared: Shared, see: See) -> None:
    one = told(see, shared(board={"covered_ns": 30_000_000_000, "gaps_ns": {"hung": 30_000_000_000}}))
    (engine,) = one.engines
    assert engine.paired_s is None
    (why,) = engine.obstacles
    assert (why.code, why.subject, why.covered_s, why.gaps_s) == ("meter", "gpu0", 30.0, {"hung": 30.0})
    assert {charge.bucket for charge in one.charges} == {"unmatched"}
    assert one.energy_uj == 0


def test_the_models_of_an_engine_share_its_terms_to_the_microjoule(
    shared: Shared, see: See, an_engine: Callable[..., Any]
) -> None:
    one, other = an_engine("a", 1.0, 30, 100), an_engine("b", 1.0, 15, 200)
    both: EngineWindow = an_engine("a", 1.0, 0, 1, work=(*one.work, *other.work))
    # By busy time, which goes before tokens.
    for model, busy_s in (("model-a", 30), ("model-b", 15)):
        found = told(see, shared(engines=(both,)), Wanted("accelerator", {"model": (model,)}))
        assert [charge.energy_uj for charge in found.charges] == [5_400_000_000, 27_600_000_000]
        assert [charge.charged_uj for charge in found.charges] == [
            5_400_000_000 * busy_s // 45,
            27_600_000_000 * busy_s // 45,
        ]


def test_boards_under_a_server_meter_only_tell_who_used_it(shared: Shared, see: See) -> None:
    window = shared()
    board = window.meters[0]
    bmc = type(board)(
        meter=type(board.meter)(id="bmc", kind="server", grade="integrated", sensor_class="platform"),
        energy_uj=50_000_000_000,
        last_uj=50_000_000_000,
        covered_ns=window.step_ns,
    )
    one = told(see, shared(meters=(*window.meters, bmc)), Wanted("server", {"model": ("model-a",)}))
    assert [(each.meter, each.role, each.charged_uj > 0) for each in one.meters] == [
        ("bmc", "sum", True),
        ("gpu0", "split_by", False),
    ]
    assert {charge.meter for charge in one.charges} == {"bmc"}
    assert sum(charge.energy_uj for charge in one.charges) == 50_000_000_000
