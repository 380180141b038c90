"""One look at the store's file: it does not change while it is read, and the collector goes on writing."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from joulefleet_collector.store import schema
from joulefleet_collector.store.trouble import database_told_clearly

BUSY_TIMEOUT_S = 10.0


@contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that may only read, inside one transaction. Raises StoreUnavailable."""
    with database_told_clearly(path), closing(_connect(path)) as db:
        db.execute("PRAGMA query_only = ON")
        db.execute("BEGIN")
        schema.check(db, str(path))
        yield db


def _connect(path: Path) -> sqlite3.Connection:
    # SQLite keeps its memory of the log beside the file, so that reading too needs the right to write there.
    address = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
