"""A file of sysfs that is opened once, read many times, and found again when its driver was loaded anew."""

import contextlib
import errno
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from joulefleet import Failure

LONGEST_TEXT = 256
OF_THE_SENSOR = (errno.EIO, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.EREMOTEIO)
"""Errors by which a driver passes on that its device did not answer; to ask again at once would take as long again."""


class KeptFile:
    """One file by its descriptor: to open it for each read would cost ten times as much."""

    def __init__(self, find: Callable[[], Path]) -> None:
        """`find` tells where the file is now, since numbers in the tree change; it is opened at the first read."""
        self._find = find
        self._file: FileIO | None = None
        self.life = 0
        """Changes when the driver made the file anew: the number of its inode. 0 before the first read."""

    def text(self) -> str:
        """What it says now, without the line's end. Raises OSError, and ValueError where it is no text."""
        try:
            return self._read(self._file or self._open())
        except OSError as error:
            if error.errno in OF_THE_SENSOR:
                raise
            self._close()
            return self._read(self._open())

    def number(self) -> int:
        """The number in it now. Raises OSError, and ValueError where there is none or one below 0."""
        return number_of(self.text())

    def _read(self, file: FileIO) -> str:
        return os.pread(file.fileno(), LONGEST_TEXT, 0).decode("ascii").strip()

    def _open(self) -> FileIO:
        self._file = self._find().open("rb", buffering=0)
        self.life = os.fstat(self._file.fileno()).st_ino
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._close()


def number_of(text: str) -> int:
    """The whole number that a sensor says. Raises ValueError where it is none, or below 0 as no energy or power is."""
    number = int(text)
    if number < 0:
        raise ValueError(f"{number} is below 0")
    return number


def failure(subject: str, error: OSError | ValueError) -> Failure:
    """Why a meter whose file could not be read gives no value."""
    if isinstance(error, PermissionError):
        return Failure(subject=subject, code="permission", detail=str(error))
    if isinstance(error, FileNotFoundError):
        return Failure(subject=subject, code="sensor_gone", detail=str(error))
    return Failure(subject=subject, code="read_failed", detail=str(error))


def said(file: Path) -> str:
    """What a file says that is read once; empty where it is not there or says nothing."""
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def number_in(file: Path) -> int | None:
    """The number in a file that is read once; None where it is not there, holds none, or one below 0."""
    try:
        return number_of(said(file))
    except ValueError:
        return None
