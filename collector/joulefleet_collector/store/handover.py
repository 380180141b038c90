"""What the processes of one collector say to each other: windows with their rows one way, what became of them back.

Sheets are what rows of a server have in common, and large. Each is sent once, under a number, and forgotten at both
ends together: the sender's next group names the numbers that it no longer uses.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary, finalize

import msgspec
import numpy as np

from joulefleet_collector.rows import Row
from joulefleet_collector.sheet import COLUMNS, Sheet, SheetRows
from joulefleet_collector.store.store import Accounted


class Handed(msgspec.Struct, frozen=True, array_like=True):
    """One window: its key, its body, and its rows, or the number of their sheet."""

    server: str
    timeline: int
    step_ns: int
    start_ns: int
    end_ns: int
    body: bytes
    sheet: int | None
    rows: Sequence[Row] = ()

    @property
    def key(self) -> tuple[str, int, int, int]:
        """As `Window.key`."""
        return (self.server, self.timeline, self.step_ns, self.start_ns)


class Group(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Windows to be kept all or none."""

    received_ns: int
    windows: list[Handed]
    values: bytes
    """Numbers of all windows that have a sheet, one after the other."""
    sheets: dict[int, bytes]
    """Those that were not sent before."""
    gone: list[int]
    """Numbers that are used no more."""


class Settle(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Bring rows that wait into the sums."""


class Check(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Say whether a write would fail now."""


class Retire(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Keep these servers as retired; None takes one back."""

    changes: dict[str, int | None]


Request = Group | Settle | Check | Retire


class Done(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """It is done, and durable."""

    new: int = 0
    """Windows whose key was not there."""


class Unavailable(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """As the exception `StoreUnavailable`."""

    where: str
    reason: str
    mend: str


class Fault(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The program failed over it; nothing was kept."""

    error: str


Outcome = Done | Unavailable | Fault


class Packer:
    """Makes groups for one receiver. Called by one thread at a time."""

    def __init__(self) -> None:
        self._numbers: WeakKeyDictionary[Sheet, int] = WeakKeyDictionary()
        self._next = 0
        self._gone: list[int] = []

    def group(self, accounted: Sequence[Accounted], received_ns: int) -> Group:
        """These windows as a group, which must be sent: the next ones count on the sheets in it."""
        sheets: dict[int, bytes] = {}
        windows = [self._handed(one, sheets) for one in accounted]
        values = b"".join(one.rows.values.data for one in accounted if isinstance(one.rows, SheetRows))
        # Some may go while this is written: they are of the next group.
        gone = [self._gone.pop() for _ in range(len(self._gone))]
        return Group(received_ns, windows, values, sheets, gone)

    def _handed(self, one: Accounted, sheets: dict[int, bytes]) -> Handed:
        sheet, rows = None, one.rows
        if isinstance(rows, SheetRows):
            sheet, rows = self._number(rows.sheet, sheets), ()
        return Handed(*one.window.key, one.window.end_ns, one.body, sheet, rows)

    def _number(self, sheet: Sheet, sheets: dict[int, bytes]) -> int:
        number = self._numbers.get(sheet)
        if number is None:
            number = self._numbers[sheet] = self._next
            self._next += 1
            sheets[number] = sheet.packed
            finalize(sheet, self._gone.append, number).atexit = False
        return number


class Unpacker:
    """Opens groups of one sender, in the order in which they were made."""

    def __init__(self) -> None:
        self._sheets: dict[int, tuple[Sheet, int]] = {}

    def accounted(self, group: Group) -> list[Accounted]:
        """The windows of a group with their rows."""
        for number, packed in group.sheets.items():
            sheet = Sheet.unpacked(packed)
            self._sheets[number] = (sheet, sum(rows * len(COLUMNS[kind]) for kind, rows in sheet.shape))
        values, first, found = np.frombuffer(group.values), 0, []
        for one in group.windows:
            rows: Sequence[Row] = one.rows
            if one.sheet is not None:
                sheet, width = self._sheets[one.sheet]
                rows = SheetRows(sheet, one.start_ns, values[first : first + width])
                first += width
            found.append(Accounted(one, one.body, rows))
        for number in group.gone:
            del self._sheets[number]
        return found
