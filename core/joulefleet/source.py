"""The contract of everything that is read, and the three fates of a failed read."""

from collections.abc import Sequence
from typing import Any, Protocol

from joulefleet.describe import Engine, Meter
from joulefleet.reading import Reading


class Source(Protocol):
    """One interface on this server that tells of meters, of engines, or of both.

    A source is opened by its module's `open(table)`, where `table` is its part of the agent's config. The module
    is named in the entry-point group `joulefleet.sources`. `read` is called by one thread only, once a period.
    """

    declares: tuple[Meter | Engine, ...]
    """What it tells of; a failing meter stays declared. May change with a read where the interface itself says that
    something else is there now."""
    period_ns: int
    deadline_ns: int
    """A read that takes longer marks what it declares as `hung`; the others go on."""

    def read(self) -> Sequence[Reading]:
        """Read everything once. A part that failed gives a `Failure`, never a zero.

        Raises SourceUnavailable, SourceGone or ProcessMustEnd; anything else is a fault of the source.
        """
        ...


class OpenSource(Protocol):
    """A source module's `open`."""

    def __call__(self, table: dict[str, Any]) -> Source:
        """Open the interface. Raises SourceUnavailable where this host does not have it or may not read it."""
        ...


class SourceUnavailable(Exception):
    """Not here, or not now: no error, but the mend is told where there is one."""

    def __init__(self, code: str, detail: str, mend: str = "", again_s: float = 0.0) -> None:
        self.code = code
        """Stable reason code: `absent`, `permission`, `library_missing`, `driver`, ..."""
        self.detail = detail
        self.mend = mend
        """What a person can do about it; one sentence or command."""
        self.again_s = again_s
        """Seconds before which another trial would do harm (each locks an account nearer); 0 where it does none."""
        super().__init__(code, detail, mend)

    def __str__(self) -> str:
        return f"{self.detail}; {self.mend}" if self.mend else self.detail


class SourceGone(Exception):
    """The source ended as expected: a recording was read to its end."""


class ProcessMustEnd(Exception):
    """Only a new process can mend this (NVML after a driver upgrade); the service manager starts it again."""
