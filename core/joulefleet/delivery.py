"""What travels between agent and collector: batches of windows one way, answers the other.

A batch is msgpack in one zstd frame (`Content-Type: application/msgpack`, `Content-Encoding: zstd`), or plain JSON.
Its windows stay undecoded until each is looked at, so that a malformed one does not take the others with it.
"""

import msgspec
import zstandard

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Largest batch after decompression."""
MAX_WIRE_BYTES = 1024 * 1024
MSGPACK_TYPE = "application/msgpack"
JSON_TYPE = "application/json"
BATCH_PATH = "/v1/windows"
STREAM_PATH = "/v1/stream"
"""A WebSocket: each binary message is a batch as above, each text message after the `Hello` an `Answer` in JSON."""
GOODBYE = "goodbye "
"""Begins the reason of the close frame with which a collector ends a stream; the seconds follow over which its agents
shall spread their return."""


class Batch(msgspec.Struct, kw_only=True):
    """Windows of one agent, not yet decoded. `backfill` declares that they may be old."""

    id: int = 0
    backfill: bool = False
    windows: list[msgspec.Raw]


class Rejected(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A window that was not taken, by its place in the batch."""

    index: int
    code: str
    """`malformed`, `wrong_schema`, `too_old`: never acceptable; `too_early`: to be sent again when it is due."""
    start_ns: int | None = None
    detail: str = ""


class Answer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The collector's answer, given after the store has committed."""

    id: int = 0
    status: int = 200
    rejected: list[Rejected] = []
    store_epoch: str = ""
    """Identity of the store's life: when it changes, younger windows are sent again."""
    now_ns: int = 0
    """The collector's clock, for `too_early`."""
    error: str = ""


class Hello(msgspec.Struct, kw_only=True):
    """The collector's first message on a stream."""

    credit: int
    """How many batches may be unanswered."""
    store_epoch: str
    now_ns: int


class TooLarge(ValueError):
    """A batch that is larger than allowed, before or after decompression."""


class Malformed(ValueError):
    """Bytes that are no batch."""


def pack(windows: list[bytes], batch_id: int = 0, backfill: bool = False) -> bytes:
    """Encoded windows as one zstd frame that states its size."""
    batch = Batch(id=batch_id, backfill=backfill, windows=[msgspec.Raw(window) for window in windows])
    return zstandard.ZstdCompressor(level=1).compress(msgspec.msgpack.encode(batch))


def unpack(body: bytes) -> Batch:
    """A batch from one zstd frame.

    Raises TooLarge before anything is decompressed, Malformed where the bytes are no batch.
    """
    try:
        stated = zstandard.get_frame_parameters(body).content_size
        if stated == zstandard.CONTENTSIZE_UNKNOWN:
            raise Malformed("the zstd frame does not state its size")
        if stated > MAX_BATCH_BYTES:
            raise TooLarge(f"{stated} bytes after decompression; at most {MAX_BATCH_BYTES} are taken")
        # What follows the frame would be windows that are answered for and lost: it is refused.
        plain = zstandard.ZstdDecompressor(max_window_size=MAX_BATCH_BYTES).decompress(body, allow_extra_data=False)
        return msgspec.msgpack.decode(plain, type=Batch)
    except (zstandard.ZstdError, msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"not a batch: {error}") from error


def unpack_json(body: bytes) -> Batch:
    """A batch from plain JSON. Raises TooLarge or Malformed."""
    if len(body) > MAX_BATCH_BYTES:
        raise TooLarge(f"{len(body)} bytes; at most {MAX_BATCH_BYTES} are taken")
    try:
        return msgspec.json.decode(body, type=Batch)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"not a batch: {error}") from error
