"""Every kind of store, each in a folder of its own; a new store joins the suite by one line here."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fixtures.handing import Handing
from fixtures.services import ORG, TOKEN, Server
from joulefleet.window import Window
from joulefleet_collector.rows import Row
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.freshness import TOKEN_BITS
from joulefleet_collector.store.influx_config import InfluxConfig
from joulefleet_collector.store.influx_wire import WRITE_TIMEOUT_S, Wire
from joulefleet_collector.store.influxdb import InfluxStore
from joulefleet_collector.store.store import Accounted, Store

NOW_NS = 1_790_000_000 * 10**9


def on_influxdb_1(server: Server, folder: Path) -> Store:
    return on_influxdb(InfluxConfig(url=server.url, database=folder.name), folder)


def on_influxdb_2(server: Server, folder: Path) -> Store:
    return on_influxdb(InfluxConfig(url=server.url, bucket=folder.name, org=ORG, token=TOKEN), folder)


def on_influxdb(config: InfluxConfig, folder: Path, write_timeout_s: float = WRITE_TIMEOUT_S) -> InfluxStore:
    wire = Wire(config, write_timeout_s)
    return InfluxStore(wire, folder, lambda: "epoch-1", lambda: secrets.randbits(TOKEN_BITS), lambda: NOW_NS)


STORES: dict[str, tuple[str, Callable[[Any, Path], Store]]] = {
    "embedded": ("tmp_path", lambda _, folder: EmbeddedStore(folder, lambda: "epoch-1")),
    "handing": ("tmp_path", lambda _, folder: Handing(folder)),
    "influxdb_1": ("influxdb_1", on_influxdb_1),
    "influxdb_2": ("influxdb_2", on_influxdb_2),
}
"""By name: the fixture that it needs, and how it is opened in a folder whose name is used once."""
OF_WINDOWS = ("embedded",)
"""Stores that keep the windows themselves."""


def opened(request: pytest.FixtureRequest, folder: Path) -> Iterator[Store]:
    fixture, opening = STORES[request.param]
    with closing(opening(request.getfixturevalue(fixture), folder)) as store:
        yield store


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from opened(request, tmp_path)


@pytest.fixture(params=OF_WINDOWS)
def keeping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from opened(request, tmp_path)


@pytest.fixture
def put(account: Callable[[Window], list[Row]]) -> Callable[..., int]:
    """Write windows with their rows in one call."""

    def write(store: Store, *windows: Window) -> int:
        return store.write([Accounted(one, one.encode(), account(one)) for one in windows], received_ns=1)

    return write
