"""The collector put together with the real accounting."""

import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from joulefleet.delivery import pack
from joulefleet.window import Window
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.config import configure
from joulefleet_collector.rows import Row
from joulefleet_collector.service import CannotListen, check_present, listening, open_store, under
from joulefleet_collector.store.store import StoreUnavailable


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
