"""Ways to a collector: a stream that stays open, and a request for each batch where there is no stream.

A link gives a batch over and says what the collector answered; it never raises for what the other end does.
"""

import http.client
import logging
import random
import ssl
from contextlib import ExitStack
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from joulefleet.delivery import BATCH_PATH, GOODBYE, MSGPACK_TYPE, STREAM_PATH, Answer, Hello, StreamPacker, packed
from joulefleet_agent.offset import Offsets
from joulefleet_agent.reply import Verdict, Wait, backoff, judge

TIMEOUT_S = 30.0
LONGEST_ANSWER = 4 * 1024 * 1024
PING_S = 20.0
_SILENT = logging.getLogger(f"{__name__}.websockets")
"""What the library would log with a traceback is told here as a verdict."""
_SILENT.setLevel(logging.CRITICAL)
TAKEN_SERIOUSLY = (401, 403, 429, 503)
"""Answers to a handshake that are a collector's own; any other means that there is no stream on this way."""


class Link(Protocol):
    """One way to one collector."""

    url: str

    def exchange(self, batch: bytes, attempt: int) -> Verdict:
        """Give one plain batch over; `attempt` counts failures in a row from 0."""
        ...

    def close(self) -> None:
        """Let the connection go; the next exchange opens it again."""
        ...


class NoStream(Exception):
    """What answers knows no stream: a proxy without WebSocket, or an older collector."""


class PostLink:
    """A request for each batch, on a connection that is kept."""

    def __init__(self, url: str, chance: random.Random, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self.url = url
        self._target = urlsplit(url)
        self._chance = chance
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None
        self._headers = {"Content-Type": MSGPACK_TYPE, "Content-Encoding": "zstd", "Accept": "application/json"}
        self._headers |= _authorization(token)

    def exchange(self, batch: bytes, attempt: int) -> Verdict:
        """POST it; once more on a new connection where a kept one had been let go by the other end."""
        kept = self._connection is not None
        try:
            return self._post(packed(batch), attempt)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if kept:
                return self.exchange(batch, attempt)
            return Wait(backoff(attempt, self._chance), _not_reached(error))

    def close(self) -> None:
        """Let the connection go."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, body: bytes, attempt: int) -> Verdict:
        connection = self._connection or self._connect()
        connection.request("POST", self._target.path.rstrip("/") + BATCH_PATH, body, self._headers)
        response = connection.getresponse()
        answer = response.read(LONGEST_ANSWER)
        if response.length:
            raise http.client.IncompleteRead(answer, response.length)
        if response.will_close or not response.isclosed():
            self.close()
        return judge(response.status, answer, response.getheader("Retry-After"), attempt, self._chance)

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._target.hostname or "", self._target.port
        if self._target.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        return self._connection


class StreamLink:
    """One WebSocket, on which a batch is answered before the next is sent: never more unanswered than any credit.

    Clocks are compared in `offsets` when it opens.
    """

    def __init__(
        self,
        url: str,
        chance: random.Random,
        token: str = "",
        timeout_s: float = TIMEOUT_S,
        offsets: Offsets | None = None,
    ) -> None:
        self.url = url
        self._address = "ws" + url.removeprefix("http").rstrip("/") + STREAM_PATH
        self._chance = chance
        self._timeout_s = timeout_s
        self._headers = _authorization(token)
        self._offsets = offsets
        self._stream: ClientConnection | None = None
        self._packer = StreamPacker()
        self._open = ExitStack()

    def exchange(self, batch: bytes, attempt: int) -> Verdict:
        """Send it and wait for its answer. Raises NoStream."""
        try:
            stream = self._stream or self._connect()
            stream.send(self._packer.pack(batch))
            answer = msgspec.json.decode(stream.recv(timeout=self._timeout_s), type=Answer)
            return judge(answer.status, msgspec.json.encode(answer), None, attempt, self._chance)
        except InvalidStatus as error:
            response = error.response
            if response.status_code not in TAKEN_SERIOUSLY:
                raise NoStream(f"{self.url}: HTTP {response.status_code}") from error
            later = response.headers.get("Retry-After")
            return judge(response.status_code, bytes(response.body or b""), later, attempt, self._chance)
        except ConnectionClosed as error:
            self.close()
            return self._after_goodbye(error, attempt)
        except (msgspec.DecodeError, InvalidMessage) as error:
            self.close()
            if isinstance(error.__cause__, EOFError):
                return Wait(backoff(attempt, self._chance), "not reached: the connection was cut while it was opened")
            raise NoStream(f"{self.url}: what answers is no collector's stream") from error
        except (OSError, WebSocketException) as error:
            self.close()
            return Wait(backoff(attempt, self._chance), _not_reached(error))

    def close(self) -> None:
        """Let the stream go."""
        self._stream = None
        self._open.close()

    def _connect(self) -> ClientConnection:
        asked_ns = self._offsets.now_ns() if self._offsets else 0
        stream = self._open.enter_context(
            connect(
                self._address,
                additional_headers=self._headers,
                compression=None,
                open_timeout=self._timeout_s,
                close_timeout=1,
                ping_interval=PING_S,
                max_size=LONGEST_ANSWER,
                proxy=None,
                logger=_SILENT,
            )
        )
        hello = msgspec.json.decode(stream.recv(timeout=self._timeout_s), type=Hello)
        if self._offsets:
            self._offsets.compare(asked_ns, hello.now_ns)
        self._stream, self._packer = stream, StreamPacker()
        return stream

    def _after_goodbye(self, closed: ConnectionClosed, attempt: int) -> Verdict:
        """A collector that says goodbye names the seconds over which its agents shall return."""
        reason = closed.rcvd.reason if closed.rcvd else ""
        seconds = reason.removeprefix(GOODBYE)
        if reason.startswith(GOODBYE) and seconds.isdecimal():
            return Wait(self._chance.uniform(0, min(int(seconds), 3_600)), "the collector said goodbye", quiet=True)
        return Wait(backoff(attempt, self._chance), f"the stream was cut: {reason or 'without a reason'}")


class BestLink:
    """The stream, or POST where there is none on this way; the stream is tried again after a while."""

    STREAM_AGAIN_AFTER = 1_000
    """Exchanges by POST before the stream is tried again."""

    def __init__(self, stream: StreamLink, post: PostLink) -> None:
        self.url = post.url
        self._stream = stream
        self._post = post
        self._posts_left = 0

    def exchange(self, batch: bytes, attempt: int) -> Verdict:
        """By stream, else by POST."""
        if self._posts_left == 0:
            try:
                return self._stream.exchange(batch, attempt)
            except NoStream:
                self._posts_left = self.STREAM_AGAIN_AFTER
        self._posts_left -= 1
        return self._post.exchange(batch, attempt)

    def close(self) -> None:
        """Let both go."""
        self._stream.close()
        self._post.close()


def best_link(url: str, chance: random.Random, token: str = "", offsets: Offsets | None = None) -> BestLink:
    """The way to this collector that a live agent takes."""
    return BestLink(StreamLink(url, chance, token, offsets=offsets), PostLink(url, chance, token))


def _authorization(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _not_reached(error: Exception) -> str:
    return f"not reached: {str(error) or type(error).__name__}"
