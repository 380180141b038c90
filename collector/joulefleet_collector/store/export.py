"""Sums of the store for other programs: a CSV file, or Parquet where pyarrow is installed."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from joulefleet.grid import rfc3339
from joulefleet_collector.store.listing import Listing, Progress, Wanted, listing
from joulefleet_collector.store.snapshot import snapshot
from joulefleet_collector.store.whole_file import whole_file

Format = Literal["csv", "parquet"]
Write = Callable[[Listing, Path, Progress], int]


class NoParquet(Exception):
    """The package that writes Parquet is not installed."""

    def __str__(self) -> str:
        return "Parquet needs the package 'pyarrow': pip install 'joulefleet[parquet]', or choose --format csv"


def export(path: Path, wanted: Wanted, form: Format, target: Path, progress: Progress) -> int:
    """Write rows of the store at `path` to the new file `target`. Returns how many there were.

    Rows that wait to be added up are not among them: let the store settle first.
    Raises StoreUnavailable, NotKept or NoParquet.
    """
    write = write_csv if form == "csv" else _parquet()
    with whole_file(target) as part, snapshot(path) as db:
        return write(listing(db, wanted), part, progress)


def _parquet() -> Write:
    try:
        from joulefleet_collector.store.parquet import write_parquet  # noqa: PLC0415 only who asks for it needs pyarrow
    except ModuleNotFoundError as error:
        raise NoParquet from error
    return write_parquet


def write_csv(table: Listing, path: Path, progress: Progress) -> int:
    """Write CSV with a line of names first; what is unknown is an empty cell. Returns the number of rows."""
    done = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.columns)
        for page in table.pages():
            writer.writerows(
                (rfc3339(line.start_ns), *(line.tags.get(name, "") for name in table.tags), *line.sums) for line in page
            )
            done += len(page)
            progress(done)
    return done
