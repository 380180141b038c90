"""What an agent does after each answer of a collector."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.delivery import Answer, Rejected
from joulefleet_agent.reply import (
    FEW_WINDOWS,
    MOST_WINDOWS,
    QUICK_S,
    SLOW_S,
    Delivered,
    Halve,
    Verdict,
    Wait,
    backoff,
    due_ns,
    jittered,
    judge,
    next_size,
)

S = 1_000_000_000
REFUSED = Rejected(index=1, code="malformed")


def answer(**fields: object) -> bytes:
    return msgspec.json.encode(Answer(**fields))  # type: ignore[arg-type] # keyword names are checked by the struct


def after(status: int, body: bytes, retry_after: str | None = None, attempt: int = 0) -> Verdict:
    return judge(status, body, retry_after, attempt, random.Random(1))


def test_what_the_store_has_committed_is_delivered() -> None:
    assert after(200, answer(rejected=[REFUSED], store_epoch="e", now_ns=5)) == Delivered((REFUSED,), "e", 5)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"OK", b'{"status": "ok"}', b"<html>", b'{"error": "\xff"}', b'{"rejected": 5}', b"[" * 5_000],
)
def test_nothing_is_forgotten_on_the_word_of_something_that_is_no_collector(body: bytes) -> None:
    verdict = after(200, body)
    assert isinstance(verdict, Wait)
    assert verdict.loud
    assert "check its URL" in verdict.reason
    assert isinstance(after(400, body), Wait)


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_token_is_loud_and_slow(status: int) -> None:
    verdict = after(status, answer(error="token expired"))
    assert isinstance(verdict, Wait)
    assert verdict.loud
    assert 30 <= verdict.seconds <= 90
    assert verdict.reason == f"HTTP {status}: token expired"


def test_too_large_is_halved_whoever_says_so() -> None:
    assert after(413, answer(error="2 MiB")) == Halve("too_large", "HTTP 413: 2 MiB")
    assert isinstance(after(413, b"<html>nginx</html>"), Halve)


def test_a_batch_that_the_collector_cannot_read_is_halved_until_the_bad_window_is_found() -> None:
    assert after(400, answer(error="not a batch")) == Halve("malformed", "HTTP 400: not a batch")


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_collector_is_given_the_time_it_asks_for(status: int) -> None:
    verdict = after(status, answer(error="busy"), "10")
    assert isinstance(verdict, Wait)
    assert not verdict.loud
    assert 10 <= verdict.seconds <= 11


@pytest.mark.parametrize(
    ("told", "least"),
    [(None, 0), ("0", 0), ("nan", 0), ("-5", 0), ("1e3", 0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("99999", 3_600)],
)
def test_any_retry_after_gives_seconds_to_wait(told: str | None, least: float) -> None:
    verdict = after(503, b"", told)
    assert isinstance(verdict, Wait)
    assert least <= verdict.seconds <= least + 1


@pytest.mark.parametrize(("status", "loud"), [(500, False), (502, False), (404, True), (301, True), (411, True)])
def test_any_other_answer_keeps_everything(status: int, loud: bool) -> None:
    verdict = after(status, answer(error="no"), attempt=3)
    assert isinstance(verdict, Wait)
    assert verdict.loud == loud
    assert verdict.seconds >= 1


@given(st.integers(0, 10_000), st.integers())
def test_waits_grow_and_stay_bounded(attempt: int, seed: int) -> None:
    assert 0 <= backoff(attempt, random.Random(seed)) <= min(2**attempt, 60)
    assert 5 <= jittered(10, random.Random(seed)) <= 15


def test_a_window_that_is_too_early_waits_by_the_collectors_clock() -> None:
    assert due_ns("too_early", 1_000 * S, 900 * S, 5_000 * S) == 5_100 * S
    assert due_ns("too_early", 1_000 * S, 1_001 * S, 5_000 * S) == 5_001 * S


def test_a_collector_whose_clock_is_wrong_does_not_hold_windows_for_years() -> None:
    assert due_ns("too_early", 1_790_000_000 * S, 0, 5_000 * S) == 5_600 * S


def test_a_window_that_a_person_has_to_see_to_waits_minutes() -> None:
    assert due_ns("not_accounted", 1_000 * S, 5_000 * S, 5_000 * S) == 5_300 * S


@pytest.mark.parametrize(
    ("size", "sent", "took_s", "next_one"),
    [
        (16, 16, 0.0, 32),
        (16, 15, 0.0, 16),
        (16, 16, QUICK_S, 16),
        (16, 16, SLOW_S, 16),
        (16, 16, SLOW_S + 0.1, 8),
        (16, 1, SLOW_S + 0.1, 8),
        (MOST_WINDOWS, MOST_WINDOWS, 0.0, MOST_WINDOWS),
        (FEW_WINDOWS, 1, 60.0, FEW_WINDOWS),
        (2, 2, 60.0, 2),
    ],
)
def test_batches_of_a_backlog_follow_the_time_of_the_last_answer(
    size: int, sent: int, took_s: float, next_one: int
) -> None:
    assert next_size(size, sent, took_s) == next_one


@given(st.floats(0.0001, 1.0), st.floats(0.0, 1.0))
def test_a_steady_collector_answers_soon(window_s: float, batch_s: float) -> None:
    """Whatever a window takes, a batch comes to take neither long nor, unless it is the largest, next to nothing."""
    size = FEW_WINDOWS
    for _ in range(20):
        size = next_size(size, size, batch_s + size * window_s)
    took_s = batch_s + size * window_s
    assert size == FEW_WINDOWS or took_s <= 2 * SLOW_S
    assert size == MOST_WINDOWS or took_s >= QUICK_S
