"""Messages become counters that only rise: each counts once, whatever is sent again, and in which pieces."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.reading import Counts, WorkKey
from joulefleet_plugins.work.push_book import (
    FORGET_AFTER_S,
    MAX_KEYS,
    MAX_SENDERS,
    MAX_TOTALS,
    OVERFLOW,
    Book,
    Outcome,
    Refused,
    weigh,
)
from joulefleet_plugins.work.push_message import Message, Told

ENGINES = {"e", "other"}
NOW_S = 1_790_000_000.0


def message(seq: int, requests: int = 1, **changes: Any) -> Message:
    told = {"engine": "e", "model": "M", "sender": "s", "seq": seq, "counts": Told(requests_ok=requests), **changes}
    return Message(**told)


def total(seq: int, requests: int, life: str = "a", **changes: Any) -> Message:
    return message(seq, counts=None, totals=Told(requests_ok=requests), life=life, **changes)


def after(bodies: Sequence[Sequence[Message]], now_s: float = NOW_S, book: Book | None = None) -> Book:
    book = book or Book()
    for body in bodies:
        book = book.after(weigh(book, body, ENGINES, now_s).change)
    return book


def requests(book: Book, key: WorkKey = WorkKey("M"), engine: str = "e") -> int | None:  # noqa: B008 - it is frozen
    return book.engines[engine][key].requests_ok


def sorts(outcome: Outcome) -> tuple[int, int, int]:
    return outcome.counted, outcome.repeated, outcome.baselines


def test_counts_are_added_up_and_a_repeat_changes_nothing() -> None:
    book = after([[message(1, 3)], [message(5, 4)]])
    assert requests(book) == 7
    for seq in (5, 4, 1):
        outcome = weigh(book, [message(seq, 100)], ENGINES, NOW_S)
        assert sorts(outcome) == (0, 1, 0)
        assert book.after(outcome.change) == book


def test_what_is_not_told_is_not_0() -> None:
    book = after([[message(1, counts=Told(output_tokens=5))], [message(2, counts=Told(requests_ok=1))]])
    assert book.engines["e"][WorkKey("M")] == Counts(requests_ok=1, output_tokens=5)


def test_totals_count_by_what_they_rose() -> None:
    book = after([[total(1, 10)], [total(2, 10)], [total(3, 17)]])
    assert requests(book) == 17
    book = after([[total(4, 3, "b")], [total(5, 4, "b")]], book=book)
    assert requests(book) == 21, "a new life began at 0"


def test_a_total_that_is_left_out_once_is_not_counted_anew() -> None:
    partly = message(2, counts=None, totals=Told(output_tokens=1), life="a")
    assert requests(after([[total(1, 10)], [partly], [total(3, 11)]])) == 11


def test_totals_that_fall_in_one_life_are_refused() -> None:
    with pytest.raises(Refused, match="requests_ok fell in one life") as refused:
        after([[total(1, 10)], [total(2, 9)]])
    assert refused.value.status == 400


def test_what_an_unknown_sender_did_before_is_not_counted() -> None:
    """As when the file was lost: its life has gone on for long."""
    outcome = weigh(Book(), [total(1_000, 5_000), total(1_001, 700, tenant="t")], ENGINES, NOW_S)
    assert sorts(outcome) == (0, 0, 2)
    book = after([[total(1_002, 5_003)], [total(1_003, 701, tenant="t")]], book=Book().after(outcome.change))
    assert requests(book) == 3
    assert requests(book, WorkKey("M", "", "t")) == 1
    assert requests(after([[total(1_004, 2, "b", tenant="u")]], book=book), WorkKey("M", "", "u")) == 2


def test_a_body_counts_whole_or_not_at_all() -> None:
    with pytest.raises(Refused, match="no engine is named 'typo'"):
        weigh(Book(), [message(1), message(2, engine="typo")], ENGINES, NOW_S)
    with pytest.raises(Refused, match="seq 7"):
        weigh(Book(), [message(7), message(7, model="N")], ENGINES, NOW_S)
    with pytest.raises(Refused, match="fell"):
        weigh(Book(), [message(1, sender="x"), total(1, 9), total(2, 8)], ENGINES, NOW_S)


def test_beyond_so_many_keys_work_is_counted_together() -> None:
    bodies = [[message(seq, 1, tenant=f"t{seq}")] for seq in range(3 * MAX_KEYS)]
    book = after([*bodies, [message(10_000, 5, tenant="t0")]])
    work = book.engines["e"]
    assert len(work) == MAX_KEYS
    assert sum(one.requests_ok or 0 for one in work.values()) == 3 * MAX_KEYS + 5
    assert requests(book, WorkKey("M", "", "t0")) == 6, "who had a place keeps it"
    assert requests(book, OVERFLOW) == 2 * MAX_KEYS + 1


def test_a_sender_is_forgotten_only_after_a_day_of_silence() -> None:
    book = after([[message(9, sender=f"s{number}")] for number in range(MAX_SENDERS)])
    with pytest.raises(Refused, match="senders") as refused:
        weigh(book, [message(1, sender="new")], ENGINES, NOW_S + FORGET_AFTER_S - 1)
    assert refused.value.status == 503
    book = after([[message(10, sender="s0")]], NOW_S + 10, book)
    book = after([[message(1, sender="new")]], NOW_S + FORGET_AFTER_S + 5, book)
    assert len(book.senders) == MAX_SENDERS
    assert {"s0", "new"} <= book.senders.keys()
    assert requests(book) == MAX_SENDERS + 2, "what a forgotten sender did stays"


def test_totals_of_too_many_tenants_are_refused() -> None:
    book = after([[total(seq, 1, tenant=f"t{seq}")] for seq in range(MAX_TOTALS)])
    with pytest.raises(Refused, match="send `counts`"):
        weigh(book, [total(1_000, 1, tenant="one more")], ENGINES, NOW_S)


def test_a_sum_beyond_all_reason_is_refused() -> None:
    book = Book({"e": {WorkKey("M"): Counts(requests_ok=2**62)}})
    with pytest.raises(Refused, match="requests_ok"):
        weigh(book, [message(1)], ENGINES, NOW_S)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Message], list[list[Message]]]:
    """What three senders told, and bodies by which it came: in any pieces, sent again from any earlier place."""
    told = []
    for sender in ("a", "b", "c"):
        number = draw(st.integers(0, 6))
        told.append(
            [
                message(seq, draw(st.integers(0, 9)), sender=sender, tenant=draw(st.sampled_from(["", "t", "u"])))
                for seq in range(number)
            ]
        )
    bodies: list[list[Message]] = []
    places = [0, 0, 0]
    while any(place < len(one) for place, one in zip(places, told, strict=True)):
        which = draw(st.sampled_from([k for k in range(3) if places[k] < len(told[k])]))
        begin = draw(st.integers(0, places[which]))
        places[which] = draw(st.integers(places[which] + 1, len(told[which])))
        bodies.append(told[which][begin : places[which]])
    return [one for several in told for one in several], bodies


@given(deliveries())
def test_each_message_counts_once_however_it_came(made: tuple[list[Message], list[list[Message]]]) -> None:
    told, bodies = made
    book = after(bodies)
    expected: dict[WorkKey, int] = {}
    for one in told:
        assert one.counts is not None
        expected[one.key] = expected.get(one.key, 0) + (one.counts.requests_ok or 0)
    assert {key: counts.requests_ok for key, counts in book.engines.get("e", {}).items()} == expected


@given(st.lists(st.integers(0, 50), min_size=1), st.lists(st.booleans()))
def test_totals_say_the_same_as_counts(rises: list[int], lost: list[bool]) -> None:
    """Also where some of the messages never come."""
    totals = [total(seq, sum(rises[:seq])) for seq in range(1, len(rises) + 1)]
    came = [one for one, is_lost in zip(totals, [*lost, *[False] * len(totals)], strict=False) if not is_lost]
    if not came or came[0].seq > 1 or came[-1] != totals[-1]:
        came = [totals[0], *came, totals[-1]]
    assert requests(after([[one] for one in came])) == sum(rises)
