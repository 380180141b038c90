"""Adding many rows up at once, and keeping rows as bytes until they are added up."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from joulefleet_collector.sheet import COLUMNS, Floats, known

Ints = NDArray[np.int64]

_FAST = -1
"""Level of zstd: what is kept for seconds need not be small."""


class Block(NamedTuple):
    """Rows of one kind: row k is `start_ns[k]`, `series[k]` and `values[k]`."""

    start_ns: Ints
    series: Ints
    fleet: Ints
    """Number of the same series without its server; 0 for a kind that is not added up over servers."""
    values: Floats
    """By row and column of `sheet.COLUMNS`; NaN is unknown."""

    def part(self, first: int, end: int) -> "Block":
        """Rows first to end."""
        return Block(self.start_ns[first:end], self.series[first:end], self.fleet[first:end], self.values[first:end])


Blocks = dict[str, Block]
"""By kind of row."""


def joined(parts: Iterable[Mapping[str, Block]]) -> Blocks:
    """All rows of these, in order."""
    by_kind: dict[str, list[Block]] = {}
    for part in parts:
        for kind, block in part.items():
            by_kind.setdefault(kind, []).append(block)
    return {
        kind: blocks[0] if len(blocks) == 1 else Block(*map(np.concatenate, zip(*blocks, strict=True)))
        for kind, blocks in by_kind.items()
    }


def add_up(block: Block, step_ns: int, fleet: bool = False) -> Block:
    """Rows of one series and one step added up, where unknown plus known is known; with `fleet` over servers too."""
    start = block.start_ns - block.start_ns % step_ns
    series = block.fleet if fleet else block.series
    order = np.lexsort((series, start))
    start, series = start[order], series[order]
    first = np.flatnonzero(np.r_[True, (start[1:] != start[:-1]) | (series[1:] != series[:-1])])
    values = block.values[order]
    unknown = np.isnan(values)
    sums = np.add.reduceat(np.where(unknown, 0.0, values), first, axis=0)
    sums[np.logical_and.reduceat(unknown, first, axis=0)] = np.nan
    return Block(start[first], series[first], block.fleet[order][first], sums)


def newest(kind: str, block: Block) -> Iterator[tuple[int, int, str]]:
    """(series, start, fields as JSON) of the last row of each series."""
    order = np.lexsort((block.start_ns, block.series))
    series = block.series[order]
    last = order[np.flatnonzero(np.r_[series[1:] != series[:-1], True])]
    chosen = zip(block.series[last].tolist(), block.start_ns[last].tolist(), block.values[last].tolist(), strict=True)
    for number, start_ns, values in chosen:
        yield number, start_ns, msgspec.json.encode(known(COLUMNS[kind], values)).decode()


class _Packed(msgspec.Struct, array_like=True):
    columns: tuple[str, ...]
    keys: bytes
    values: bytes


_DECODER = msgspec.msgpack.Decoder(dict[str, _Packed])


def pack(blocks: Blocks) -> bytes:
    """These rows as bytes."""
    packed = {
        kind: _Packed(
            COLUMNS[kind],
            np.concatenate((block.start_ns, block.series, block.fleet)).tobytes(),
            # Column by column, since many columns are 0 throughout.
            block.values.T.tobytes(),
        )
        for kind, block in blocks.items()
    }
    return zstandard.ZstdCompressor(level=_FAST, write_checksum=True).compress(msgspec.msgpack.encode(packed))


def unpack(body: bytes) -> Blocks:
    """Rows from `pack`. Columns that this version does not know any more are left out; new ones are unknown.

    Raises zstandard.ZstdError or msgspec.DecodeError where the bytes are damaged.
    """
    found = _DECODER.decode(zstandard.ZstdDecompressor().decompress(body))
    return {kind: _block(packed, COLUMNS[kind]) for kind, packed in found.items() if kind in COLUMNS}


def _block(packed: _Packed, columns: Sequence[str]) -> Block:
    keys = np.frombuffer(packed.keys, np.int64).reshape(3, -1)
    values = np.frombuffer(packed.values, np.float64).reshape(len(packed.columns), -1)
    if packed.columns != columns:
        by_name = dict(zip(packed.columns, values, strict=True))
        unknown = np.full(keys.shape[1], np.nan)
        values = np.array([by_name.get(name, unknown) for name in columns])
    return Block(keys[0], keys[1], keys[2], values.T)
