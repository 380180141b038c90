"""What answers of the known forms tell."""

import json
from typing import Any

import pytest

from joulefleet_agent.proxy.told import Heard, Tokens

STREAM = """
{"id":"c1","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}],"usage":null}
{"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}
{"id":"c1","choices":[],"usage":{"prompt_tokens":26,"completion_tokens":259,"total_tokens":285,"prompt_tokens_details":{"cached_tokens":16},"completion_tokens_details":{"reasoning_tokens":100}}}
[DONE]
"""


def heard(*parts: Any) -> Heard:
    one = Heard()
    for part in parts:
        one.hear(part if isinstance(part, bytes) else json.dumps(part).encode())
    return one


def test_a_stream_with_usage() -> None:
    one = Heard()
    assert [one.hear(line.encode()) for line in STREAM.split("\n") if line] == [False, False, True, False]
    assert one.tokens == Tokens(prompt=26, cached=16, output=259)
    assert (one.parts, one.done, one.failed) == (1, True, False)


def test_usage_that_grows_with_each_part_is_not_added_up() -> None:
    parts = [
        {"choices": [{"text": "a"}], "usage": {"prompt_tokens": 5, "completion_tokens": number}} for number in (1, 2, 3)
    ]
    assert heard(*parts).tokens == Tokens(5, None, 3)


@pytest.mark.parametrize(
    ("told", "tokens"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, Tokens(3, None, 4)),
        ({"usage": {"prompt_tokens": 3, "total_tokens": 3}}, Tokens(3, None, None)),
        (
            {"usage": {"input_tokens": 3, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 0}}},
            Tokens(3, 0, 4),
        ),
        ({"type": "response.completed", "response": {"usage": {"input_tokens": 3, "output_tokens": 4}}}, (3, None, 4)),
        ({"x_groq": {"id": "r", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}, "choices": []}, (3, None, 4)),
        (
            {"done": True, "prompt_eval_count": 26, "eval_count": 259, "prompt_eval_duration": 1, "eval_duration": 2},
            Tokens(26, None, 259),
        ),
        ({"done": True, "eval_count": 259}, Tokens(None, None, 259)),
        ({"usage": None}, Tokens()),
        ({"usage": {"prompt_tokens": -3}}, Tokens()),
        ({"usage": {"prompt_tokens": 10**30}}, Tokens()),
        ({}, Tokens()),
    ],
)
def test_tokens_by_form(told: Any, tokens: tuple[int | None, ...]) -> None:
    assert heard(told).tokens == tokens


@pytest.mark.parametrize(
    ("told", "parts"),
    [
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, 0),
        ({"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]}, 1),
        ({"choices": [{"delta": {"reasoning_content": "a"}}]}, 1),
        ({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}, 1),
        ({"choices": [{"delta": {"function_call": {"arguments": "{"}}}]}, 1),
        ({"choices": [{"text": "a"}]}, 1),
        ({"choices": []}, 0),
        ({"type": "response.output_text.delta", "delta": "a"}, 1),
        ({"type": "response.created", "response": {"model": "m"}}, 0),
        ({"response": "a", "done": False}, 1),
        ({"response": "", "done": True}, 0),
        ({"message": {"content": "a"}, "done": False}, 1),
        ({"message": "a sentence", "object": "error"}, 0),
    ],
)
def test_what_adds_to_an_answer(told: Any, parts: int) -> None:
    assert heard(told).parts == parts


@pytest.mark.parametrize("said", [b"\xff\x00", b"plain words", b'{"choices": 7}', b"[1]", b"[" * 100_000])
def test_what_is_no_known_form_is_a_part_without_tokens(said: bytes) -> None:
    one = heard(said)
    assert (one.parts, one.tokens, one.failed) == (1, Tokens(), False)


@pytest.mark.parametrize(
    ("told", "failed", "done"),
    [
        ({"error": {"message": "out of memory"}}, True, False),
        ({"error": "model not loaded"}, True, False),
        ({"type": "response.failed", "response": {"usage": None}}, True, True),
        ({"type": "error", "message": "x"}, True, False),
        ({"type": "response.completed", "response": {}}, False, True),
        ({"done": True}, False, True),
        ({"error": None, "choices": []}, False, False),
    ],
)
def test_how_an_answer_ends(told: Any, failed: bool, done: bool) -> None:
    one = heard(told)
    assert (one.failed, one.done) == (failed, done)


def test_the_model_is_the_one_that_was_told() -> None:
    assert heard({"model": "a"}, {"choices": []}, {"model": None}).model == "a"
    assert heard({"type": "response.created", "response": {"model": "b"}}).model == "b"
    assert heard({"model": "é" * 3}).model == "ééé"
