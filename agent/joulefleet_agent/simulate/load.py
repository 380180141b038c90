"""Sends ready windows to a collector at a given rate over several connections, and counts what it says of them.

Bounded: a few batches wait at most, so that a slow collector slows the simulation down. A batch that was not stored is
sent again until it is; nothing is kept on disk, so that stopping this loses what was not sent.
"""

import http.client
import queue
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

import msgspec

from joulefleet.delivery import BATCH_PATH, MSGPACK_TYPE, pack
from joulefleet_agent.reply import Delivered, Verdict, Wait, backoff, judge

TIMEOUT_S = 30.0
PATIENCE_S = 60.0
"""How long a collector may take nothing before this gives up."""
LONGEST_WAIT_S = 5.0
WAITING_EACH = 2
"""Batches that wait for each connection."""
POLL_S = 0.2
MADE_UP_S = 1.0

Clock = Callable[[], float]
Sleep = Callable[[float], None]
Batch = list[bytes]
"""Encoded windows of one server."""


class Silent(Exception):
    """The collector stored nothing for too long, or cannot be one."""


class Sent(msgspec.Struct):
    """What became of the windows."""

    windows: int = 0
    """Stored, in the collector's own words."""
    wire_bytes: int = 0
    refused: dict[str, int] = {}
    """By code."""


class Connection:
    """One connection to a collector, which sends one batch at a time."""

    def __init__(self, url: str, clock: Clock = time.monotonic, sleep: Sleep = time.sleep) -> None:
        self._target = urlsplit(url)
        self._url = url
        self._clock = clock
        self._sleep = sleep
        self._chance = random.SystemRandom()
        self._open: http.client.HTTPConnection | None = None
        self.sent = Sent()

    def send(self, batch: Batch) -> None:
        """Send until it is stored or refused. Raises Silent."""
        since_s, attempt = self._clock(), 0
        while isinstance(verdict := self._post(batch, attempt), Wait):
            attempt += 1
            if self._clock() - since_s > PATIENCE_S:
                raise Silent(f"{self._url}: {verdict.reason}; nothing was stored for {PATIENCE_S:.0f} s")
            self._sleep(min(verdict.seconds, LONGEST_WAIT_S))
        if isinstance(verdict, Delivered):
            self.sent.windows += len(batch) - len(verdict.rejected)
            for one in verdict.rejected:
                self._refuse(one.code)
        elif len(batch) > 1:
            self.send(batch[: len(batch) // 2])
            self.send(batch[len(batch) // 2 :])
        else:
            self._refuse(verdict.code)

    def close(self) -> None:
        """Let the connection go."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _refuse(self, code: str) -> None:
        self.sent.refused[code] = self.sent.refused.get(code, 0) + 1

    def _post(self, batch: Batch, attempt: int) -> Verdict:
        body = pack(batch, backfill=True)
        self.sent.wire_bytes += len(body)
        headers = {"Content-Type": MSGPACK_TYPE, "Content-Encoding": "zstd", "Accept": "application/json"}
        try:
            connection = self._open or self._connect()
            connection.request("POST", self._target.path.rstrip("/") + BATCH_PATH, body, headers)
            response = connection.getresponse()
            answer = response.read()
            if response.will_close:
                self.close()
            return judge(response.status, answer, response.getheader("Retry-After"), attempt, self._chance)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return Wait(backoff(attempt, self._chance), f"not reached: {str(error) or type(error).__name__}")

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._target.hostname or "", self._target.port
        if self._target.scheme == "https":
            context = ssl.create_default_context()
            self._open = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
        else:
            self._open = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        return self._open


class Pace:
    """Lets things through at a rate; of time that was lost, at most a second is made up for."""

    def __init__(self, per_s: float | None, clock: Clock = time.monotonic, sleep: Sleep = time.sleep) -> None:
        self._per_s = per_s
        self._clock = clock
        self._sleep = sleep
        self._due_s: float | None = None

    def let(self, number: int) -> None:
        """Wait until so many more may go."""
        if self._per_s is None:
            return
        now_s = self._clock()
        due_s = now_s if self._due_s is None else max(self._due_s, now_s - MADE_UP_S)
        if due_s > now_s:
            self._sleep(due_s - now_s)
        self._due_s = due_s + number / self._per_s


class _Sender(threading.Thread):
    """One connection with its thread."""

    def __init__(self, connection: Connection, waiting: "queue.Queue[Batch | None]", stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._connection = connection
        self._waiting = waiting
        self._stop_all = stop
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                self._connection.send(batch)
        except BaseException as error:  # raised again where the result is awaited
            self.fault = error
            self._stop_all.set()
        finally:
            self._connection.close()

    def _next(self) -> Batch | None:
        """The next batch, or None where there will be none."""
        while not self._stop_all.is_set():
            try:
                return self._waiting.get(timeout=POLL_S)
            except queue.Empty:
                continue
        return None


def send_all(batches: Iterable[Batch], connections: list[Connection], pace: Pace, told: Callable[[Sent], None]) -> Sent:
    """Send every batch over these connections. `told` hears of the sums so far. Raises Silent."""
    waiting: queue.Queue[Batch | None] = queue.Queue(WAITING_EACH * len(connections))
    stop = threading.Event()
    senders = [_Sender(connection, waiting, stop) for connection in connections]
    for sender in senders:
        sender.start()
    for batch in batches:
        pace.let(len(batch))
        if not _put(waiting, batch, stop):
            break
        told(_sum(connections))
    for _ in senders:
        _put(waiting, None, stop)
    for sender in senders:
        sender.join()
    fault = next((sender.fault for sender in senders if sender.fault is not None), None)
    if fault is not None:
        raise fault
    return _sum(connections)


def _put(waiting: "queue.Queue[Batch | None]", batch: Batch | None, stop: threading.Event) -> bool:
    """Whether it found room before something went wrong."""
    while not stop.is_set():
        try:
            waiting.put(batch, timeout=POLL_S)
        except queue.Full:
            continue
        return True
    return False


def _sum(connections: Iterable[Connection]) -> Sent:
    total = Sent()
    for one in connections:
        total.windows += one.sent.windows
        total.wire_bytes += one.sent.wire_bytes
        for code, number in one.sent.refused.items():
            total.refused[code] = total.refused.get(code, 0) + number
    return total
