"""The two ways to a collector, as bytes: what a connection opens with, what a batch is on it, where an answer ends."""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import Protocol

from joulefleet.delivery import BATCH_PATH, MSGPACK_TYPE, STREAM_PATH, StreamPacker, packed

_LENGTH = re.compile(rb"(?i)content-length: (\d+)")
_BINARY, _TEXT = 0x82, 0x81


class Way(Protocol):
    """One way, the same for all connections."""

    opening: bytes
    """What is sent first; its answer is `greeted`."""

    def messages(self, batches: Iterable[bytes]) -> Iterator[bytes]:
        """Plain batches of one connection as they go over the wire."""
        ...

    def greeted(self, data: bytes) -> bytes | None:
        """What follows the answer to the opening; None while that is not whole."""
        ...

    def answer(self, data: bytes) -> tuple[bool, bytes] | None:
        """Whether the batch was taken, and what follows its answer; None while that is not whole."""
        ...


class Post:
    """A request for each batch."""

    opening = b""

    def messages(self, batches: Iterable[bytes]) -> Iterator[bytes]:
        """Requests."""
        for batch in batches:
            body = packed(batch)
            head = (
                f"POST {BATCH_PATH} HTTP/1.1\r\nHost: collector\r\nContent-Type: {MSGPACK_TYPE}\r\n"
                f"Content-Encoding: zstd\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            yield head.encode() + body

    def greeted(self, data: bytes) -> bytes | None:
        """Nothing was sent."""
        return data

    def answer(self, data: bytes) -> tuple[bool, bytes] | None:
        """A response."""
        head, _, body = data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not length or len(body) < (size := int(length[1])):
            return None
        return head.startswith(b"HTTP/1.1 200") and _is_good(body[:size]), body[size:]


class Stream:
    """One WebSocket (RFC 6455). Frames are masked with zeros: it costs the load nothing, and the collector as much."""

    opening = (
        f"GET {STREAM_PATH} HTTP/1.1\r\nHost: collector\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {b64encode(bytes(16)).decode()}\r\n\r\n"
    ).encode()

    def messages(self, batches: Iterable[bytes]) -> Iterator[bytes]:
        """Frames."""
        packer = StreamPacker()
        for batch in batches:
            body = packer.pack(batch)
            short = len(body) < 126
            length = bytes([0x80 | len(body)]) if short else bytes([0x80 | 126]) + len(body).to_bytes(2, "big")
            yield bytes([_BINARY]) + length + bytes(4) + body

    def greeted(self, data: bytes) -> bytes | None:
        """The response to the upgrade, and the collector's `Hello`."""
        head, _, rest = data.partition(b"\r\n\r\n")
        frame = _frame(rest)
        assert not head or head.startswith(b"HTTP/1.1 101"), head
        return frame and frame[1]

    def answer(self, data: bytes) -> tuple[bool, bytes] | None:
        """An answer's frame."""
        frame = _frame(data)
        return frame and (b'"status"' not in frame[0] and _is_good(frame[0]), frame[1])


def _is_good(answer: bytes) -> bool:
    return b'"rejected":[{' not in answer


def _frame(data: bytes) -> tuple[bytes, bytes] | None:
    """The content of the first frame of a server, and what follows it."""
    if len(data) < 4:
        return None
    start = 4 if data[1] == 126 else 2
    length = int.from_bytes(data[2:4], "big") if data[1] == 126 else data[1]
    assert data[0] in (_TEXT, _BINARY), "the collector ended the stream"
    return (data[start : start + length], data[start + length :]) if len(data) >= start + length else None


WAYS: dict[str, Way] = {"stream": Stream(), "post": Post()}
