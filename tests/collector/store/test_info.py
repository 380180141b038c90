"""What the store says of itself."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from joulefleet.window import Window
from joulefleet_collector.store import schema
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.info import Span, inspect
from joulefleet_collector.store.retention import Keep
from joulefleet_collector.store.store import DAY_NS

Put = Callable[..., int]
AWindow = Callable[..., Window]


def test_an_empty_store_has_no_times(tmp_path: Path) -> None:
    with closing(EmbeddedStore(tmp_path, lambda: "an epoch")) as store:
        found = inspect(store.path)
    assert (found.epoch, found.schema, found.servers) == ("an epoch", schema.VERSION, 0)
    assert found.windows == Span(0, None, None)
    assert set(found.rollups) == {name for _, _, name in schema.tables()}
    assert found.file_bytes == store.path.stat().st_size


def test_it_counts_what_is_kept_and_what_is_gone(tmp_path: Path, put: Put, a_window: AWindow, start_ns: int) -> None:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as store:
        put(store, *(a_window(name, day * 1440) for name in "ab" for day in range(10)))
        store.settle()
        whole = inspect(store.path)
        store.prune(Keep(windows_ns=2 * DAY_NS, minutes_ns=4 * DAY_NS), start_ns + 9 * DAY_NS)
        found = inspect(store.path)
    assert whole.windows == Span(20, start_ns, start_ns + 9 * DAY_NS) and whole.minutes_from_ns == 0
    assert found.servers == 2
    assert (found.windows, found.windows_forgotten) == (Span(6, start_ns + 7 * DAY_NS, start_ns + 9 * DAY_NS), 14)
    assert found.minutes_from_ns == start_ns + 5 * DAY_NS
    assert found.rollups["usage_minute"] == Span(10, start_ns + 5 * DAY_NS, start_ns + 9 * DAY_NS)
    assert found.rollups["usage_day"] == whole.rollups["usage_day"] == Span(20, start_ns, start_ns + 9 * DAY_NS)
    assert found.unused_bytes > 0 and found.log_bytes > 0


def test_rows_that_wait_are_told_until_they_are_in_the_sums(tmp_path: Path, put: Put, a_window: AWindow) -> None:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as store:
        put(store, *(a_window(f"s{number}") for number in range(200)))
        waiting = inspect(store.path)
        store.settle()
        assert waiting.waiting_bytes > 0 and waiting.rollups["usage_minute"].count < 200
        settled = inspect(store.path)
    assert (settled.waiting_bytes, settled.rollups["usage_minute"].count) == (0, 200)
