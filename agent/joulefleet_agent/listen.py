"""Reads sources for a while and hands on what each says, in order: for recordings and for what is measured at once."""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from joulefleet.units import s_to_ns
from joulefleet_agent.clock import NowNs, boot_ns, wall_ns
from joulefleet_agent.sampler import LONGEST_QUEUE, Configured, Event, Gone, MustEnd, Reader, Refused, Said

BEAT_S = 1.0
"""Between two looks at what hangs."""


class Heard(msgspec.Struct, frozen=True):
    """What a source said, and when it was heard by both clocks."""

    boot_ns: int
    wall_ns: int
    event: Event


def listen(  # noqa: PLR0913 - clocks are arguments, too
    sources: Sequence[Configured],
    stop: threading.Event,
    seconds: float | None = None,
    wall: NowNs = wall_ns,
    boot: NowNs = boot_ns,
    *,
    unasked: bool = False,
) -> Iterator[Heard]:
    """Everything that the sources say until told to stop, for at most so many seconds, or until all have ended.

    Raises ConfigError where a source cannot use its table; one that nobody asked for is then passed over.
    """
    events: queue.Queue[Event] = queue.Queue(LONGEST_QUEUE)
    ending = threading.Event()
    readers = {one.name: Reader(one, boot, events, ending) for one in sources}
    for reader in readers.values():
        reader.start()
    until_ns = boot() + s_to_ns(seconds) if seconds is not None else None
    looked_ns = boot()
    try:
        while readers and not stop.is_set() and (until_ns is None or boot() < until_ns):
            said = _waiting(events)
            if boot() - looked_ns >= s_to_ns(BEAT_S):
                looked_ns = boot()
                said += _hung(readers.values(), looked_ns)
            for event in said:
                if isinstance(event, Refused) and not unasked:
                    raise event.error
                if not isinstance(event, Refused):
                    yield Heard(boot(), wall(), event)
                if isinstance(event, Refused | Gone | MustEnd):
                    readers.pop(event.source, None)
    finally:
        ending.set()


def _waiting(events: "queue.Queue[Event]") -> list[Event]:
    """What was said, and all that waits behind it; nothing where a beat passes in silence."""
    try:
        first = events.get(timeout=BEAT_S)
    except queue.Empty:
        return []
    return [first, *(events.get_nowait() for _ in range(events.qsize()))]


def _hung(readers: Iterable[Reader], now_ns: int) -> list[Event]:
    overdue = [(one.source_name, one.overdue(now_ns)) for one in readers]
    return [Said(name, now_ns, (failure,)) for name, failure in overdue if failure is not None]
