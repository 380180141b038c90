"""A file that a command makes for a person: whole under its name, or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from joulefleet_collector.store.store import StoreUnavailable
from joulefleet_collector.store.trouble import file_told_clearly

_BESIDE = ("", "-journal", "-wal", "-shm")
"""What SQLite may put beside a file of its own."""


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A name beside `target` to write to; at the end it is made durable and becomes `target`.

    Raises StoreUnavailable where something of that name is there, or cannot be written.
    """
    if target.exists():
        raise StoreUnavailable(str(target), "it is already there", "name another file, or remove this one first")
    part = target.with_name(f".{target.name}.part")
    with file_told_clearly(target):
        _forget(part)
        part.touch(mode=0o600)  # what is measured is for the collector's user until that one says otherwise
        try:
            yield part
            _sync(part)
            part.rename(target)
            _sync(target.parent)
        finally:
            _forget(part)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _forget(part: Path) -> None:
    for ending in _BESIDE:
        part.with_name(part.name + ending).unlink(missing_ok=True)
