"""What is kept to be read stays in its bounds."""

import pytest

from joulefleet_agent.proxy import look
from joulefleet_agent.proxy.look import Look, Room


def test_a_short_body_is_whole() -> None:
    room = Room(10)
    with Look(room) as one:
        assert one.add(b"12345")
        assert one.add(b"67890")
        assert (one.body, one.is_whole) == (b"1234567890", True)
        assert not room.take(1)
    assert room.take(10)


def test_what_has_no_room_is_left_out_for_good() -> None:
    room = Room(10)
    with Look(room) as one, Look(room) as other:
        assert one.add(b"1234567")
        assert not other.add(b"1234")
        assert not other.add(b"1")
        assert (other.body, other.is_whole) == (b"", False)
        assert not one.add(b"8901")
        assert one.body == b"1234567"
    assert room.take(10)


def test_one_body_has_a_bound_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "MOST_LOOKED", 4)
    with Look(Room(100)) as one:
        assert one.add(b"1234")
        assert not one.add(b"5")
