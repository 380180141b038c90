"""What an inference server's answer tells of the work behind it: its model, its tokens, and how it ended.

The forms are those of OpenAI's API (chat, completions, responses, embeddings) and of Ollama's own; which of them an
answer has is seen by its members. Cached tokens are part of the prompt and reasoning tokens of the output: parts are
never added. Sources: OpenAI's API reference on `usage` and `stream_options`; Ollama's `docs/api.md`.
"""

from typing import Annotated, Any, NamedTuple

import msgspec

DONE = b"[DONE]"
ENDINGS = ("response.completed", "response.incomplete", "response.failed")
"""Events with which a stream of the responses API ends."""
FAILURES = ("response.failed", "error")
MOST_TOLD = 10**9
"""Tokens of one answer; an error beyond it, which would make the sums of all others useless."""
_Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOLD)] | None


class Tokens(NamedTuple):
    """Tokens of one answer; None where it does not tell them."""

    prompt: int | None = None
    """Cached ones included."""
    cached: int | None = None
    output: int | None = None
    """Reasoning included."""


UNTOLD = Tokens()


class _Details(msgspec.Struct):
    cached_tokens: _Count = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    prompt_tokens_details: _Details | None = None
    input_tokens: _Count = None
    output_tokens: _Count = None
    input_tokens_details: _Details | None = None

    @property
    def tokens(self) -> Tokens:
        details = self.prompt_tokens_details or self.input_tokens_details or _Details()
        prompt = self.input_tokens if self.prompt_tokens is None else self.prompt_tokens
        output = self.output_tokens if self.completion_tokens is None else self.completion_tokens
        return Tokens(prompt, details.cached_tokens, output)


class _Piece(msgspec.Struct):
    """What a part of an answer may add to it."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    thinking: Any = None
    tool_calls: Any = None
    function_call: Any = None
    """What `tool_calls` was called before."""
    refusal: Any = None

    @property
    def is_empty(self) -> bool:
        thought = self.reasoning_content or self.reasoning or self.thinking
        return not (self.content or thought or self.tool_calls or self.function_call or self.refusal)


class _Choice(msgspec.Struct):
    delta: _Piece | None = None
    text: str | None = None

    @property
    def is_empty(self) -> bool:
        return not self.text and (self.delta is None or self.delta.is_empty)


class _Inner(msgspec.Struct):
    """The answer as a whole, inside an event of the responses API."""

    model: str | None = None
    usage: _Usage | None = None


class _Groq(msgspec.Struct):
    usage: _Usage | None = None


class _Told(msgspec.Struct):
    model: str | None = None
    usage: _Usage | None = None
    choices: list[_Choice] | None = None
    error: Any = None
    type: Any = None
    response: _Inner | str | None = None
    """An event's answer, or the text that a part of Ollama's answer adds."""
    x_groq: _Groq | None = None
    message: _Piece | str | None = None
    done: Any = None
    prompt_eval_count: _Count = None
    eval_count: _Count = None

    @property
    def tokens(self) -> Tokens:
        if self.usage is not None:
            return self.usage.tokens
        if isinstance(self.response, _Inner) and self.response.usage is not None:
            return self.response.usage.tokens
        if self.x_groq is not None and self.x_groq.usage is not None:
            return self.x_groq.usage.tokens
        if self.prompt_eval_count is None and self.eval_count is None:
            return UNTOLD
        return Tokens(self.prompt_eval_count, None, self.eval_count)

    @property
    def adds(self) -> bool:
        """Whether it adds something to the answer."""
        for choice in self.choices or ():
            if not choice.is_empty:
                return True
        if isinstance(self.type, str) and self.type.endswith(".delta"):
            return True
        piece = self.message if isinstance(self.message, _Piece) else None
        return (isinstance(self.response, str) and self.response != "") or (piece is not None and not piece.is_empty)


_DECODER = msgspec.json.Decoder(_Told)


class Heard:
    """Everything that one answer told so far, as a whole or in its parts."""

    def __init__(self) -> None:
        self.model = ""
        self.tokens = Tokens()
        self.parts = 0
        """Parts that added something: where tokens are never told, an estimate of them."""
        self.failed = False
        """Whether it told an error."""
        self.done = False
        """Whether it told its end."""

    def hear(self, said: bytes | bytearray | memoryview) -> bool:
        """One part, or the whole. Whether it is a part with tokens and nothing else, as who asks for usage gets it.

        What is no JSON of a known form is taken for a part: it is no less an answer.
        """
        if said == DONE:
            self.done = True
            return False
        try:
            told = _DECODER.decode(said)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.parts += 1
            return False
        self._note(told)
        return told.choices == [] and told.usage is not None

    def _note(self, told: _Told) -> None:
        self.model = told.model or (told.response.model if isinstance(told.response, _Inner) else "") or self.model
        tokens = told.tokens
        if tokens is not UNTOLD and tokens != UNTOLD:
            self.tokens = tokens
        self.parts += told.adds
        self.failed |= told.error is not None or told.type in FAILURES
        self.done |= told.done is True or told.type in ENDINGS
