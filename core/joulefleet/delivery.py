"""What travels between agent and collector: batches of windows one way, answers the other.

A batch is msgpack in one zstd frame (`Content-Type: application/msgpack`, `Content-Encoding: zstd`), or plain JSON.
Its windows stay undecoded until each is looked at, so that a malformed one does not take the others with it.

Windows of one server repeat what it declares. So on a stream the first batch that is not large is the base of the
later ones: a message that begins with AFTER_BASE goes on with a zstd frame whose prefix is that batch's plain bytes.
Each window is whole all the same; only its way is shorter.
"""

import msgspec
import zstandard

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Largest batch after decompression."""
MAX_WIRE_BYTES = 1024 * 1024
SMALL_BATCH_BYTES = 16 * 1024
"""On the wire: opening it costs less than handing it to a thread."""
MSGPACK_TYPE = "application/msgpack"
JSON_TYPE = "application/json"
BATCH_PATH = "/v1/windows"
STREAM_PATH = "/v1/stream"
"""A WebSocket: each binary message is a batch as above, each text message after the `Hello` an `Answer` in JSON."""
AFTER_BASE = b"\x01"
"""Begins a message that can only be opened after the base of its stream; a zstd frame begins otherwise."""
MAX_BASE_BYTES = 64 * 1024
"""Of a batch that is a base, before compression."""
BASE_LEVEL = 12
"""Of zstd, for what follows a base and is not large: a fifth smaller than at level 3, and a third of a millisecond."""
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


_BATCH = msgspec.msgpack.Decoder(Batch)


class TooLarge(ValueError):
    """A batch that is larger than allowed, before or after decompression."""


class Malformed(ValueError):
    """Bytes that are no batch."""


def plain(windows: list[bytes], batch_id: int = 0, backfill: bool = False) -> bytes:
    """Encoded windows as a batch in msgpack."""
    return msgspec.msgpack.encode(Batch(id=batch_id, backfill=backfill, windows=[msgspec.Raw(one) for one in windows]))


def packed(batch: bytes) -> bytes:
    """A plain batch as one zstd frame that states its size."""
    return zstandard.ZstdCompressor(level=1).compress(batch)


def pack(windows: list[bytes], batch_id: int = 0, backfill: bool = False) -> bytes:
    """Encoded windows as a batch that is ready for a request."""
    return packed(plain(windows, batch_id, backfill))


class StreamPacker:
    """Packs the batches of one stream, in the order in which they are sent."""

    def __init__(self) -> None:
        self._base: zstandard.ZstdCompressionDict | None = None

    def pack(self, batch: bytes) -> bytes:
        """A plain batch as a message."""
        is_small = len(batch) <= MAX_BASE_BYTES
        if self._base is not None:
            level = BASE_LEVEL if is_small else 1
            return AFTER_BASE + zstandard.ZstdCompressor(level=level, dict_data=self._base).compress(batch)
        if is_small:
            self._base = zstandard.ZstdCompressionDict(batch, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        return packed(batch)


class Opener:
    """Opens batches, with memory that is used again; one thread at a time may use it."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=MAX_BATCH_BYTES)

    def open(self, body: bytes, base: bytes = b"") -> bytes:
        """The plain batch in a zstd frame, which may follow a base.

        Raises TooLarge before anything is decompressed, Malformed where the bytes are no frame.
        """
        try:
            _check_frame(body)
            # What follows the frame would be windows that are answered for and lost: it is refused.
            if not base:
                return self._zstd.decompress(body, allow_extra_data=False)
            if _frame_end(body) != len(body):
                raise Malformed("not a batch: something follows the zstd frame")
            return self._zstd.decompress_content_dict_chain([base, body])
        except zstandard.ZstdError as error:
            # What is left of a broken frame, or of its base, must not be seen by the next one.
            self._zstd = zstandard.ZstdDecompressor(max_window_size=MAX_BATCH_BYTES)
            raise Malformed(f"not a batch: {error}") from error


class StreamOpener:
    """Opens the messages of one stream in the order in which they came."""

    def __init__(self) -> None:
        self._base = b""

    def open(self, body: bytes, opener: Opener) -> Batch:
        """A batch. Raises as `unpack`."""
        if not body.startswith(AFTER_BASE):
            batch = opener.open(body)
            if not self._base and len(batch) <= MAX_BASE_BYTES:
                self._base = body
            return unplain(batch)
        if not self._base:
            raise Malformed("not a batch: it follows a base, and this stream has none")
        return unplain(opener.open(body[len(AFTER_BASE) :], self._base))


def _check_frame(body: bytes) -> None:
    stated = zstandard.get_frame_parameters(body).content_size
    if stated == zstandard.CONTENTSIZE_UNKNOWN:
        raise Malformed("the zstd frame does not state its size")
    if stated > MAX_BATCH_BYTES:
        raise TooLarge(f"{stated} bytes after decompression; at most {MAX_BATCH_BYTES} are taken")


def _frame_end(body: bytes) -> int:
    """Where a zstd frame ends (RFC 8878, 3.1.1): after its last block, of which each tells its length."""
    place, last = zstandard.frame_header_size(body), False
    while not last and place < len(body):
        told = int.from_bytes(body[place : place + 3], "little")
        last, is_one_byte = bool(told & 1), told >> 1 & 3 == 1
        place += 3 + (1 if is_one_byte else told >> 3)
    return place + (4 if zstandard.get_frame_parameters(body).has_checksum else 0)


def unplain(batch: bytes) -> Batch:
    """A batch from msgpack. Raises Malformed."""
    try:
        return _BATCH.decode(batch)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"not a batch: {error}") from error


def unpack(body: bytes, opener: Opener | None = None) -> Batch:
    """A batch from one zstd frame.

    Raises TooLarge before anything is decompressed, Malformed where the bytes are no batch.
    """
    return unplain((opener or Opener()).open(body))


def unpack_json(body: bytes) -> Batch:
    """A batch from plain JSON. Raises TooLarge or Malformed."""
    if len(body) > MAX_BATCH_BYTES:
        raise TooLarge(f"{len(body)} bytes; at most {MAX_BATCH_BYTES} are taken")
    try:
        return msgspec.json.decode(body, type=Batch)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"not a batch: {error}") from error
