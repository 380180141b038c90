"""Where engines run, by whose processes are seen on which boards."""

from collections.abc import Iterable, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import SOMEWHERE, WHOLE, Engine, Reservation
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet_agent.placement import Placement, apply, is_found, may_be_placed, placed, with_owners
from joulefleet_agent.processes import NOBODY

FOUND = (Reservation(SOMEWHERE),)
A = Engine(id="a", software="vllm", port=8000, devices=FOUND)
B = Engine(id="b", software="vllm", port=8001, devices=FOUND)
C = Engine(id="c", software="vllm", port=8002)
OWNERS = {"1": "a", "2": "a", "3": "b", "4": NOBODY, "5": "c"}


def on(**pids: str) -> dict[str, dict[str, str]]:
    """Lists of processes by board, without slices."""
    return {board: dict.fromkeys(these, "") for board, these in pids.items()}


def whole(*boards: str) -> tuple[Reservation, ...]:
    return tuple(map(Reservation, boards))


def test_an_engine_is_where_its_processes_are() -> None:
    where = placed([A, B], on(gpu0="1", gpu1="2", gpu2="3", gpu3=""), OWNERS, {})
    assert where == {"a": whole("gpu0", "gpu1"), "b": whole("gpu2")}


def test_two_on_one_board_have_it_both() -> None:
    assert placed([A, B], on(gpu0="13"), OWNERS, {}) == {"a": whole("gpu0"), "b": whole("gpu0")}


def test_processes_of_nobody_hold_a_part_as_an_engine_would() -> None:
    where = placed([A, B], on(gpu0="14", gpu1="234"), OWNERS, {})
    third = WHOLE // 3
    assert where == {
        "a": (Reservation("gpu0", WHOLE // 2), Reservation("gpu1", third)),
        "b": (Reservation("gpu1", third),),
    }


def test_what_is_configured_stays_and_one_that_named_no_board_is_put_on_its_own() -> None:
    told = msgspec.structs.replace(A, devices=whole("gpu7"))
    away = Engine(id="a", software="vllm")
    front = Engine(id="a", software="litellm", port=4000, front=True)
    lists = on(gpu0="1", gpu1="5")
    assert placed([told, away, front, C], lists, OWNERS, {}) == {"c": whole("gpu1")}
    assert [apply(one, {"a": whole("gpu0")}) for one in (told, away, front)] == [told, away, front]
    assert apply(C, {"c": whole("gpu1")}).devices == whole("gpu1")
    assert apply(C, {}) == C
    assert [may_be_placed(one) for one in (A, C, told, away, front)] == [True, True, False, False, False]
    assert [is_found(one) for one in (A, C, told)] == [True, False, False]


def test_one_that_is_not_seen_stays_where_it_was() -> None:
    before = {"a": whole("gpu0")}
    assert placed([A], on(gpu0="", gpu1="3"), OWNERS, before) == before
    assert placed([A], on(gpu0="", gpu1="1"), OWNERS, before) == {"a": whole("gpu1")}
    assert placed([], on(gpu0="1"), OWNERS, before) == {}, "one that has ended is forgotten"


@pytest.mark.parametrize("lists", [{}, on(gpu0="", gpu1="")])
def test_where_no_process_is_told_of_it_has_the_whole_server_once_all_were_heard(
    lists: dict[str, dict[str, str]],
) -> None:
    assert placed([A, C], lists, OWNERS, {}) == {"a": (), "c": ()}
    assert placed([A, C], lists, OWNERS, {}, heard=False) == {}
    assert placed([A, C], lists, OWNERS, {"a": ()}, heard=False) == {"a": ()}, (
        "after a restart nothing changes meanwhile"
    )


def test_one_that_may_be_any_of_those_that_are_nobody_s_has_none() -> None:
    where = placed([A, B, C], on(gpu0="4", gpu1="3"), OWNERS, {"a": ()})
    assert where == {"b": whole("gpu1")}
    assert apply(A, where).devices == FOUND
    assert apply(C, where).devices == (), "who configured it said that it has the whole server"


def test_a_slice_is_held_where_it_is_told_and_all_are_known() -> None:
    lists = {"gpu0": {"1": "MIG-a", "3": "MIG-b"}, "gpu1": {"2": "MIG-c", "4": "MIG-d"}}
    where = placed([A, B], lists, OWNERS, {})
    # What each slice of gpu1 did cannot be told apart from what nobody's processes did there.
    assert where == {"a": whole("MIG-a"), "b": whole("MIG-b")}


class Known:
    """Names that a test gives."""

    hidden = False

    def __init__(self, owners: dict[str, str]) -> None:
        self.known, self.asked = owners, 0

    def named(self, readings: Sequence[Reading], engines: Sequence[Engine]) -> list[Reading]:
        return list(readings)

    def owners(self, pids: Iterable[str], engines: Sequence[Engine]) -> dict[str, str]:
        self.asked += 1
        ids = {one.id for one in engines}
        return {pid: self.known[pid] if self.known.get(pid) in ids else NOBODY for pid in pids}


def told(board: str, pids: str) -> MeterReading:
    return MeterReading(meter=board, processes=dict.fromkeys(pids, ""))


def test_the_latest_list_of_each_board_counts_and_a_new_engine_is_looked_for_in_all() -> None:
    names = Known(OWNERS)
    placement = Placement(names)
    assert placement.note([told("gpu0", "1"), told("gpu1", "3")])
    assert not placement.note([MeterReading(meter="gpu0"), Failure(subject="gpu1", code="gpu_lost")])
    assert placement.where([A], {}) == {"a": whole("gpu0")}
    assert placement.where([A, B], {}) == {"a": whole("gpu0"), "b": whole("gpu1")}
    placement.note([told("gpu1", "32")])
    assert placement.where([A, B], {}) == {"a": whole("gpu0", "gpu1"), "b": whole("gpu1")}


def test_where_every_engine_says_its_boards_no_process_is_looked_at() -> None:
    names = Known(OWNERS)
    placement = Placement(names)
    placement.note([told("gpu0", "1")])
    assert placement.where([Engine(id="a", software="vllm", port=8000, devices=whole("gpu0"))], {}) == {}
    assert names.asked == 0


def test_a_recording_tells_engines_in_the_place_of_processes() -> None:
    readings = [told("gpu0", "124"), MeterReading(meter="gpu1"), Failure(subject="gpu2", code="gpu_lost")]
    named = with_owners(readings, Known(OWNERS), [A])
    assert named == [MeterReading(meter="gpu0", processes={"a": "", NOBODY: ""}), *readings[1:]]


@given(
    st.dictionaries(st.sampled_from(["g0", "g1", "g2"]), st.dictionaries(st.sampled_from("123456"), st.just(""))),
    st.lists(st.sampled_from([A, B, C]), unique=True),
)
def test_no_board_is_held_more_than_whole_by_those_beside_nobody(
    lists: dict[str, dict[str, str]], engines: list[Engine]
) -> None:
    ids = {one.id for one in engines}
    owners = {pid: OWNERS.get(pid, NOBODY) if OWNERS.get(pid) in ids else NOBODY for pid in "123456"}
    where = placed(engines, lists, owners, {})
    for board, pids in lists.items():
        parts = [each.share_ppm for devices in where.values() for each in devices if each.meter == board]
        if any(owners[pid] == NOBODY for pid in pids):
            assert sum(parts) < WHOLE
        else:
            assert all(part == WHOLE for part in parts)
        assert len(parts) == len({owners[pid] for pid in pids} - {NOBODY})
