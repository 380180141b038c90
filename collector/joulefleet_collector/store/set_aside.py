"""Lines that a store refuses for good: set aside in a file and counted, while the rest is stored."""

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path

from joulefleet_collector.store.store import StoreUnavailable

FILE_NAME = "set-aside.lp"
MOST_BYTES = 16 * 1024 * 1024
"""Bound of the file; what is refused beyond it is counted only."""


class LinesRefused(Exception):
    """A batch that the store will never take as it is; some of it may have been stored."""

    def __init__(self, reason: str, oldest: int = 0) -> None:
        self.reason = reason
        self.oldest = oldest
        """How many of its oldest lines the store has dropped, all others being stored; 0 where it does not say."""
        super().__init__(reason, oldest)


class SetAside:
    """The file of refused lines, each below its reason; it can be written to a store again once that is mended."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self.path = folder / FILE_NAME
        self.lines = 0
        """Lines refused since the collector started."""
        self._most_bytes = most_bytes
        self._lock = threading.Lock()

    def add(self, refused: Sequence[tuple[bytes, str]]) -> None:
        """Keep these lines with their reasons. Raises StoreUnavailable where the file cannot be written."""
        if not refused:
            return
        text = b"".join(b"# %b\n%b\n" % (" ".join(reason.split()).encode(), line) for line, reason in refused)
        with self._lock:
            self._keep(text)
            self.lines += len(refused)

    def _keep(self, text: bytes) -> None:
        try:
            with self.path.open("ab", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # other workers of this collector keep their lines in it too
                file.seek(0, os.SEEK_END)
                if file.tell() + len(text) <= self._most_bytes:
                    _append(file, text)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            mend = "free space on its disk" if full else "let the collector's user write there"
            raise StoreUnavailable(
                str(self.path), f"{error.strerror}", f"{mend}: refused rows are kept in it"
            ) from error


def store_good(lines: Sequence[bytes], write: Callable[[bytes], None]) -> list[tuple[bytes, str]]:
    """Write all lines that the store takes, in their order, and give back the others, each with the reason.

    `write` takes lines in one body and raises LinesRefused; a batch that it refuses is halved until the guilty lines
    stand alone. A line may be written twice, which changes nothing.
    """
    if not lines:
        return []
    try:
        write(b"\n".join(lines))
    except LinesRefused as refused:
        if refused.oldest:
            return [(line, refused.reason) for line in sorted(lines, key=_instant_ns)[: refused.oldest]]
        if len(lines) == 1:
            return [(lines[0], refused.reason)]
        half = len(lines) // 2
        return [*store_good(lines[:half], write), *store_good(lines[half:], write)]
    return []


def _append(file: FileIO, text: bytes) -> None:
    """All of it, durably, or nothing: half a line would spoil the one that is kept behind it."""
    end = file.tell()
    try:
        while text:
            text = text[file.write(text) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(end)
        raise


def _instant_ns(line: bytes) -> int:
    return int(line.rpartition(b" ")[2])
