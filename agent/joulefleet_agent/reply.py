"""What an agent does after each answer of a collector; decided here, done by the uplink."""

import random
import re

import msgspec

from joulefleet.delivery import Answer, Rejected
from joulefleet.units import NS_PER_S

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
FORBIDDEN_WAIT_S = 60.0
MENDED_NS = 300 * NS_PER_S
LONGEST_POSTPONED_NS = 600 * NS_PER_S
"""The collector's clock may be the wrong one, and may be set right at any time."""
FEW_WINDOWS = 4
"""A batch of what is new, and the first one of a backlog: no agent that comes back keeps the others waiting."""
MOST_WINDOWS = 256
QUICK_S = 0.5
SLOW_S = 2.0
"""What is new waits for the answer to a batch of the backlog: about so long at most, and far less than a link waits."""
NEVER = ("malformed", "wrong_schema", "too_old")


class Delivered(msgspec.Struct, frozen=True):
    """The store has the batch, but for the windows that were rejected."""

    rejected: tuple[Rejected, ...]
    store_epoch: str
    now_ns: int


class Halve(msgspec.Struct, frozen=True):
    """Too large as it is: send fewer at once; a single one is set aside under this code."""

    code: str
    detail: str


class Wait(msgspec.Struct, frozen=True):
    """Keep everything and try again after so many seconds."""

    seconds: float
    reason: str
    loud: bool = False
    """Whether a person has to act."""
    quiet: bool = False
    """Whether this is nothing to speak of."""


Verdict = Delivered | Halve | Wait


def judge(status: int, body: bytes, retry_after: str | None, attempt: int, chance: random.Random) -> Verdict:
    """What to do after an HTTP answer; `attempt` counts failures in a row from 0.

    Only a collector names its store's epoch or its error: what else answers (a proxy, another service) took nothing
    and judged nothing.
    """
    answer = _read(body)
    if status == 200 and answer is not None and answer.store_epoch:
        return Delivered(tuple(answer.rejected), answer.store_epoch, answer.now_ns)
    told = answer.error if answer is not None else ""
    reason = f"HTTP {status}: {told or 'not the answer of a collector; check its URL'}"
    match status:
        case 401 | 403:
            return Wait(jittered(FORBIDDEN_WAIT_S, chance), reason, loud=True)
        case 413:
            return Halve("too_large", reason)
        case 400 if told:
            return Halve("malformed", reason)
        case 429 | 503:
            return Wait(backoff(attempt, chance) + _seconds(retry_after), reason)
        case _:
            return Wait(max(backoff(attempt, chance), FIRST_WAIT_S), reason, loud=status < 500)


def backoff(attempt: int, chance: random.Random) -> float:
    """Seconds to wait after so many failures in a row: full jitter, so that a fleet does not come back at once."""
    return chance.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(attempt, 10)))


def jittered(seconds: float, chance: random.Random) -> float:
    """Between half and one and a half of this."""
    return seconds * chance.uniform(0.5, 1.5)


def next_size(size: int, sent: int, took_s: float) -> int:
    """Windows in the next batch of a backlog, when one of `sent` windows was taken after so many seconds.

    Half where the collector is slow, however small the batch was; twice where it is quick and the batch was a full one.
    Never below FEW_WINDOWS for slowness: where a store takes long for any batch, smaller ones would not mend it.
    """
    if took_s > SLOW_S:
        return max(size // 2, min(size, FEW_WINDOWS))
    return min(2 * size, MOST_WINDOWS) if took_s < QUICK_S and sent >= size else size


def due_ns(code: str, start_ns: int, collector_ns: int, own_ns: int) -> int:
    """When, by the agent's clock, a window that was not taken is sent again.

    `too_early`: when it is no longer in the collector's future, or its clock may have been set right. Any other code:
    when a person may have mended it.
    """
    if code != "too_early":
        return own_ns + MENDED_NS
    return own_ns + min(max(start_ns - collector_ns, NS_PER_S), LONGEST_POSTPONED_NS)


def _read(body: bytes) -> Answer | None:
    try:
        return msgspec.json.decode(body, type=Answer)
    except ValueError:  # what msgspec raises, and what it lets pass of text that is not UTF-8
        return None


def _seconds(retry_after: str | None) -> float:
    """Whole seconds, an hour at most; 0 where it is absent or a date."""
    return float(min(int(retry_after), 3_600)) if retry_after and re.fullmatch("[0-9]{1,9}", retry_after) else 0.0
