"""What every store must do: keep windows and their rows durably, and add up what is asked."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from joulefleet.grid import HOUR_NS, rfc3339
from joulefleet.units import NS_PER_S
from joulefleet.window import Window
from joulefleet_collector.rows import Row

Step = Literal["none", "minute", "hour", "day"]

MINUTE_NS = 60 * NS_PER_S
DAY_NS = 24 * HOUR_NS
STEP_NS: dict[Step, int] = {"none": 0, "minute": MINUTE_NS, "hour": HOUR_NS, "day": DAY_NS}
"""Length of each step; `none` adds up the whole time."""

Retired = dict[str, int]
"""Servers that are gone for good, each with the end of the last window that came, in nanoseconds; 0 where none did."""
Account = Callable[[Window], list[Row]]
"""Accounting under one policy."""


class Keyed(Protocol):
    """What a store needs to know of a window beside its body: its key and its end, as `Window` tells them."""

    @property
    def server(self) -> str: ...
    @property
    def timeline(self) -> int: ...
    @property
    def start_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...
    @property
    def key(self) -> tuple[str, int, int, int]: ...


class Accounted(msgspec.Struct, frozen=True):
    """A window as it was received, in msgpack, and the rows that accounting made of it."""

    window: Keyed
    body: bytes
    rows: Sequence[Row]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Sums of fields over the windows that start in [since_ns, until_ns), which are whole minutes of UTC.

    A window of a longer step belongs whole to the minute, hour and day in which it starts.
    """

    kind: str
    """One of `rows.KINDS`."""
    since_ns: int
    until_ns: int
    step: Step = "none"
    by: tuple[str, ...] = ()
    """Tags that keep sums apart; a tag that a row does not have counts as empty."""
    where: dict[str, tuple[str, ...]] = {}
    """Only rows whose tag equals one of these values, for every tag named."""
    fields: tuple[str, ...] = ()
    """Fields of the kind's `sums`; empty for all of them."""


class Total(msgspec.Struct, frozen=True):
    """Sums of one combination of tags and one step. A field that no row knows is missing."""

    start_ns: int | None
    """Start of the step; None where the whole time is added up."""
    tags: dict[str, str]
    fields: dict[str, float]


class Overlap(msgspec.Struct, frozen=True):
    """Two timelines of one server name that tell of the same time: two agents, or a clock that stepped back."""

    server: str
    timelines: tuple[int, int]
    from_ns: int
    to_ns: int


class Course(msgspec.Struct, frozen=True):
    """From the first to the last window of one timeline."""

    server: str
    timeline: int
    from_ns: int
    to_ns: int


class Store(Protocol):
    """Keeps windows and rows. Any call may raise StoreUnavailable; then nothing of that call was stored."""

    @property
    def epoch(self) -> str:
        """Identity of the store's life, made at random with it."""
        ...

    def write(self, accounted: Sequence[Accounted], received_ns: int) -> int:
        """Keep these windows with their rows, all or none; durable when it returns.

        A window whose key is already there changes nothing. Returns how many were new.
        """
        ...

    def ask(self, question: Question) -> list[Total]:
        """Sums, ordered by step and tags.

        Raises ValueError where the instants are no whole minutes, NotKept where sums of minutes are needed and gone.
        """
        ...

    def latest(self, kind: str) -> list[Row]:
        """The newest row of each combination of tags, without the tags that rollups drop."""
        ...

    def heard(self) -> list[Row]:
        """The newest agent's row of each server, at hand without adding anything up.

        Its time is that of the newest window; what else it tells may be of one some minutes before, or missing.
        """
        ...

    def tags(self, kind: str) -> set[str]:
        """Names of the tags that rows of this kind have so far, labels included."""
        ...

    def windows(self, server: str | None, since_ns: int, until_ns: int) -> Iterator[Window]:
        """Windows that start in this time, of one server or of all, ordered by start."""
        ...

    def recount(self, account: Account, progress: Callable[[int, int], None]) -> None:
        """Make all sums anew from the windows, all or nothing; `progress` is told (done, total).

        Sums of UTC days of which a window is no longer kept stay as they are.
        """
        ...

    def timelines(self, since_ns: int, until_ns: int) -> list[Overlap]:
        """Timelines of one server that overlap in windows that start in this time."""
        ...

    def courses(self, since_ns: int, until_ns: int) -> list[Course]:
        """Timelines that tell of this time, each at least as far as it lies in it, by server and number."""
        ...

    def retired(self) -> Retired:
        """Servers that were retired, also those that came back since."""
        ...

    def retire(self, changes: Mapping[str, int | None]) -> None:
        """Keep these servers as retired; None takes one back. Durable when it returns."""
        ...

    @property
    def tells_known(self) -> bool:
        """Whether `write` tells windows that were there from those that are new."""
        ...

    @property
    def lines_set_aside(self) -> int | None:
        """Rows that were refused for good since this process opened the store; None where it never refuses one."""
        ...

    def check(self) -> None:
        """Raises StoreUnavailable where a write would fail now."""
        ...

    def close(self) -> None:
        """Let go of files; what was written stays."""
        ...


class NotKept(ValueError):
    """The answer needs sums of minutes that are no longer kept; whole hours and days can be asked."""

    def __init__(self, from_ns: int) -> None:
        self.from_ns = from_ns
        """The instant from which sums of minutes are whole; the start of an hour."""
        super().__init__(from_ns)

    def __str__(self) -> str:
        return f"sums of minutes are kept from {rfc3339(self.from_ns)} on; before it, ask for whole hours or days"


class StoreUnavailable(Exception):
    """The store cannot be read or written now; nothing was stored in part."""

    def __init__(self, where: str, reason: str, mend: str) -> None:
        self.where = where
        """The file or folder."""
        self.reason = reason
        self.mend = mend
        """What a person can do about it; one sentence."""
        super().__init__(where, reason, mend)

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}; {self.mend}"
