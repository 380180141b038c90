"""Tables for other programs."""

import csv
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from joulefleet.window import Window
from joulefleet_collector.store import listing
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.export import NoParquet, export
from joulefleet_collector.store.listing import Wanted
from joulefleet_collector.store.store import DAY_NS, StoreUnavailable

EVER = Wanted("usage", "minute", 0, 40_000 * DAY_NS)


@pytest.fixture
def path(tmp_path: Path, put: Callable[..., int], a_window: Callable[..., Window]) -> Path:
    with closing(EmbeddedStore(tmp_path / "data", lambda: "e")) as store:
        labels = {"rack": 'quoted "r", 1\nsecond line'}
        put(store, *(a_window("a", minute, 0.1 + minute, labels=labels) for minute in range(25)))
        return store.path


def test_csv_holds_every_number_exactly_and_leaves_unknown_empty(
    path: Path, tmp_path: Path, start_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "LINES_AT_ONCE", 10)
    told: list[int] = []
    assert export(path, EVER, "csv", tmp_path / "out.csv", told.append) == 25
    assert told == [10, 20, 25]
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["active_j"]) for line in lines] == [0.1 + minute for minute in range(25)]
    assert lines[1]["start"] == "2026-09-21T00:01:00Z"
    assert (lines[0]["server"], lines[0]["rack"]) == ("a", 'quoted "r", 1\nsecond line')
    assert (lines[0]["idle_j"], lines[0]["requests_ok"], lines[0]["version"]) == ("", "10.0", "")


def test_an_export_of_nothing_has_its_line_of_names(path: Path, tmp_path: Path) -> None:
    assert export(path, Wanted("ledger", "day", 0, DAY_NS), "csv", tmp_path / "out.csv", lambda done: None) == 0
    assert (tmp_path / "out.csv").read_text().startswith("start,server,pool,site,simulated,boundary,")


def test_a_file_that_is_there_stays(path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="already there"):
        export(path, EVER, "csv", path, lambda done: None)


def test_without_pyarrow_parquet_is_refused_with_what_to_install(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "joulefleet_collector.store.parquet", raising=False)
    with pytest.raises(NoParquet) as told:
        export(path, EVER, "parquet", tmp_path / "out.parquet", lambda done: None)
    assert "pip install 'joulefleet[parquet]'" in str(told.value)
    assert not (tmp_path / "out.parquet").exists()
