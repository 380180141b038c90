"""What a program tells of work that it knows: one message, or a list of them, as JSON."""

from typing import Annotated

import msgspec

from joulefleet import Counts, WorkKey
from joulefleet.units import s_to_ns

MAX_NAME_CHARACTERS = 200
MOST = 10**12
"""Of a count, and of seconds a millionth of it: what is larger is an error and no work."""
PRINTED = r"^[^\x00-\x1f\x7f]*$"

Text = Annotated[str, msgspec.Meta(max_length=MAX_NAME_CHARACTERS, pattern=PRINTED)]
Name = Annotated[Text, msgspec.Meta(min_length=1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=MOST // 1_000_000)]
Instant = Annotated[float, msgspec.Meta(ge=0, le=MOST)]


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counts of work; what is left out is not known, which is not 0."""

    requests_ok: Count | None = None
    requests_failed: Count | None = None
    requests_aborted: Count | None = None
    prompt_tokens: Count | None = None
    """All of them, cached ones included."""
    cached_tokens: Count | None = None
    output_tokens: Count | None = None
    busy_s: Seconds | None = None
    prefill_busy_s: Seconds | None = None

    @property
    def counts(self) -> Counts:
        """The same as counters of an engine."""
        return Counts(
            requests_ok=self.requests_ok,
            requests_failed=self.requests_failed,
            requests_aborted=self.requests_aborted,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            busy_ns=None if self.busy_s is None else s_to_ns(self.busy_s),
            prefill_busy_ns=None if self.prefill_busy_s is None else s_to_ns(self.prefill_busy_s),
        )


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one sender did for one model and tenant at one engine."""

    engine: Name
    model: Name
    revision: Text = ""
    tenant: Text = ""
    sender: Name
    seq: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
    """Rises with each message of the sender; one that does not is a repeat."""
    counts: Told | None = None
    """Since the sender's last message."""
    totals: Told | None = None
    """Since the sender's life began."""
    life: Text = ""
    """Of `totals`: another one each time that they begin at 0."""
    running: Count | None = None
    """Requests that this sender has in flight at this engine now, of all models."""
    from_s: Instant | None = msgspec.field(default=None, name="from")
    to_s: Instant | None = msgspec.field(default=None, name="to")
    """Between which instants, in seconds since 1970, the work was done."""

    def __post_init__(self) -> None:
        if (self.counts is None) == (self.totals is None):
            raise ValueError("expected either `counts` or `totals`")
        if (self.totals is None) == bool(self.life):
            raise ValueError("`totals` have a `life`, and `counts` have none")
        if self.from_s is not None and self.to_s is not None and self.from_s > self.to_s:
            raise ValueError("`from` is later than `to`")

    @property
    def key(self) -> WorkKey:
        """Who and what the work was for."""
        return WorkKey(self.model, self.revision, self.tenant)


class BadMessage(ValueError):
    """A body of which nothing is counted."""


_DECODER = msgspec.json.Decoder(Message | list[Message])


def messages_of(body: bytes) -> list[Message]:
    """The messages of a body. Raises BadMessage, also where one of several is wrong."""
    try:
        told = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(str(error) or "the body is no JSON") from error
    return [told] if isinstance(told, Message) else told
