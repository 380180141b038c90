"""Files of sites and of the inventory, read anew when they change, so that prices and servers are always the newest.

A file that can no longer be read, or is half written, changes nothing: what it told before holds, and each answer says
so until it is mended.
"""

import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from joulefleet.config import ConfigError
from joulefleet_collector.answer.costs import Embodied
from joulefleet_collector.answer.inventory import Stay, inventory_of
from joulefleet_collector.answer.series import Steps, check_range, steps_of
from joulefleet_collector.sites import FleetConfig, Places, Site, files_of, sites_of

MAX_BYTES = 32 * 1024 * 1024
"""Of one file: a value each minute for a year takes half of it."""

T = TypeVar("T")
Mark = tuple[int, int, int]


class Stale(NamedTuple):
    """A file of which only what it told before is known."""

    file: str
    reason: str


class ReadAnew(Generic[T]):
    """One file, read when it has changed."""

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        """`parse` raises ValueError. Raises OSError or ValueError where the file cannot be used."""
        self._path = path
        self._parse = parse
        self._known = self._read()

    def now(self) -> tuple[T, Stale | None]:
        """What the file tells; where it cannot be used any more, what it told before, and why."""
        try:
            if self._known[0] != self._mark():
                self._known = self._read()
        except (OSError, ValueError) as error:
            return self._known[1], Stale(str(self._path), _reason(error))
        return self._known[1], None

    def _read(self) -> tuple[Mark, T]:
        # The mark is taken first: a file that changes while it is read is read again. Spreadsheets write a BOM.
        mark = self._mark()
        return mark, self._parse(self._path.read_text(encoding="utf-8-sig"))

    def _mark(self) -> Mark:
        about = self._path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("is no file")
        if about.st_size > MAX_BYTES:
            raise ValueError(f"has {about.st_size:,} bytes; at most {MAX_BYTES:,} are read")
        return about.st_mtime_ns, about.st_size, about.st_ino


class SiteFiles:
    """What is declared, with its files. Any thread may ask."""

    def __init__(self, sites: Sequence[Site], fleet: FleetConfig, embodied: Sequence[Embodied]) -> None:
        """Raises ConfigError where a file cannot be used."""
        self._sites, self._fleet, self._embodied = tuple(sites), fleet, tuple(embodied)
        self._series = {key: opened(key[0], _steps_from(key[1])) for key in files_of(self._sites)}
        self._inventory: ReadAnew[tuple[Stay, ...]] | None = None
        if fleet.inventory:
            self._inventory = opened(Path(fleet.inventory), inventory_of)

    def now(self) -> tuple[Places, list[Stale]]:
        """All as the files now tell it, and the files of which only what they told before is known."""
        read = {key: file.now() for key, file in self._series.items()}
        stays, missing = self._inventory.now() if self._inventory else (None, None)
        places = Places(
            sites=sites_of(self._sites, lambda path, least: read[path, least][0]),
            stays=stays,
            overheads=self._fleet.overhead,
            embodied=self._embodied,
        )
        return places, [one for one in (*(stale for _, stale in read.values()), missing) if one]


def opened(path: Path, parse: Callable[[str], T]) -> ReadAnew[T]:
    """The file, which is there and can be used. Raises ConfigError otherwise."""
    try:
        return ReadAnew(path, parse)
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), "", _reason(error)) from error


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    return "is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _steps_from(least: float) -> Callable[[str], Steps]:
    def parse(text: str) -> Steps:
        steps = steps_of(text)
        check_range(steps.values, least)
        return steps

    return parse
