"""A table as Parquet; the only module that needs pyarrow."""

from pathlib import Path
from typing import Any

import pyarrow
from pyarrow.parquet import ParquetWriter

from joulefleet_collector.store.listing import Line, Listing, Progress


def write_parquet(table: Listing, path: Path, progress: Progress) -> int:
    """Write Parquet, compressed by zstd; what is unknown is null. Returns the number of rows."""
    schema = _schema(table)
    done = 0
    with ParquetWriter(path, schema, compression="zstd") as writer:
        for page in table.pages():
            writer.write_batch(pyarrow.record_batch(_columns(table, page), schema=schema))
            done += len(page)
            progress(done)
    return done


def _schema(table: Listing) -> Any:
    start, text, number = pyarrow.timestamp("ns", tz="UTC"), pyarrow.string(), pyarrow.float64()
    kinds = (start, *(text for _ in table.tags), *(number for _ in table.sums))
    return pyarrow.schema(zip(table.columns, kinds, strict=True))


def _columns(table: Listing, page: list[Line]) -> list[list[Any]]:
    return [
        [line.start_ns for line in page],
        *([line.tags.get(name, "") for line in page] for name in table.tags),
        *([line.sums[place] for line in page] for place in range(len(table.sums))),
    ]
