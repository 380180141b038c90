"""What a relay tells a server's agent: the meters that it reads for that server, and their readings since last asked.

Asked by `GET /v1/readings?server=NAME&life=LIFE&since=NUMBER` with the server's token, answered in msgpack. No wall
clock is compared: each reading comes with its age at the moment of the answer, and `Bearing` finds that moment on the
asker's clock, from all answers together: an answer that took long to come says little of when it was made.
"""

import msgspec

from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading

PATH = "/v1/readings"
TYPE = "application/msgpack"
SCHEMA = 1
"""Rises when an older agent would misread an answer."""
MAX_BYTES = 8 * 1024 * 1024
DRIFT = 5_000
"""Two clocks part by less than one in so many (200 ppm)."""


class WrongAnswer(ValueError):
    """Bytes that are no answer of a relay that this agent understands."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The relay's answer for one server."""

    schema: int = SCHEMA
    life: str
    """Of the relay's process: numbers of another life mean nothing, and everything is told again."""
    at_ns: int
    """When it was made, by a clock of the relay's that no one sets."""
    number: int
    """Of the last reading that is told; to be given as `since` when asked next."""
    meters: tuple[Meter, ...] = ()
    readings: tuple[MeterReading, ...] = ()
    """In the order in which they were read; `age_ns` is their age now, `at_ns` is 0."""
    failures: tuple[Failure, ...] = ()
    """What cannot be read at present; an empty subject is a source that is not open."""

    def encode(self) -> bytes:
        """As it travels."""
        return msgspec.msgpack.encode(self)


def decode(body: bytes) -> Answer:
    """The answer in these bytes. Raises WrongAnswer."""
    try:
        answer = msgspec.msgpack.decode(body, type=Answer)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WrongAnswer(f"not an answer of a relay: {error}") from error
    if answer.schema != SCHEMA:
        raise WrongAnswer(f"the relay speaks version {answer.schema}, this agent {SCHEMA}: upgrade the older of them")
    return answer


class Bearing:
    """How far the asker's clock is ahead of the relay's, by the answer that took least time.

    The answer was made between question and arrival; half of that is how far the middle of them may be off. What was
    found is held against later answers with an error that grows by the drift of two clocks.
    """

    def __init__(self) -> None:
        self._ahead_ns = 0
        self._error_ns = -1
        self._seen_ns = 0

    def ahead_ns(self, asked_ns: int, came_ns: int, at_ns: int) -> int:
        """With one more answer, made at `at_ns` by the relay's clock and asked for and come by the asker's."""
        error_ns = (came_ns - asked_ns) // 2
        grown_ns = self._error_ns + (came_ns - self._seen_ns) // DRIFT
        if self._error_ns < 0 or error_ns <= grown_ns:
            self._ahead_ns, self._error_ns, self._seen_ns = (asked_ns + came_ns) // 2 - at_ns, error_ns, came_ns
        return self._ahead_ns
