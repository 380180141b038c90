"""The collector put together with the real accounting."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

import aiohttp
import pytest

from fixtures.services import Server
from joulefleet.config import ConfigError
from joulefleet.delivery import pack
from joulefleet.window import Window
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.config import Role, configure
from joulefleet_collector.rows import Row
from joulefleet_collector.service import CannotListen, check_present, listening, open_store, opened, under
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import StoreUnavailable

PACKED = {"Content-Type": "application/msgpack", "Content-Encoding": "zstd"}


async def test_a_window_becomes_a_figure(tmp_path: Path, a_window: Callable[..., Window], start_ns: int) -> None:
    config = configure(None, str(tmp_path), 0)
    with closing(open_store(config)) as store:
        async with (
            listening(config, store, under(Policy()), lambda: start_ns) as address,
            aiohttp.ClientSession(address) as client,
        ):
            body = pack([a_window().encode()])
            headers = {"Content-Type": "application/msgpack", "Content-Encoding": "zstd"}
            async with client.post("/v1/windows", data=body, headers=headers) as response:
                assert (response.status, (await response.json()).get("rejected")) == (200, None)
            async with client.get("/v1/usage?boundary=server&until=" + str(start_ns // 10**9 + 60)) as response:
                usage = await response.json()
    (row,) = usage["rows"]
    assert (row["model"], row["joules_per_request"], row["joules_per_output_token"]) == ("llama", 60.0, 0.6)
    (entry,) = usage["ledger"]
    assert (entry["metered_j"], entry["residual_uj"]) == (600.0, 0.0)


async def test_a_port_in_use_is_told(tmp_path: Path, account: Callable[[Window], list[Row]]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        config = configure(None, str(tmp_path), other.getsockname()[1])
        with closing(open_store(config)) as store, pytest.raises(CannotListen, match=r"in use; .*--port"):
            async with listening(config, store, account, lambda: 0):
                pass


def test_every_store_has_an_epoch_of_its_own(tmp_path: Path) -> None:
    epochs = set()
    for name in ("a", "b"):
        with closing(open_store(configure(None, str(tmp_path / name), None))) as store:
            epochs.add(store.epoch)
    assert len(epochs) == 2


def test_a_folder_without_a_store_is_told(tmp_path: Path) -> None:
    config = configure(None, str(tmp_path), None)
    with pytest.raises(StoreUnavailable, match="no store here"):
        check_present(config)
    open_store(config).close()
    check_present(config)


async def test_an_influxdb_that_is_configured_is_the_store_and_is_rolled_up(
    influxdb_1: Server, tmp_path: Path, a_window: Callable[..., Window], start_ns: int
) -> None:
    file = tmp_path / "collector.toml"
    file.write_text('[store]\nkind = "influxdb"\n')
    config = configure(file, str(tmp_path / "data"), 0)
    environment = {"INFLUX_URL": influxdb_1.url, "INFLUX_DATABASE": tmp_path.name}
    store, keeping = await asyncio.to_thread(opened, config, environment)
    with closing(store):
        async with (
            keeping,
            listening(config, store, under(Policy()), lambda: start_ns) as address,
            aiohttp.ClientSession(address) as client,
        ):
            async with client.post("/v1/windows", data=pack([a_window().encode()]), headers=PACKED) as response:
                assert response.status == 200
            async with client.get("/v1/usage?boundary=server&until=" + str(start_ns // 10**9 + 60)) as response:
                (row,) = (await response.json())["rows"]
            assert (row["model"], row["joules_per_request"]) == ("llama", 60.0)
            async with client.get("/-/ready") as response:
                assert response.status == 200
            async with client.get("/v1/windows?since=all") as response:
                assert (response.status, "only rows are kept" in await response.text()) == (503, True)


@pytest.mark.parametrize(("role", "makes_sums"), [("all", True), ("watch", True), ("ingest", False)])
def test_who_watches_makes_the_sums(influxdb_1: Server, tmp_path: Path, role: Role, makes_sums: bool) -> None:
    file = tmp_path / "collector.toml"
    file.write_text('[store]\nkind = "influxdb"\n')
    environment = {"INFLUX_URL": influxdb_1.url, "INFLUX_DATABASE": tmp_path.name}
    store, keeping = opened(configure(file, str(tmp_path), 0, role=role), environment)
    store.close()
    assert isinstance(keeping, nullcontext) is not makes_sums


def test_a_watch_that_may_not_ask_is_refused(influxdb_1: Server, tmp_path: Path) -> None:
    file = tmp_path / "collector.toml"
    file.write_text('role = "watch"\n[store]\nkind = "influxdb"\n[store.influxdb]\nread = false\n')
    environment = {"INFLUX_URL": influxdb_1.url, "INFLUX_DATABASE": tmp_path.name}
    with pytest.raises(ConfigError, match=r"'watch' asks the store, and store\.influxdb\.read is false"):
        opened(configure(file, str(tmp_path), 0), environment)


def test_the_embedded_store_is_kept_up_too(tmp_path: Path) -> None:
    store, _ = opened(configure(None, str(tmp_path), None), {})
    with closing(store):
        assert isinstance(store, EmbeddedStore)


def test_an_influxdb_without_a_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "collector.toml"
    file.write_text('[store]\nkind = "influxdb"\n')
    with pytest.raises(ConfigError, match="name a bucket"):
        opened(configure(file, str(tmp_path), None), {})
