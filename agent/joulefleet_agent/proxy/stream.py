"""An answer that comes in parts: what of it goes on to who asked, and what it tells on the way.

An answer is server-sent events (WHATWG, section 9.2: events end at an empty line, lines at LF, CR LF or CR), or a JSON
object in each line. Its bytes may be cut anywhere. They go on as they came and at once, but for events of which it is
not known yet whether they are to be hidden: those wait for their end, or until they are too long for that.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from joulefleet_agent.proxy.told import Heard

MOST_HELD = 64 * 1024
"""Bytes of one event that wait; the one with tokens alone has a few hundred."""
MOST_KEPT = 2 * 1024 * 1024
"""Bytes of one event that are kept to be read; of a longer one it is known only that it came."""
LONGEST_END = 4


def _is_one_event(data: bytes | bytearray) -> bool:
    """Whether this is one event of one line of data."""
    is_one = data.startswith(b"data: ") and data.find(b"\n") == len(data) - 2 and data.endswith(b"\n\n")
    return is_one and b"\r" not in data


class Form(NamedTuple):
    """How the parts of an answer stand in its bytes."""

    end: "re.Pattern[bytes]"
    content: Callable[[bytes | bytearray], bytes]
    """What a part says."""
    is_one: Callable[[bytes], bool]
    """Whether bytes are one part, surely; asked first, since it is quick."""
    has_comments: bool
    """Whether there may be words between the parts that are part of none."""


def _data(event: bytes | bytearray) -> bytes:
    """The data of an event."""
    if _is_one_event(event):
        return bytes(event[6:-2])
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return bytes(b"\n".join(lines))


# A CR at the end of what has come may be half of an end of line.
_LINE_END = rb"(?:\r\n|\n|\r(?![\n])(?!\Z))"
EVENTS = Form(re.compile(_LINE_END + _LINE_END), _data, _is_one_event, has_comments=True)
LINES = Form(
    re.compile(rb"\n"),
    lambda line: bytes(line.strip()),
    lambda data: data.find(b"\n") == len(data) - 1,
    has_comments=False,
)
FORMS = {"text/event-stream": EVENTS, "application/x-ndjson": LINES, "application/jsonl": LINES}


def form_of(content_type: str) -> Form | None:
    """How an answer of this type comes in parts; None where it does not."""
    return FORMS.get(content_type.partition(";")[0].strip().lower())


class Stream:
    """One answer in parts."""

    def __init__(self, form: Form, heard: Heard, hides: bool = False, last: Callable[[], bytes] | None = None) -> None:
        """With `hides` the part that tells tokens alone does not go on. `last` gives what is put before the end."""
        self._form, self._heard, self._hides, self._last = form, heard, hides, last
        self._holds = hides or last is not None
        self._event = bytearray()
        """What has come of the event that has not ended."""
        self._passed = 0
        """How much of it has gone on."""
        self._sought = 0
        self._too_long = False

    def feed(self, data: bytes) -> bytes:
        """What goes on now."""
        if not self._event and self._form.is_one(data):
            # As nearly all come: one part, whole.
            return self._judged(data)
        self._event += data
        out = b"".join(self._ended())
        if not self._holds or len(self._event) > MOST_HELD:
            out += self._event[self._passed :]
            self._passed = len(self._event)
        if len(self._event) > MOST_KEPT:
            self._too_long = True
            del self._event[:-LONGEST_END]
            self._passed = self._sought = len(self._event)
        return out

    def finish(self) -> bytes:
        """What is left when the answer has ended."""
        out = b""
        if self._event:
            out = self._judged(self._event)
            self._event = bytearray()
        return out + self._ending()

    def _ended(self) -> Iterator[bytes]:
        begin = 0
        while found := self._form.end.search(self._event, max(begin, self._sought - LONGEST_END)):
            yield self._judged(self._event[begin : found.end()])
            begin = self._sought = found.end()
            self._passed, self._too_long = 0, False
        del self._event[:begin]
        self._sought = len(self._event)

    def _judged(self, event: bytes | bytearray) -> bytes:
        """What of this event goes on that has not yet."""
        left = bytes(event[self._passed :])
        if self._too_long:
            self._heard.parts += 1
            return left
        content = self._form.content(event)
        was_done = self._heard.done
        tokens_alone = bool(content) and self._heard.hear(content)
        if tokens_alone and self._hides and not self._passed:
            return b""
        if self._heard.done and not was_done and content == b"[DONE]":
            return self._ending() + left
        return left

    def _ending(self) -> bytes:
        last, self._last = self._last, None
        return last() if last else b""
