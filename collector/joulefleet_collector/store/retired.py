"""Servers that are gone for good: by name, the end of the last window that came; kept as JSON in a store or a file."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from joulefleet_collector.store.store import Retired, StoreUnavailable
from joulefleet_collector.store.trouble import file_told_clearly

FILE_NAME = "retired.json"


def changed(retired: Retired, changes: Mapping[str, int | None]) -> Retired:
    """What is retired after these changes; None takes a server back."""
    after = {**retired, **changes}
    return {server: end_ns for server, end_ns in sorted(after.items()) if end_ns is not None}


def read(text: str | bytes, where: str) -> Retired:
    """Retired servers from JSON. Raises StoreUnavailable where it is damaged."""
    try:
        return msgspec.json.decode(text, type=Retired)
    except (msgspec.MsgspecError, ValueError) as error:
        mend = "put back a copy, or remove it: retired servers then show again"
        raise StoreUnavailable(where, f"the list of retired servers is damaged: {error}", mend) from error


def written(retired: Retired) -> str:
    """Retired servers as JSON."""
    return msgspec.json.encode(retired).decode()


class RetiredFile:
    """Retired servers in a file, for a store that keeps no table of them.

    Its methods may be called from any thread, and by several workers of one collector.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME

    def read(self) -> Retired:
        """All of them; none where there is no file. Raises StoreUnavailable."""
        with file_told_clearly(self.path):
            try:
                text = self.path.read_bytes()
            except FileNotFoundError:
                return {}
        return read(text, str(self.path))

    def change(self, changes: Mapping[str, int | None]) -> None:
        """Keep these changes; durable when this returns. Raises StoreUnavailable."""
        with file_told_clearly(self.path), self._alone():
            text = written(changed(self.read(), changes))
            part = self.path.with_name(f".{FILE_NAME}.part")
            with part.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While inside nobody else changes the file: whoever comes waits at its folder."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
