"""Batches between agent and collector: what is packed comes out, what is none or too large is refused unopened."""

import tracemalloc
from contextlib import suppress

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.delivery import (
    AFTER_BASE,
    MAX_BASE_BYTES,
    MAX_BATCH_BYTES,
    Answer,
    Malformed,
    Opener,
    Rejected,
    StreamOpener,
    StreamPacker,
    TooLarge,
    pack,
    plain,
    unpack,
    unpack_json,
)
from joulefleet.window import Window, decode, decode_json

WINDOW = Window(server="s", timeline=7, start_ns=0, step_ns=10**10)
BOMB_BYTES = 64 * 1024 * 1024


def frame(content: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(level=1, **options).compress(content)


def restated(body: bytes, stated: int) -> bytes:
    """The same frame with another size in its head (RFC 8878, 3.1.1.1.1 and 3.1.1.1.4)."""
    length = (0, 2, 4, 8)[body[4] >> 6]
    at = 5 if body[4] & 0x20 else 6
    size = (stated - 256 if length == 2 else stated).to_bytes(length, "little")
    changed = body[:at] + size + body[at + length :]
    assert zstandard.get_frame_parameters(changed).content_size == stated
    return changed


@given(st.lists(st.integers(0, 2**40), max_size=5), st.integers(0, 2**63), st.booleans())
def test_what_is_packed_comes_out(starts_ns: list[int], batch_id: int, backfill: bool) -> None:
    windows = [msgspec.structs.replace(WINDOW, start_ns=start_ns) for start_ns in starts_ns]
    batch = unpack(pack([window.encode() for window in windows], batch_id, backfill))
    assert (batch.id, batch.backfill) == (batch_id, backfill)
    assert [decode(body) for body in batch.windows] == windows


def test_a_batch_in_json() -> None:
    batch = unpack_json(b'{"id": 3, "windows": [' + WINDOW.encode_json() + b"]}")
    assert batch.id == 3
    assert [decode_json(body) for body in batch.windows] == [WINDOW]


def test_a_malformed_window_leaves_the_others_readable() -> None:
    batch = unpack(pack([WINDOW.encode(), msgspec.msgpack.encode(["none"]), WINDOW.encode()]))
    assert decode(batch.windows[0]) == decode(batch.windows[2]) == WINDOW
    with pytest.raises(msgspec.ValidationError):
        decode(batch.windows[1])


@pytest.mark.parametrize("stated", [BOMB_BYTES, MAX_BATCH_BYTES, 1000])
def test_a_bomb_is_refused_before_it_is_opened(stated: int) -> None:
    bomb = restated(frame(bytes(BOMB_BYTES)), stated)
    assert len(bomb) < 20_000
    tracemalloc.start()
    with pytest.raises(TooLarge if stated > MAX_BATCH_BYTES else Malformed):
        unpack(bomb)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < stated + 100_000 if stated <= MAX_BATCH_BYTES else peak_bytes < 100_000


def test_the_largest_batch_is_taken_and_one_byte_more_is_not() -> None:
    empty = len(msgspec.msgpack.encode({"id": 0, "backfill": False, "windows": [bytes(2**20)]})) - 2**20
    fitting = msgspec.msgpack.encode(bytes(MAX_BATCH_BYTES - empty))
    assert len(unpack(pack([fitting])).windows) == 1
    with pytest.raises(TooLarge):
        unpack(pack([msgspec.msgpack.encode(bytes(MAX_BATCH_BYTES - empty + 1))]))


def test_a_frame_that_does_not_state_its_size_is_refused() -> None:
    plain = msgspec.msgpack.encode({"windows": []})
    assert unpack(frame(plain)).windows == []
    with pytest.raises(Malformed, match="does not state its size"):
        unpack(frame(plain, write_content_size=False))


@pytest.mark.parametrize("stated", [256, 300, 4999, 5001, 65791])
def test_a_frame_that_lies_about_its_size_is_refused(stated: int) -> None:
    body = pack([msgspec.msgpack.encode(bytes(range(250)) * 19 + bytes(223))])
    assert zstandard.get_frame_parameters(body).content_size == 5000
    assert len(unpack(restated(body, 5000)).windows) == 1
    with pytest.raises(Malformed):
        unpack(restated(body, stated))


def test_nothing_may_follow_the_frame() -> None:
    with pytest.raises(Malformed):
        unpack(pack([WINDOW.encode()]) + pack([WINDOW.encode()]))


@given(st.data())
def test_a_batch_that_is_cut_off(data: st.DataObject) -> None:
    body = pack([WINDOW.encode()] * 3)
    with pytest.raises(Malformed):
        unpack(body[: data.draw(st.integers(0, len(body) - 1))])


@given(st.binary(max_size=60))
def test_any_bytes_are_malformed(body: bytes) -> None:
    for opened in (unpack, unpack_json):
        with pytest.raises(Malformed):
            opened(body)
    with pytest.raises(Malformed):
        unpack(frame(body))


@pytest.mark.parametrize("plain", [b"\x91" * 100_000, msgspec.msgpack.encode({"windows": 3}), b""])
def test_frames_that_hold_no_batch(plain: bytes) -> None:
    with pytest.raises(Malformed):
        unpack(frame(plain))


def test_json_that_is_too_large_or_too_deep() -> None:
    with pytest.raises(TooLarge):
        unpack_json(b" " * (MAX_BATCH_BYTES + 1))
    with pytest.raises(Malformed):
        unpack_json(b'{"windows":' + b"[" * 100_000)


def test_an_answer_comes_back_as_it_was() -> None:
    answer = Answer(
        id=2**53 + 1,
        rejected=[Rejected(index=0, code="too_early", start_ns=10**18), Rejected(index=2, code="malformed")],
        store_epoch="e",
        now_ns=1_700_000_000 * 10**9,
    )
    assert msgspec.json.decode(msgspec.json.encode(answer), type=Answer) == answer
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=Answer) == answer


LARGE = bytes(range(256)) * (MAX_BASE_BYTES // 256 + 1)


@given(st.lists(st.binary(max_size=300) | st.just(LARGE), max_size=6))
def test_what_is_packed_on_a_stream_comes_out_in_its_order(contents: list[bytes]) -> None:
    packer, opened, opener = StreamPacker(), StreamOpener(), Opener()
    for number, content in enumerate(contents):
        message = packer.pack(plain([msgspec.msgpack.encode(content)], number))
        batch = opened.open(message, opener)
        assert (batch.id, [msgspec.msgpack.decode(one) for one in batch.windows]) == (number, [content])


def test_a_batch_that_repeats_the_base_is_short_and_a_large_one_is_no_base() -> None:
    packer = StreamPacker()
    told = plain([msgspec.structs.replace(WINDOW, facts={"told": LARGE[:2_000].hex()[:250]}).encode()])
    assert not packer.pack(plain([LARGE])).startswith(AFTER_BASE)
    whole, after = packer.pack(told), packer.pack(told)
    assert not whole.startswith(AFTER_BASE)
    assert after.startswith(AFTER_BASE)
    assert len(after) < len(whole) / 2


def after_base() -> tuple[StreamOpener, bytes, bytes]:
    """A stream that has its base, and two good messages after it."""
    packer, opened = StreamPacker(), StreamOpener()
    first, *rest = [packer.pack(plain([WINDOW.encode()], number)) for number in range(3)]
    opened.open(first, Opener())
    return opened, *rest


def test_a_message_without_its_base_is_refused() -> None:
    _, message, _ = after_base()
    with pytest.raises(Malformed, match="this stream has none"):
        StreamOpener().open(message, Opener())


def test_what_follows_a_frame_after_the_base_is_refused() -> None:
    opened, message, other = after_base()
    for trailing in (b"x", message, other[1:]):
        with pytest.raises(Malformed, match="something follows"):
            opened.open(message + trailing, Opener())


@given(st.data())
def test_a_harmed_message_harms_no_other(data: st.DataObject) -> None:
    opened, message, other = after_base()
    opener = Opener()
    at, value = data.draw(st.integers(0, len(message) - 1)), data.draw(st.integers(0, 255))
    for harmed in (message[:at], message[:at] + bytes([value]) + message[at + 1 :]):
        with suppress(Malformed, TooLarge):
            opened.open(harmed, opener)
        assert opened.open(other, opener).id == 2


def test_a_message_that_would_be_too_large_is_refused_unopened() -> None:
    opened, _, _ = after_base()
    with pytest.raises(TooLarge):
        opened.open(AFTER_BASE + restated(frame(b"x" * 70_000), MAX_BATCH_BYTES + 1), Opener())
