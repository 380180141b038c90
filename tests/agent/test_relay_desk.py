"""What a relay holds and whom it tells it: every server its own, all of it, with its age."""

import msgspec

from joulefleet.describe import Engine, Meter
from joulefleet.reading import Failure, MeterReading, WorkReading
from joulefleet.relaying import Answer
from joulefleet_agent.relay_desk import KEPT_NS, MOST_KEPT, Desk

S = 1_000_000_000
PDU = Meter(id="gpu-17", kind="server", grade="integrated", sensor_class="platform")
OTHER = Meter(id="gpu-18", kind="server", grade="integrated", sensor_class="platform")
PART = Meter(id="board", kind="accelerator", grade="counter", sensor_class="platform", inside="gpu-17")
RIGHTS = {
    "gpu-17": {"rack": frozenset({"gpu-17"}), "bmc-17": frozenset[str]()},
    "gpu-18": {"rack": frozenset({"gpu-18"})},
}


def desk() -> Desk:
    made = Desk(["rack", "bmc-17"], RIGHTS, "life")
    assert made.declare("rack", [PDU, OTHER]) == []
    return made


def power(meter: str, watts: int, **more: int) -> MeterReading:
    return MeterReading(meter=meter, power_mw=watts * 1_000, **more)


def told(answer: Answer) -> list[tuple[str, int | None, int]]:
    return [(one.meter, one.power_mw, one.age_ns // S) for one in answer.readings]


def test_each_server_is_told_of_its_own_meters_and_no_other() -> None:
    made = desk()
    made.feed("rack", [power("gpu-17", 400), power("gpu-18", 500)], 100 * S, 0)
    first = made.answer("gpu-17", "", 0, 103 * S)
    assert told(first) == [("rack/gpu-17", 400_000, 3)]
    assert [one.id for one in first.meters] == ["rack/gpu-17"]
    assert told(made.answer("gpu-18", "", 0, 103 * S)) == [("rack/gpu-18", 500_000, 3)]
    assert made.answer("gpu-99", "", 0, 103 * S) == Answer(life="life", at_ns=103 * S, number=2)
    assert made.serves("gpu-18")
    assert not made.serves("gpu-99")


def test_a_server_is_told_once_of_each_reading_and_of_all_that_it_missed() -> None:
    made = desk()
    made.feed("rack", [power("gpu-17", 1)], 10 * S, 0)
    first = made.answer("gpu-17", "", 0, 10 * S)
    for second in (20, 30):
        made.feed("rack", [power("gpu-17", second)], second * S, 0)
    missed = made.answer("gpu-17", first.life, first.number, 31 * S)
    assert told(missed) == [("rack/gpu-17", 20_000, 11), ("rack/gpu-17", 30_000, 1)]
    assert told(made.answer("gpu-17", first.life, first.number, 31 * S)) == told(missed), "an answer that was lost"
    assert told(made.answer("gpu-17", missed.life, missed.number, 32 * S)) == []


def test_who_knows_numbers_of_another_life_is_told_everything() -> None:
    made = desk()
    made.feed("rack", [power("gpu-17", 1)], 10 * S, 0)
    assert len(made.answer("gpu-17", "before", 10**6, 10 * S).readings) == 1


def test_the_age_of_a_value_is_that_of_its_truth() -> None:
    made = desk()
    made.feed("rack", [power("gpu-17", 1, age_ns=4 * S)], 10 * S, 0)
    made.feed("rack", [power("gpu-17", 2, at_ns=1_000_011 * S)], 12 * S, 1_000_000 * S)
    assert told(made.answer("gpu-17", "", 0, 13 * S)) == [("rack/gpu-17", 1_000, 7), ("rack/gpu-17", 2_000, 2)]
    assert all(one.at_ns == 0 for one in made.answer("gpu-17", "", 0, 13 * S).readings)


def test_a_meter_that_fails_is_told_as_long_as_it_does() -> None:
    made = desk()
    made.feed("rack", [power("gpu-17", 1), Failure(subject="gpu-18", code="timeout")], 10 * S, 0)
    assert made.answer("gpu-17", "", 0, 10 * S).failures == ()
    assert made.answer("gpu-18", "", 0, 10 * S).failures == (Failure(subject="rack/gpu-18", code="timeout"),)
    made.feed("rack", [Failure(subject="", code="hung")], 20 * S, 0)
    assert made.answer("gpu-17", "", 0, 20 * S).failures == (Failure(subject="rack/gpu-17", code="hung"),)
    made.feed("rack", [power("gpu-17", 1), power("gpu-18", 1)], 30 * S, 0)
    assert made.answer("gpu-18", "", 0, 30 * S).failures == ()


def test_a_source_that_is_not_open_is_told_to_those_who_may_have_it() -> None:
    made = desk()
    made.close("bmc-17", Failure(subject="", code="permission", detail="401"))
    assert made.answer("gpu-17", "", 0, 0).failures == (Failure(subject="", code="permission", detail="bmc-17: 401"),)
    assert made.answer("gpu-18", "", 0, 0).failures == ()
    made.declare("bmc-17", [PART])
    assert made.answer("gpu-17", "", 0, 0).failures == ()


def test_ids_begin_with_the_source_so_that_none_is_there_twice() -> None:
    made = desk()
    made.declare("bmc-17", [PDU, PART])
    found = {one.id: one for one in made.answer("gpu-17", "", 0, 0).meters}
    assert set(found) == {"rack/gpu-17", "bmc-17/gpu-17", "bmc-17/board"}
    assert found["bmc-17/board"].inside == "bmc-17/gpu-17"
    assert msgspec.structs.replace(found["bmc-17/board"], id="board", inside="gpu-17") == PART


def test_a_meter_that_is_served_and_not_there_is_named() -> None:
    assert Desk(["rack"], RIGHTS, "life").declare("rack", [PDU]) == ["gpu-18"]


def test_engines_and_their_work_are_not_relayed() -> None:
    made = desk()
    made.declare("rack", [PDU, Engine(id="vllm", software="vllm")])
    made.feed("rack", [WorkReading(engine="vllm")], 10 * S, 0)
    answer = made.answer("gpu-17", "", 0, 10 * S)
    assert ([one.id for one in answer.meters], answer.readings) == (["rack/gpu-17"], ())


def test_what_is_kept_is_bounded_by_age_and_by_number() -> None:
    made = desk()
    made.feed("rack", [power("gpu-17", 1)], 0, 0)
    made.feed("rack", [power("gpu-17", 2)], KEPT_NS + 1, 0)
    assert len(made.answer("gpu-17", "", 0, KEPT_NS + 1).readings) == 1
    for number in range(MOST_KEPT + 10):
        made.feed("rack", [power("gpu-17", 3)], KEPT_NS + 2 + number, 0)
    assert len(made.answer("gpu-17", "", 0, 2 * KEPT_NS).readings) == MOST_KEPT
