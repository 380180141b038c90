"""The collector's configuration: where it listens, where it keeps what it takes, and by which policy it accounts."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from joulefleet.config import ConfigError, is_loopback, load
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.answer.costs import Embodied
from joulefleet_collector.sites import FleetConfig, Site, twice
from joulefleet_collector.store.influx_config import InfluxConfig
from joulefleet_collector.store.retention import Keep
from joulefleet_collector.store.store import DAY_NS

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765
DEFAULT_KEEP_DAYS = 7.0
DEFAULT_KEEP_MINUTES_DAYS = 90.0
MOST_WORKERS = 64

Role = Literal["all", "ingest", "watch"]


class Listen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the collector listens. Port 0 lets the system choose."""

    host: str = DEFAULT_HOST
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = DEFAULT_PORT
    tls_certificate: str = ""
    """PEM file of the certificate and its chain; with `tls_key` the collector speaks HTTPS."""
    tls_key: str = ""

    @property
    def has_tls(self) -> bool:
        """Whether the collector speaks HTTPS."""
        return bool(self.tls_certificate and self.tls_key)


class Auth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may write and read. Without keys the collector listens on loopback only."""

    key_file: str = ""
    """Keys of the fleet, as `joulefleet collector token` makes them."""
    read_token_file: str = ""
    """The token with which another machine may read."""
    operator_token_file: str = ""
    """The token with which agents may be retired, and read."""


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where windows and sums are kept and for how long, and so how old a window may be when it comes."""

    kind: Literal["embedded", "influxdb"] = "embedded"
    data_dir: str = ""
    influxdb: InfluxConfig = InfluxConfig()
    """Where `kind` is influxdb; `data_dir` then holds the rows that it refuses."""
    keep_windows_days: Annotated[float, msgspec.Meta(gt=0, le=36500)] = DEFAULT_KEEP_DAYS
    keep_minutes_days: Annotated[float, msgspec.Meta(gt=0, le=36500)] = DEFAULT_KEEP_MINUTES_DAYS
    """Sums of hours and days are kept for ever."""

    @property
    def keep(self) -> Keep:
        """How long the embedded store keeps what."""
        return Keep(
            windows_ns=round(self.keep_windows_days * DAY_NS), minutes_ns=round(self.keep_minutes_days * DAY_NS)
        )


class CollectorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    listen: Listen = Listen()
    auth: Auth = Auth()
    store: StoreConfig = StoreConfig()
    policy: Policy = Policy()
    sites: tuple[Site, ...] = ()
    """PUE, price and carbon intensity of each."""
    fleet: FleetConfig = FleetConfig()
    embodied: tuple[Embodied, ...] = ()
    """What the making of servers emitted."""
    workers: Annotated[int, msgspec.Meta(ge=1, le=MOST_WORKERS)] = 1
    """Processes that take windows in. From two on, one more writes for all of them."""
    role: Role = "all"
    """`ingest` takes windows and answers no questions; `watch` adds up and answers, and takes none."""

    @property
    def data_dir(self) -> Path:
        """The data folder."""
        return Path(self.store.data_dir)


def configure(
    path: Path | None, data_dir: str | None, port: int | None, workers: int | None = None, role: Role | None = None
) -> CollectorConfig:
    """The configuration of this file, or the default one, with what the command line says. Raises ConfigError."""
    config = load(path, CollectorConfig) if path else CollectorConfig()
    listen = config.listen if port is None else msgspec.structs.replace(config.listen, port=port)
    store = msgspec.structs.replace(config.store, data_dir=data_dir or config.store.data_dir)
    where = str(path) if path else "command line"
    _check_reach(listen, config.auth, where)
    if not store.data_dir:
        raise ConfigError(where, "store.data_dir", "say where to keep the data, here or with --data-dir")
    said = msgspec.structs.replace(
        config, listen=listen, store=store, workers=workers or config.workers, role=role or config.role
    )
    _check_share(said, where)
    _check_once(said, where)
    return said


def _check_once(config: CollectorConfig, where: str) -> None:
    """Two entries of one name would not tell which of them holds."""
    for key, names in (("sites", [one.name for one in config.sites]), ("embodied", _hardware(config))):
        if (name := twice(names)) is not None:
            raise ConfigError(where, key, f"'{name}' stands there twice; leave one of them out")


def _hardware(config: CollectorConfig) -> list[str]:
    return [one.hardware for one in config.embodied]


def _check_share(config: CollectorConfig, where: str) -> None:
    """Only a store that several collectors can reach can be shared by roles."""
    if config.role != "all" and config.store.kind == "embedded":
        reason = f"'{config.role}' needs an InfluxDB; with the embedded store one collector does all: leave it out"
        raise ConfigError(where, "role", reason)


def _check_reach(listen: Listen, auth: Auth, where: str) -> None:
    """Whoever reaches the port could write as anyone, and whoever listens on the way could read a token."""
    if is_loopback(listen.host) or (auth.key_file and listen.has_tls):
        return
    missing = " and ".join(
        name
        for name, there in (("auth.key_file", auth.key_file), ("listen.tls_certificate and tls_key", listen.has_tls))
        if not there
    )
    reason = f"'{listen.host}' is not this machine's loopback, such as 127.0.0.1: for other machines give {missing}"
    raise ConfigError(where, "listen.host", reason)
