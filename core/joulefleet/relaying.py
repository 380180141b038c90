"""What a relay tells a server's agent: the meters that it reads for that server, and their readings since last asked.

Asked by `GET /v1/readings?server=NAME&life=LIFE&since=NUMBER` with the server's token, answered in msgpack. Clocks are
never compared: each reading comes with its age at the moment of the answer.
"""

import msgspec

from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading

PATH = "/v1/readings"
TYPE = "application/msgpack"
SCHEMA = 1
"""Rises when an older agent would misread an answer."""
MAX_BYTES = 8 * 1024 * 1024


class WrongAnswer(ValueError):
    """Bytes that are no answer of a relay that this agent understands."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The relay's answer for one server."""

    schema: int = SCHEMA
    life: str
    """Of the relay's process: numbers of another life mean nothing, and everything is told again."""
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
