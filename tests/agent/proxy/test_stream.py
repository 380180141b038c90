"""Answers in parts, cut anywhere: what goes on, what is hidden, and what is heard."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_agent.proxy import stream
from joulefleet_agent.proxy.stream import EVENTS, LINES, Stream, form_of
from joulefleet_agent.proxy.told import Heard, Tokens

PARTS = (
    'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"Hi\\n\\n é"},"finish_reason":null}],"usage":null}',
    ": a comment",
    'event: x\ndata: {"choices":\ndata: [{"delta":{"content":"two lines"}}]}\nid: 7',
    'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}',
)
USAGE = (
    'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":26,"completion_tokens":259,"total_tokens":285,'
    '"prompt_tokens_details":{"cached_tokens":16},"completion_tokens_details":{"reasoning_tokens":100}}}'
)
DONE = "data: [DONE]"
WORDS = b": words\n\n"


def written(parts: tuple[str, ...], end: str = "\n") -> bytes:
    return b"".join((part.replace("\n", end) + end * 2).encode() for part in parts)


def through(chunks: list[bytes], **how: object) -> tuple[bytes, Heard]:
    heard = Heard()
    one = Stream(EVENTS, heard, **how)  # type: ignore[arg-type] # the keywords of Stream
    return b"".join([*map(one.feed, chunks), one.finish()]), heard


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_wherever_it_is_cut_the_same_goes_on(end: str) -> None:
    whole, wanted = written((*PARTS, USAGE, DONE), end), written((*PARTS, DONE), end)
    for at in range(len(whole) + 1):
        chunks = [whole[:at], whole[at:]]
        assert through(chunks)[0] == whole
        told, heard = through(chunks, hides=True)
        assert told == wanted, at
        assert (heard.tokens, heard.parts, heard.done) == (Tokens(26, 16, 259), 2, True)


@given(st.lists(st.integers(0, 900), max_size=40), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_cut_into_any_pieces(cuts: list[int], end: str, hides: bool) -> None:
    whole = written((*PARTS, USAGE, DONE), end)
    places = [0, *sorted(cuts), len(whole)]
    chunks = [whole[a:b] for a, b in pairwise(places)]
    assert through(chunks, hides=hides)[0] == (written((*PARTS, DONE), end) if hides else whole)


@given(st.lists(st.binary(max_size=20), max_size=20), st.booleans())
def test_rubbish_goes_through(chunks: list[bytes], hides: bool) -> None:
    assert through(chunks, hides=hides)[0] == b"".join(chunks)


def test_a_part_goes_on_as_soon_as_it_is_whole() -> None:
    one = Stream(EVENTS, Heard(), hides=True)
    for part in (*PARTS, DONE):
        event = written((part,))
        assert one.feed(event[:-1]) == b""
        assert one.feed(event[-1:]) == event
    assert one.finish() == b""


def test_what_nothing_is_hidden_of_goes_on_at_once() -> None:
    one = Stream(EVENTS, Heard())
    for byte in written(PARTS):
        assert one.feed(bytes([byte])) == bytes([byte])


def test_usage_in_a_part_with_words_is_not_hidden() -> None:
    event = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    told, heard = through([event], hides=True)
    assert (told, heard.tokens) == (event, Tokens(1, None, 2))


def test_words_stand_before_the_end() -> None:
    told, _ = through([written((*PARTS, USAGE, DONE))], hides=True, last=lambda: WORDS)
    assert told == written(PARTS) + WORDS + written((DONE,))
    told, _ = through([written(PARTS)], last=lambda: WORDS)
    assert told == written(PARTS) + WORDS


def test_long_parts_are_passed_and_bounded() -> None:
    long = written((f'data: {{"choices":[{{"delta":{{"content":"{"x" * 1_000_000}"}}}}]}}', USAGE, DONE))
    for size in (1_000, 65_536, len(long)):
        heard = Heard()
        one = Stream(EVENTS, heard, hides=True)
        out = bytearray()
        for at in range(0, len(long), size):
            came = min(at + size, len(long))
            out += one.feed(long[at:came])
            assert came - len(out) <= stream.MOST_HELD + size + len(USAGE) + 2
        assert bytes(out) + one.finish() == long.replace(written((USAGE,)), b"")
        assert (heard.parts, heard.tokens.output) == (1, 259)


def test_a_part_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_KEPT", 10_000)
    monkeypatch.setattr(stream, "MOST_HELD", 100)
    heard = Heard()
    one = Stream(EVENTS, heard, hides=True)
    assert sum(len(one.feed(b"x" * 1_000)) for _ in range(100)) == 100_000
    assert len(one._event) <= 10_000
    assert one.feed(b"\n\n" + written((USAGE, DONE))) == b"\n\n" + written((DONE,))
    assert (heard.parts, heard.tokens.output, heard.done) == (1, 259, True)


def test_lines_of_json() -> None:
    lines = b"".join(
        json.dumps(one).encode() + b"\n"
        for one in ({"message": {"content": "a"}, "done": False}, {"done": True, "eval_count": 3})
    )
    for at in range(len(lines)):
        heard = Heard()
        one = Stream(LINES, heard)
        assert one.feed(lines[:at]) + one.feed(lines[at:]) + one.finish() == lines
        assert (heard.parts, heard.tokens.output, heard.done) == (1, 3, True)


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("text/event-stream", EVENTS),
        ("Text/Event-Stream; charset=utf-8", EVENTS),
        ("application/x-ndjson", LINES),
        ("application/json", None),
        ("", None),
    ],
)
def test_which_answers_come_in_parts(content_type: str, form: stream.Form | None) -> None:
    assert form_of(content_type) is form
