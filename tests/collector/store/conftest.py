"""Every kind of store, each in a folder of its own; a new store joins the suite by one line here."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from joulefleet.window import Window
from joulefleet_collector.rows import Row
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import Accounted, Store

STORES: dict[str, Callable[[Path], Store]] = {
    "embedded": lambda folder: EmbeddedStore(folder, lambda: "epoch-1"),
}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with closing(STORES[request.param](tmp_path)) as opened:
        yield opened


@pytest.fixture
def put(account: Callable[[Window], list[Row]]) -> Callable[..., int]:
    """Write windows with their rows in one call."""

    def write(store: Store, *windows: Window) -> int:
        return store.write([Accounted(one, one.encode(), account(one)) for one in windows], received_ns=1)

    return write
