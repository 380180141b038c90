"""Sums as a table: which rows, which columns."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from joulefleet.window import Window
from joulefleet_collector.rows import KINDS, Row
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.listing import Grain, Line, Listing, Wanted, listing
from joulefleet_collector.store.retention import Keep
from joulefleet_collector.store.snapshot import snapshot
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS, Accounted, NotKept

Put = Callable[..., int]
AWindow = Callable[..., Window]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as opened:
        yield opened


def read(
    store: EmbeddedStore, grain: Grain, since_ns: int = 0, until_ns: int = 40_000 * DAY_NS, kind: str = "usage"
) -> tuple[Listing, list[Line]]:
    store.settle()
    with snapshot(store.path) as db:
        found = listing(db, Wanted(kind, grain, since_ns, until_ns))
        return found, [line for page in found.pages() for line in page]


def test_the_rows_of_a_grain_in_the_time_asked_for(
    store: EmbeddedStore, put: Put, a_window: AWindow, start_ns: int
) -> None:
    put(store, *(a_window(name, minute, 5.0) for name in "ab" for minute in (0, 1, 60, 1440)))
    table, lines = read(store, "hour", start_ns, start_ns + DAY_NS)
    active = table.sums.index("active_j")
    assert [(line.start_ns - start_ns, line.tags["server"], line.sums[active]) for line in lines] == [
        (0, "a", 10.0),
        (0, "b", 10.0),
        (60 * MINUTE_NS, "a", 5.0),
        (60 * MINUTE_NS, "b", 5.0),
    ]
    assert len(read(store, "minute")[1]) == 8
    assert [line.sums[active] for line in read(store, "day")[1]] == [15.0, 15.0, 5.0, 5.0]


def test_unknown_is_none(store: EmbeddedStore, put: Put, a_window: AWindow) -> None:
    put(store, a_window())
    table, (line,) = read(store, "day")
    by_name = dict(zip(table.sums, line.sums, strict=True))
    assert (by_name["active_j"], by_name["idle_j"], by_name["requests_ok"]) == (600.0, None, 10.0)


def test_columns_are_the_start_every_tag_and_label_and_every_sum(
    store: EmbeddedStore, put: Put, a_window: AWindow
) -> None:
    put(store, a_window("a", labels={"rack": "r", "owner": "o"}), a_window("b", labels={}))
    table, lines = read(store, "day")
    shape = KINDS["usage"]
    server_tags = ("server", "pool", "site", "simulated")
    assert table.columns == ("start", *server_tags, *shape.tags, "owner", "rack", *shape.sums)
    assert [line.tags.get("rack") for line in lines] == ["r", None]


def test_a_label_with_the_name_of_another_column_is_renamed(store: EmbeddedStore, a_window: AWindow) -> None:
    window = a_window()
    row = Row("usage", window.start_ns, {"server": "a", "start": "x", "active_j": "y"}, {"active_j": 1.0})
    store.write([Accounted(window, window.encode(), [row])], 1)
    columns = read(store, "day")[0].columns
    assert {"start", "label_start", "active_j", "label_active_j"} <= set(columns)
    assert len(set(columns)) == len(columns)


def test_minutes_that_are_gone_are_refused_save_where_all_that_is_kept_is_asked_for(
    store: EmbeddedStore, put: Put, a_window: AWindow, start_ns: int
) -> None:
    put(store, a_window(minute=0), a_window(minute=5 * 1440))
    store.settle()
    store.prune(Keep(minutes_ns=DAY_NS), start_ns + 5 * DAY_NS)
    with pytest.raises(NotKept):
        read(store, "minute", start_ns)
    assert len(read(store, "minute")[1]) == 1
    assert len(read(store, "hour", start_ns)[1]) == 2
