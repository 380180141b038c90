"""Rows of a window as one line of numbers, since windows of one server have the same rows again and again."""

from collections.abc import Iterator, Sequence
from typing import overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from joulefleet_collector.rows import KINDS, Row

Tags = dict[str, str]
Floats = NDArray[np.float64]

COLUMNS: dict[str, tuple[str, ...]] = {name: (*kind.sums, *kind.latest) for name, kind in KINDS.items()}
"""Every field that a row of a kind may have, in the order of its numbers."""
Shape = tuple[tuple[str, int], ...]
"""How many rows there are of each kind, in the order of KINDS."""


class Sheet:
    """Kinds and tags of the rows that all windows with the same declarations have."""

    __slots__ = ("__weakref__", "_packed", "shape")

    def __init__(self, shared: Tags, own: Sequence[tuple[str, Tags]]) -> None:
        """`shared` are the tags of every row, `own` the kind and the other tags of each, ordered as KINDS is."""
        kinds = [kind for kind, _ in own]
        self.shape: Shape = tuple((kind, kinds.count(kind)) for kind in KINDS if kind in kinds)
        # Thousands of these are kept at a time, and their tags are asked for once.
        self._packed = msgspec.msgpack.encode((shared, own))

    @property
    def packed(self) -> bytes:
        """The sheet as bytes, for another process."""
        return self._packed

    @classmethod
    def unpacked(cls, packed: bytes) -> "Sheet":
        """The sheet from `packed`."""
        return cls(*msgspec.msgpack.decode(packed, type=tuple[Tags, list[tuple[str, Tags]]]))

    def rows(self) -> list[tuple[str, Tags]]:
        """Kind and tags of each row."""
        shared, own = msgspec.msgpack.decode(self._packed, type=tuple[Tags, list[tuple[str, Tags]]])
        return [(kind, shared | tags) for kind, tags in own]

    def __len__(self) -> int:
        return sum(number for _, number in self.shape)


class SheetRows(Sequence[Row]):
    """The rows of one window; each is made when it is looked at."""

    __slots__ = ("sheet", "start_ns", "values")

    def __init__(self, sheet: Sheet, start_ns: int, values: Floats) -> None:
        """`values` are the numbers of all rows, one after the other, each with all COLUMNS of its kind; NaN is
        unknown."""
        self.sheet = sheet
        self.start_ns = start_ns
        self.values = values

    def __len__(self) -> int:
        return len(self.sheet)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        return list(self)[place]

    def __iter__(self) -> Iterator[Row]:
        numbers, first = self.values.tolist(), 0
        for kind, tags in self.sheet.rows():
            names = COLUMNS[kind]
            yield Row(kind, self.start_ns, tags, known(names, numbers[first : first + len(names)]))
            first += len(names)


def known(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Fields of a row; what is unknown, NaN, has none."""
    return {name: value for name, value in zip(names, values, strict=True) if value == value}  # noqa: PLR0124 NaN is the one number that is not equal to itself
