"""Parquet, where pyarrow is installed."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from joulefleet.window import Window
from joulefleet_collector.store import listing
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.export import export
from joulefleet_collector.store.listing import Wanted
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install 'joulefleet[parquet]'")


def test_every_number_comes_back_and_unknown_is_null(
    tmp_path: Path,
    put: Callable[..., int],
    a_window: Callable[..., Window],
    start_ns: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing, "LINES_AT_ONCE", 10)
    with closing(EmbeddedStore(tmp_path / "data", lambda: "e")) as store:
        put(store, *(a_window("a", minute, 0.1 + minute) for minute in range(25)))
    wanted = Wanted("usage", "minute", 0, 40_000 * DAY_NS)
    assert export(store.path, wanted, "parquet", tmp_path / "out.parquet", lambda done: None) == 25
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column("active_j").to_pylist() == [0.1 + minute for minute in range(25)]
    assert table.column("start").cast("int64").to_pylist() == [start_ns + n * MINUTE_NS for n in range(25)]
    assert str(table.schema.field("start").type) == "timestamp[ns, tz=UTC]"
    assert table.column("idle_j").null_count == 25
    assert set(table.column("rack").to_pylist()) == {"r1"}
