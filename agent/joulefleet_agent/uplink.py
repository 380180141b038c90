"""Sends waiting windows to a collector until its store has them.

A live agent sends the newest first: after an outage what is happening now is seen at once, and the backlog follows at a
bounded rate. A replay sends the oldest first, as fast as it goes, and declares a backfill. Several collectors are tried
in turn.
"""

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from zlib import crc32

from joulefleet.delivery import Rejected, plain
from joulefleet.units import NS_PER_S, ns_to_s
from joulefleet_agent.clock import NowNs
from joulefleet_agent.link import Link
from joulefleet_agent.offset import Offsets
from joulefleet_agent.reply import NEVER, Delivered, Halve, Wait, due_ns
from joulefleet_agent.spool import Spool, SpoolUnavailable, Waiting

LOG = logging.getLogger(__name__)
BATCH_WINDOWS = 256
BATCH_BYTES = 4 * 1024 * 1024
BACKLOG_WINDOWS_PER_S = 500
LATEST_PART, LATEST_S = 0.2, 10.0
"""A window is sent within so much of its step after it closed, and within so many seconds."""
APART_NS = 60 * NS_PER_S
"""Clocks that differ by more are told: as far ahead as a collector takes a window."""


class Uplink:
    """Takes windows from the spool to the collectors. Raises SpoolUnavailable; what a collector does is no error."""

    def __init__(
        self, links: Sequence[Link], spool: Spool, now: NowNs, *, live: bool = True, offsets: Offsets | None = None
    ) -> None:
        self._links = links
        self._turn = 0
        self._spool = spool
        self._now = now
        self._offsets = offsets or Offsets(now)
        self._live = live
        self._limit = BATCH_WINDOWS
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
        waiting = self._spool.waiting(self._limit, self._now(), BATCH_BYTES, newest_first=self._live)
        if not waiting:
            return None
        self._batch_id += 1
        batch = plain([one.body for one in waiting], self._batch_id, backfill=not self._live)
        asked_ns = self._offsets.now_ns()
        verdict = self._links[self._turn].exchange(batch, self._failures)
        match verdict:
            case Delivered():
                self._offsets.compare(asked_ns, verdict.now_ns)
                self._take(waiting, verdict)
                return self._pause(len(waiting))
            case Halve():
                return self._halve(waiting, verdict)
            case Wait():
                self._failures += 0 if verdict.quiet else 1
                self._say(verdict, len(waiting))
                self._turn = (self._turn + 1) % len(self._links)
                return verdict.seconds

    def close(self) -> None:
        """Let all connections go."""
        for link in self._links:
            link.close()

    def _pause(self, sent: int) -> float:
        """A live agent sends its backlog at a bounded rate: a fleet that comes back must leave room for what is new."""
        return sent / BACKLOG_WINDOWS_PER_S if self._live and sent >= self._limit else 0.0

    def _take(self, waiting: list[Waiting], told: Delivered) -> None:
        if self._failures:
            LOG.info("%s: reached again after %d tries", self.url, self._failures)
        self._failures, self._limit, self._said = 0, BATCH_WINDOWS, ""
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
            self._limit = max(len(waiting) // 2, 1)
        else:
            LOG.error("%s: window refused for good: %s", self.url, why.detail)
            self._spool.refused(waiting[0].seq, why.code, self._now())
            self._limit = BATCH_WINDOWS
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
