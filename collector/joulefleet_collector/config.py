"""The collector's configuration: where it listens, where it keeps what it takes, and by which policy it accounts."""

import ipaddress
from pathlib import Path
from typing import Annotated

import msgspec

from joulefleet.config import ConfigError, load
from joulefleet_collector.account.policy import Policy

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765
DEFAULT_KEEP_DAYS = 7.0


class Listen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the collector listens. Port 0 lets the system choose."""

    host: str = DEFAULT_HOST
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = DEFAULT_PORT


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where windows and sums are kept, and how old a window may be when it comes."""

    data_dir: str = ""
    keep_windows_days: Annotated[float, msgspec.Meta(gt=0, le=36500)] = DEFAULT_KEEP_DAYS


class CollectorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    listen: Listen = Listen()
    store: StoreConfig = StoreConfig()
    policy: Policy = Policy()

    @property
    def data_dir(self) -> Path:
        """The data folder."""
        return Path(self.store.data_dir)


def configure(path: Path | None, data_dir: str | None, port: int | None) -> CollectorConfig:
    """The configuration of this file, or the default one, with what the command line says. Raises ConfigError."""
    config = load(path, CollectorConfig) if path else CollectorConfig()
    listen = Listen(host=config.listen.host, port=config.listen.port if port is None else port)
    store = StoreConfig(data_dir=data_dir or config.store.data_dir, keep_windows_days=config.store.keep_windows_days)
    where = str(path) if path else "command line"
    _check_loopback(listen.host, where)
    if not store.data_dir:
        raise ConfigError(where, "store.data_dir", "say where to keep the data, here or with --data-dir")
    return CollectorConfig(listen=listen, store=store, policy=config.policy)


def _check_loopback(host: str, where: str) -> None:
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        reason = "tokens are not there yet, and without them anyone who reaches the port could write"
        raise ConfigError(where, "listen.host", f"'{host}' is not this machine's loopback, such as 127.0.0.1: {reason}")
