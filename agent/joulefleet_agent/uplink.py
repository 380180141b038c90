"""Sends waiting windows to a collector until its store has them."""

import http.client
import logging
import random
import ssl
import threading
from pathlib import Path
from urllib.parse import urlsplit

from joulefleet.delivery import BATCH_PATH, MSGPACK_TYPE, pack
from joulefleet.units import NS_PER_S
from joulefleet_agent.clock import NowNs
from joulefleet_agent.reply import NEVER, Delivered, Halve, Verdict, Wait, backoff, due_ns, judge
from joulefleet_agent.spool import Spool, SpoolUnavailable, Waiting

LOG = logging.getLogger(__name__)
BATCH_WINDOWS = 256
BATCH_BYTES = 4 * 1024 * 1024
TIMEOUT_S = 30.0
LONGEST_ANSWER = 4 * 1024 * 1024


class Uplink:
    """One agent's way to one collector. Raises SpoolUnavailable; what the collector does is answered, not raised."""

    def __init__(self, url: str, spool: Spool, now: NowNs, chance: random.Random, token: str = "") -> None:
        self.url = url
        self._target = urlsplit(url)
        self._spool = spool
        self._now = now
        self._chance = chance
        self._token = token
        self._connection: http.client.HTTPConnection | None = None
        self._limit = BATCH_WINDOWS
        self._failures = 0
        self._store_epoch = ""
        self._said = ""
        self.backfill = False

    def send_once(self) -> float | None:
        """Send one batch. Returns seconds to wait before the next, 0 if there may be more, None if none waits."""
        waiting = self._spool.waiting(self._limit, self._now(), BATCH_BYTES)
        if not waiting:
            return None
        verdict = self._post(pack([one.body for one in waiting], backfill=self.backfill))
        match verdict:
            case Delivered():
                self._take(waiting, verdict)
                return 0.0
            case Halve():
                return self._halve(waiting, verdict)
            case Wait():
                self._failures += 1
                self._say(verdict, len(waiting))
                return verdict.seconds

    def close(self) -> None:
        """Let the connection go."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _take(self, waiting: list[Waiting], told: Delivered) -> None:
        if self._failures:
            LOG.info("%s: reached again after %d tries", self.url, self._failures)
        self._failures, self._limit, self._said = 0, BATCH_WINDOWS, ""
        rejected = {one.index: one for one in told.rejected if 0 <= one.index < len(waiting)}
        now_ns = self._now()
        self._spool.stored([one.seq for k, one in enumerate(waiting) if k not in rejected], now_ns)
        for k, why in rejected.items():
            if why.code in NEVER:
                LOG.error("%s: window refused for good: %s %s", self.url, why.code, why.detail)
                self._spool.refused(waiting[k].seq, why.code, now_ns)
            else:
                self._spool.postpone(waiting[k].seq, due_ns(why.code, waiting[k].start_ns, told.now_ns, now_ns))
        self._follow_store(told.store_epoch, now_ns)

    def _follow_store(self, epoch: str, now_ns: int) -> None:
        if self._store_epoch and epoch != self._store_epoch:
            again = self._spool.send_again(now_ns - round(self._spool.bounds.keep_after_ack_s * NS_PER_S))
            LOG.warning("%s: the store began a new life; %d windows are sent again", self.url, again)
        self._store_epoch = epoch

    def _say(self, verdict: Wait, waiting: int) -> None:
        """Log a reason once, not at every try."""
        if verdict.reason == self._said:
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

    def _post(self, body: bytes) -> Verdict:
        headers = {"Content-Type": MSGPACK_TYPE, "Content-Encoding": "zstd", "Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            connection = self._connection or self._connect()
            connection.request("POST", self._target.path.rstrip("/") + BATCH_PATH, body, headers)
            response = connection.getresponse()
            answer = response.read(LONGEST_ANSWER)
            if response.will_close:
                self.close()
            return judge(response.status, answer, response.getheader("Retry-After"), self._failures, self._chance)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return Wait(backoff(self._failures, self._chance), f"not reached: {error or type(error).__name__}")

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._target.hostname or "", self._target.port
        if self._target.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        return self._connection


def keep_sending(uplink: Uplink, stop: threading.Event, wake: threading.Event, idle_s: float = 5.0) -> None:
    """Send whatever waits until told to stop; `wake` says that there may be something new."""
    while not stop.is_set():
        try:
            wait_s = uplink.send_once()
        except SpoolUnavailable as error:
            LOG.error("%s", error)
            wait_s = idle_s
        if wait_s is None:
            wake.wait(idle_s)
            wake.clear()
        elif wait_s:
            stop.wait(wait_s)
    uplink.close()


def read_token(path: Path) -> str:
    """The agent's token, from a file that only it can read."""
    return path.read_text(encoding="ascii").strip()
