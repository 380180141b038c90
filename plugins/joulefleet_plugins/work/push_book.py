"""Adds up what senders tell, each message once, into counters that only rise.

Rules. A message whose `seq` is not above that of the sender's last one is a repeat and changes nothing. `counts` are
added; of `totals` what they rose by since the sender's last ones of the same life, and all of them in a new life. The
first totals of a sender that nobody knows and that has told before (its `seq` is above 1) are where it stands and no
work, since what of them was counted before is not known; so are those of each model and tenant until its next life. A
body counts whole or not at all.
"""

from collections.abc import Container, Mapping, Sequence
from http import HTTPStatus

import msgspec

from joulefleet import Counts, WorkKey
from joulefleet.reading import COUNT_FIELDS
from joulefleet_plugins.work.push_message import Message

MAX_KEYS = 128
"""Models and tenants of one engine; the work of what comes beyond is counted together."""
OVERFLOW = WorkKey("__overflow__", "", "__overflow__")
MAX_SENDERS = 256
MAX_TOTALS = 128
"""Engines, models and tenants together of which one sender may tell totals."""
FORGET_AFTER_S = 86_400.0
"""A sender that was silent so long is forgotten where there is no room; its old messages would then count again."""
MOST_IN_ALL = 2**62
FIRST_SEQ = 1

Work = Mapping[WorkKey, Counts]


class Refused(Exception):
    """Messages that are not counted: the HTTP status and why."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(status, reason)

    def __str__(self) -> str:
        return self.reason


class Sender(msgspec.Struct, frozen=True):
    """What is remembered of one sender."""

    seq: int
    heard_s: float
    """When it was last heard of, in seconds since 1970."""
    life: str = ""
    from_start: bool = True
    """Whether this life was heard of from its start."""
    totals: dict[str, dict[WorkKey, Counts]] = {}
    """Its last totals in this life, by engine."""


class Book(msgspec.Struct, frozen=True):
    """Counters by engine, and the senders; also what changes in them."""

    engines: Mapping[str, Work] = {}
    senders: Mapping[str, Sender] = {}
    forgotten: frozenset[str] = frozenset()
    """Senders that are no longer remembered."""

    def after(self, change: "Book") -> "Book":
        """The book with what changed in it."""
        senders = {name: one for name, one in self.senders.items() if name not in change.forgotten}
        return Book({**self.engines, **change.engines}, {**senders, **change.senders})


class Outcome(msgspec.Struct):
    """What a body changes, and how many of its messages were of which sort."""

    change: Book
    counted: int = 0
    repeated: int = 0
    baselines: int = 0


def weigh(book: Book, messages: Sequence[Message], known: Container[str], now_s: float) -> Outcome:
    """What these messages change, in their order. Raises Refused, and then nothing counts."""
    _check(messages, known)
    outcome = Outcome(Book())
    for message in messages:
        _take(book.after(outcome.change), message, outcome, now_s)
    return outcome


def _check(messages: Sequence[Message], known: Container[str]) -> None:
    seen: set[tuple[str, int]] = set()
    for one in messages:
        if one.engine not in known:
            raise Refused(HTTPStatus.BAD_REQUEST, f"no engine is named '{one.engine}' in [[sources.engines]]")
        if (one.sender, one.seq) in seen:
            raise Refused(HTTPStatus.BAD_REQUEST, f"two messages of '{one.sender}' have the seq {one.seq}")
        seen.add((one.sender, one.seq))


def _take(book: Book, message: Message, outcome: Outcome, now_s: float) -> None:
    sender = book.senders.get(message.sender)
    if sender is not None and message.seq <= sender.seq:
        outcome.repeated += 1
        return
    forgotten = set() if sender is not None else _room(book, now_s)
    done, now = _done(sender, message, now_s)
    outcome.baselines += done is None
    outcome.counted += done is not None
    engine = book.engines.get(message.engine, {})
    work = engine if done is None else _added(engine, message.key, done)
    outcome.change = Book(
        {**outcome.change.engines, message.engine: work},
        {**outcome.change.senders, message.sender: now},
        outcome.change.forgotten | forgotten,
    )


def _room(book: Book, now_s: float) -> set[str]:
    """Who is forgotten for one more sender. Raises Refused where everybody was heard of lately."""
    if len(book.senders) < MAX_SENDERS:
        return set()
    oldest = min(book.senders, key=lambda name: book.senders[name].heard_s)
    if now_s - book.senders[oldest].heard_s < FORGET_AFTER_S:
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"more than {MAX_SENDERS} senders within a day")
    return {oldest}


def _done(sender: Sender | None, message: Message, now_s: float) -> tuple[Counts | None, Sender]:
    """What was done since the sender's last message, None where that is not known; and the sender since."""
    last = sender or Sender(-1, now_s, from_start=message.seq <= FIRST_SEQ)
    if message.totals is None:
        assert message.counts is not None, "a message has counts or totals"
        return message.counts.counts, msgspec.structs.replace(last, seq=message.seq, heard_s=now_s)
    same_life = sender is None or message.life == last.life
    totals, from_start = (last.totals, last.from_start) if same_life else ({}, True)
    told = totals.get(message.engine, {})
    was, now = told.get(message.key), message.totals.counts
    risen = _rise(was or Counts(), now)
    kept = {**totals, message.engine: {**told, message.key: _latest(was or Counts(), now)}}
    if sum(map(len, kept.values())) > MAX_TOTALS:
        reason = f"'{message.sender}' tells totals of more than {MAX_TOTALS} models and tenants; send `counts`"
        raise Refused(HTTPStatus.BAD_REQUEST, reason)
    done = None if was is None and not from_start else risen
    return done, Sender(message.seq, now_s, message.life, from_start, kept)


def _rise(was: Counts, now: Counts) -> Counts:
    pairs = {name: (getattr(was, name) or 0, getattr(now, name)) for name in COUNT_FIELDS}
    for name, (before, after) in pairs.items():
        if after is not None and after < before:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{name} fell in one life: totals that begin anew have a new `life`")
    return Counts(**{name: None if after is None else after - before for name, (before, after) in pairs.items()})


def _latest(was: Counts, now: Counts) -> Counts:
    """A total that is not told this time stays, so that it is not counted anew when it is."""
    pairs = ((name, getattr(was, name), getattr(now, name)) for name in COUNT_FIELDS)
    return Counts(**{name: before if after is None else after for name, before, after in pairs})


def _added(work: Work, key: WorkKey, done: Counts) -> Work:
    """The engine's counters with this work, which counts as OVERFLOW's where there is no room for its key."""
    has_room = key in work or len(work.keys() - {OVERFLOW}) < MAX_KEYS - 1
    into = key if has_room else OVERFLOW
    return {**work, into: _sum(work.get(into, Counts()), done)}


def _sum(was: Counts, done: Counts) -> Counts:
    sums: dict[str, int | None] = {}
    for name in COUNT_FIELDS:
        before, more = getattr(was, name), getattr(done, name)
        sums[name] = before if more is None else (before or 0) + more
        if (sums[name] or 0) > MOST_IN_ALL:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{name} is more in all than any server ever did")
    return Counts(**sums)
