"""Sends waiting windows to a collector until its store has them.

A live agent sends what is new first, a few windows in a batch of their own: after an outage what is happening now is
seen at once, and the backlog follows at a bounded rate, the newest first. A replay sends the oldest first, as fast as
it goes, and declares a backfill. Either sends batches as large as the collector answers soon. Several collectors are
tried in turn.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from zlib import crc32

from joulefleet.delivery import Rejected, plain
from joulefleet.units import NS_PER_S, ns_to_s
from joulefleet_agent.clock import NowNs
from joulefleet_agent.link import Link
from joulefleet_agent.offset import Offsets
from joulefleet_agent.reply import FEW_WINDOWS, MOST_WINDOWS, NEVER, Delivered, Halve, Wait, due_ns, next_size
from joulefleet_agent.spool import Spool, SpoolUnavailable, Waiting

LOG = logging.getLogger(__name__)
BATCH_BYTES = 4 * 1024 * 1024
BACKLOG_WINDOWS_PER_S = 500
LATEST_PART, LATEST_S = 0.2, 10.0
"""A window is sent within so much of its step after it closed, and within so many seconds."""
APART_NS = 60 * NS_PER_S
"""Clocks that differ by more are told: as far ahead as a collector takes a window."""


class Uplink:
    """Takes windows from the spool to the collectors. Raises SpoolUnavailable; what a collector does is no error."""

    def __init__(  # noqa: PLR0913 - two clocks, and all by name
        self,
        links: Sequence[Link],
        spool: Spool,
        now: NowNs,
        *,
        live: bool = True,
        offsets: Offsets | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._links = links
        self._turn = 0
        self._spool = spool
        self._now = now
        self._offsets = offsets or Offsets(now)
        self._live = live
        self._monotonic = monotonic
        self._size = FEW_WINDOWS if live else MOST_WINDOWS
        self._newest_sent = 0
        self._failures = 0
        self._said = ""
        self._is_apart = False
        self._batch_id = 0

    @property
    def url(self) -> str:
        """The collector whose turn it is."""
        return self._links[self._turn].url

    def send_once(self) -> float | None:
        """Send one batch. Returns seconds to wait before the next, 0 if there may be more, None if none waits."""
        is_new = self._live and self._spool.newest(self._now()) > self._newest_sent
        limit = min(self._size, FEW_WINDOWS) if is_new else self._size
        waiting = self._spool.waiting(limit, self._now(), BATCH_BYTES, newest_first=self._live)
        if not waiting:
            return None
        self._batch_id += 1
        batch = plain([one.body for one in waiting], self._batch_id, backfill=not self._live)
        asked_ns, asked_s = self._offsets.now_ns(), self._monotonic()
        verdict = self._links[self._turn].exchange(batch, self._failures)
        match verdict:
            case Delivered():
                self._offsets.compare(asked_ns, verdict.now_ns)
                self._take(waiting, verdict)
                took_s = self._monotonic() - asked_s
                self._size = next_size(self._size, len(waiting), took_s)
                return 0.0 if is_new or len(waiting) < limit else self._pause_s(len(waiting), took_s)
            case Halve():
                return self._halve(waiting, verdict)
            case Wait():
                self._failures += 0 if verdict.quiet else 1
                self._size = FEW_WINDOWS
                self._say(verdict, len(waiting))
                self._turn = (self._turn + 1) % len(self._links)
                return verdict.seconds

    def close(self) -> None:
        """Let all connections go."""
        for link in self._links:
            link.close()

    def _pause_s(self, sent: int, took_s: float) -> float:
        """A live agent sends its backlog at a bounded rate: a fleet that comes back must leave room for what is new."""
        return max(sent / BACKLOG_WINDOWS_PER_S - took_s, 0.0) if self._live else 0.0

    def _take(self, waiting: list[Waiting], told: Delivered) -> None:
        if self._failures:
            LOG.info("%s: reached again after %d tries", self.url, self._failures)
        self._failures, self._said = 0, ""
        self._newest_sent = max(self._newest_sent, *(one.seq for one in waiting))
        rejected = {one.index: one for one in told.rejected if 0 <= one.index < len(waiting)}
        now_ns = self._now()
        self._compare_clocks(now_ns, told.now_ns)
        again = self._spool.follow_store(told.store_epoch, now_ns)
        if again:
            LOG.warning("%s: the store began a new life; %d windows are sent again", self.url, again)
        self._spool.stored([one.seq for k, one in enumerate(waiting) if k not in rejected], now_ns)
        self._tell_refused([why for why in rejected.values() if why.code in NEVER])
        for k, why in rejected.items():
            if why.code in NEVER:
                self._spool.refused(waiting[k].seq, why.code, now_ns)
            else:
                self._spool.postpone(waiting[k].seq, due_ns(why.code, waiting[k].start_ns, told.now_ns, now_ns))

    def _tell_refused(self, refused: list[Rejected]) -> None:
        """Once for each code: a spool that comes days late has thousands."""
        first = {why.code: why.detail for why in reversed(refused)}
        for code, number in Counter(why.code for why in refused).items():
            text = "%s: %d windows refused for good and set aside: %s (the first: %s)"
            LOG.error(text, self.url, number, code, first[code])

    def _compare_clocks(self, own_ns: int, collector_ns: int) -> None:
        """Log once that the clocks differ. A replay's time is its own; an answer of 0 tells no time."""
        ahead_ns = own_ns - collector_ns if self._live and collector_ns else 0
        was_apart, self._is_apart = self._is_apart, abs(ahead_ns) > APART_NS
        if self._is_apart and not was_apart:
            LOG.warning("%s: %s", self.url, _apart(ahead_ns))

    def _say(self, verdict: Wait, waiting: int) -> None:
        """Log a reason once, not at every try."""
        if verdict.quiet or verdict.reason == self._said:
            return
        self._said = verdict.reason
        log = LOG.error if verdict.loud else LOG.warning
        log("%s: %s; %d windows or more wait on disk, trying again", self.url, verdict.reason, waiting)

    def _halve(self, waiting: list[Waiting], why: Halve) -> float:
        if len(waiting) > 1:
            self._size = len(waiting) // 2
        else:
            LOG.error("%s: window refused for good: %s", self.url, why.detail)
            self._spool.refused(waiting[0].seq, why.code, self._now())
            self._size = FEW_WINDOWS
        return 0.0


def _apart(ahead_ns: int) -> str:
    """What two clocks that differ lead to, and the mend."""
    if ahead_ns > 0:
        far, so = "ahead of", "windows wait on disk until they are due there"
    else:
        far, so = "behind", "windows are stored under the wrong time"
    return f"the clock of this server is {ns_to_s(abs(ahead_ns)):.0f} s {far} the collector's, so {so}; set it right"


def phase_of(server: str, step_s: float) -> float:
    """How long after a window this server sends it: servers close theirs at one instant, and must not send as one.

    It follows from the name, so that a server's windows come evenly.
    """
    return crc32(server.encode()) / 2**32 * min(step_s * LATEST_PART, LATEST_S)


def keep_sending(
    uplink: Uplink, stop: threading.Event, wake: threading.Event, phase_s: float = 0.0, idle_s: float = 15.0
) -> None:
    """Send whatever waits until told to stop; `wake` says that there is something new, which is sent a phase later."""
    while not stop.is_set():
        try:
            wait_s = uplink.send_once()
        except SpoolUnavailable as error:
            LOG.error("%s", error)
            wait_s = idle_s
        if wait_s is None:
            if wake.wait(idle_s):
                stop.wait(phase_s)
            wake.clear()
        elif wait_s:
            stop.wait(wait_s)  # a new window does not shorten it: it goes first when the time has come
    uplink.close()
