"""The file that `joulefleet agent record` writes: what sources said, raw and in order, readable after a crash.

One zstd stream of entries, each a length in four bytes and that many bytes of msgpack; the first entry says whose
readings these are. The stream is flushed once a second, so that a recording that was killed can be read up to its last
whole entry. SCHEMA rises when an older reader would misread a newer recording.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import zstandard

from joulefleet.describe import Engine, Meter
from joulefleet.gain import Gain
from joulefleet.reading import Failure, MeterReading, Reading, WorkReading
from joulefleet.units import NS_PER_S
from joulefleet_agent.cutter import Identity
from joulefleet_agent.listen import Heard
from joulefleet_agent.sampler import Absent, Event, Gone, MustEnd, Opened, Said

SCHEMA = 1
LENGTH = struct.Struct(">I")
LARGEST = 64 * 1024**2
"""Bytes of one entry; a length above it is no length."""
CHUNK = 64 * 1024
FLUSH_EVERY_NS = NS_PER_S


class BadReadings(Exception):
    """A file that is no recording of readings, or one of another version."""


class Began(msgspec.Struct, frozen=True, kw_only=True):
    """Whose readings a recording holds."""

    schema: int = SCHEMA
    identity: Identity
    step_ns: int
    """Length of this server's windows."""
    gains: tuple[Gain, ...] = ()
    """Calibrations that held; the readings are raw."""


class Telling(msgspec.Struct, frozen=True, array_like=True):
    """One entry: when it was heard, what it is, and the rest by its kind."""

    boot_ns: int
    wall_ns: int
    kind: str
    body: msgspec.Raw


class Declared(msgspec.Struct, frozen=True, array_like=True):
    """A source that was opened."""

    source: str
    meters: tuple[Meter, ...]
    engines: tuple[Engine, ...]


class Readings(msgspec.Struct, frozen=True, array_like=True):
    """What one read gave, each reading behind the name of its kind."""

    source: str
    boot_ns: int
    readings: tuple[tuple[str, msgspec.Raw], ...]


READINGS: dict[str, type[Any]] = {"meter": MeterReading, "work": WorkReading, "failure": Failure}
EVENTS: dict[str, type[Any]] = {
    "opened": Declared,
    "said": Readings,
    "absent": Absent,
    "gone": Gone,
    "must_end": MustEnd,
}


class RecordingWriter:
    """A recording that is being written; a file of this name must not exist yet."""

    def __init__(self, path: Path, began: Began) -> None:
        """Raises OSError."""
        self._file = path.open("xb")
        self._stream = zstandard.ZstdCompressor().stream_writer(self._file, closefd=False)
        self._flushed_ns = 0
        self._put(began)
        self._flush()

    def __enter__(self) -> "RecordingWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush(zstandard.FLUSH_FRAME)
        self._file.close()

    def write(self, heard: Heard) -> None:
        """One more thing that was heard. Raises OSError where the disk refuses it."""
        kind, body = _written(heard.event)
        self._put(Telling(heard.boot_ns, heard.wall_ns, kind, _raw(body)))
        if heard.boot_ns - self._flushed_ns >= FLUSH_EVERY_NS:
            self._flushed_ns = heard.boot_ns
            self._flush()

    @property
    def size(self) -> int:
        """Bytes of the file so far."""
        return self._file.tell()

    def _put(self, entry: object) -> None:
        body = msgspec.msgpack.encode(entry)
        self._stream.write(LENGTH.pack(len(body)) + body)

    def _flush(self) -> None:
        self._stream.flush(zstandard.FLUSH_BLOCK)
        self._file.flush()


class RecordedReadings:
    """A recording that is read."""

    def __init__(self, path: Path) -> None:
        """Raises BadReadings, OSError."""
        self.path = path
        self._entries = _entries(path)
        try:
            self.began = msgspec.msgpack.decode(next(self._entries), type=Began)
        except (StopIteration, msgspec.DecodeError) as error:
            raise BadReadings(f"{path}: not a recording of `joulefleet agent record`") from error
        if self.began.schema != SCHEMA:
            raise BadReadings(f"{path}: written by another version (schema {self.began.schema}, this reads {SCHEMA})")

    def heard(self) -> Iterator[Heard]:
        """All that was heard, in its order, up to the last whole entry. Raises BadReadings."""
        for number, body in enumerate(self._entries, 1):
            try:
                told = msgspec.msgpack.decode(body, type=Telling)
                event = _read(msgspec.msgpack.decode(told.body, type=EVENTS[told.kind]))
            except (msgspec.DecodeError, KeyError) as error:
                raise BadReadings(f"{self.path} entry {number}: {error}") from error
            yield Heard(told.boot_ns, told.wall_ns, event)


def _written(event: Event) -> tuple[str, object]:
    match event:
        case Opened():
            meters = tuple(one for one in event.declares if isinstance(one, Meter))
            return "opened", Declared(
                event.source, meters, tuple(one for one in event.declares if isinstance(one, Engine))
            )
        case Said():
            return "said", Readings(event.source, event.boot_ns, tuple(map(_written_reading, event.readings)))
        case _:
            return next(kind for kind, form in EVENTS.items() if isinstance(event, form)), event


def _written_reading(reading: Reading) -> tuple[str, msgspec.Raw]:
    return next(kind for kind, form in READINGS.items() if isinstance(reading, form)), _raw(reading)


def _read(entry: Declared | Readings | Absent | Gone | MustEnd) -> Event:
    match entry:
        case Declared():
            return Opened(entry.source, (*entry.meters, *entry.engines))
        case Readings():
            return Said(entry.source, entry.boot_ns, _read_readings(entry.readings))
        case _:
            return entry


def _read_readings(readings: Sequence[tuple[str, msgspec.Raw]]) -> tuple[Reading, ...]:
    return tuple(msgspec.msgpack.decode(body, type=READINGS[kind]) for kind, body in readings)


def _raw(entry: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(entry))


def _entries(path: Path) -> Iterator[bytes]:
    """The bodies of all whole entries; what a crash left half is passed over."""
    stream, waiting = zstandard.ZstdDecompressor().decompressobj(), b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            try:
                waiting += stream.decompress(chunk)
            except zstandard.ZstdError:
                return
            while len(waiting) >= LENGTH.size:
                end = LENGTH.size + LENGTH.unpack_from(waiting)[0]
                if end > LARGEST:
                    return
                if len(waiting) < end:
                    break
                yield waiting[LENGTH.size : end]
                waiting = waiting[end:]
            if stream.eof:
                return
