"""Sends waiting windows to a collector until its store has them."""

import http.client
import logging
import random
import re
import ssl
import threading
from pathlib import Path
from urllib.parse import urlsplit

from joulefleet.config import ConfigError
from joulefleet.delivery import BATCH_PATH, MSGPACK_TYPE, pack
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

    def __init__(  # noqa: PLR0913, PLR0917 # what it stands between
        self,
        url: str,
        spool: Spool,
        now: NowNs,
        chance: random.Random,
        token: str = "",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.url = url
        self._target = urlsplit(url)
        self._spool = spool
        self._now = now
        self._chance = chance
        self._token = token
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None
        self._limit = BATCH_WINDOWS
        self._failures = 0
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
        again = self._spool.follow_store(told.store_epoch, now_ns)
        if again:
            LOG.warning("%s: the store began a new life; %d windows are sent again", self.url, again)
        self._spool.stored([one.seq for k, one in enumerate(waiting) if k not in rejected], now_ns)
        for k, why in rejected.items():
            if why.code in NEVER:
                LOG.error("%s: window refused for good: %s %s", self.url, why.code, why.detail)
                self._spool.refused(waiting[k].seq, why.code, now_ns)
            else:
                self._spool.postpone(waiting[k].seq, due_ns(why.code, waiting[k].start_ns, told.now_ns, now_ns))

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
        kept = self._connection is not None
        try:
            return self._exchange(body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if kept:  # it was idle and let go by the other end; a new connection tells more
                return self._post(body)
            return Wait(backoff(self._failures, self._chance), f"not reached: {str(error) or type(error).__name__}")

    def _exchange(self, body: bytes, headers: dict[str, str]) -> Verdict:
        connection = self._connection or self._connect()
        connection.request("POST", self._target.path.rstrip("/") + BATCH_PATH, body, headers)
        response = connection.getresponse()
        answer = response.read(LONGEST_ANSWER)
        if response.will_close:
            self.close()
        return judge(response.status, answer, response.getheader("Retry-After"), self._failures, self._chance)

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._target.hostname or "", self._target.port
        if self._target.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
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
    """The agent's token, from a file that only it can read. Raises ConfigError; the token is never told."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise ConfigError(str(path), "", f"the token cannot be read: {reason}") from None
    if not re.fullmatch("[!-~]+", token):
        raise ConfigError(str(path), "", "expected a token: one line without blanks")
    return token
