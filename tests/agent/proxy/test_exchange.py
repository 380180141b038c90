"""How one request ended, and what its parts took."""

import pytest

from joulefleet_agent.proxy.asked import ROUTES
from joulefleet_agent.proxy.exchange import Exchange
from joulefleet_agent.proxy.told import Tokens

WORD = b'{"choices":[{"delta":{"content":"a"}}]}'
USAGE = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":9}}'
MS = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def exchange(*said: bytes, status: int = 200) -> Exchange:
    one = Exchange(ROUTES[0], "t", Clock())
    if status:
        one.begins(status)
    for part in said:
        one.heard.hear(part)
        one.heard_more()
    return one


def test_times_between_parts_and_to_the_first() -> None:
    clock = Clock()
    one = Exchange(ROUTES[0], "t", clock)
    one.begins(200)
    for at_ms, parts in ((100, 1), (150, 1), (160, 0), (250, 3)):
        clock.now_ns = at_ms * MS
        for _ in range(parts):
            one.heard.hear(WORD)
        one.heard_more()
    clock.now_ns = 400 * MS
    ended = one.ended()
    assert (ended.ttft_s, ended.e2e_s) == (0.1, 0.4)
    assert ended.between is not None
    assert sum(ended.between.counts) == 4
    assert ended.between.sum_s == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("said", "status", "gone", "broken", "outcome"),
    [
        ((WORD,), 200, False, False, "ok"),
        ((WORD,), 200, True, False, "aborted"),
        ((WORD, b"[DONE]"), 200, True, False, "ok"),
        ((WORD,), 200, False, True, "failed"),
        ((b'{"error":{}}',), 200, True, False, "failed"),
        ((), 404, False, False, "failed"),
        ((), 0, False, False, "failed"),
        ((), 0, True, False, "aborted"),
    ],
)
def test_how_it_ended(said: tuple[bytes, ...], status: int, gone: bool, broken: bool, outcome: str) -> None:
    one = exchange(*said, status=status)
    one.gone, one.broken = gone, broken
    assert one.ended().outcome == outcome


def test_tokens_that_were_told_are_no_estimate() -> None:
    assert exchange(WORD, WORD).tokens == Tokens(output=2)
    assert exchange(WORD, WORD).ended().estimated
    told = exchange(WORD, WORD, USAGE)
    assert (told.tokens, told.ended().estimated) == (Tokens(1, None, 9), False)
    assert exchange().tokens == Tokens()


def test_the_model_is_as_answered_or_as_asked() -> None:
    one = exchange()
    one.asked_model = "alias"
    assert one.model == "alias"
    one.heard.hear(b'{"model":"real"}')
    assert one.model == "real"
