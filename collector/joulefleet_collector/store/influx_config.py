"""How an InfluxDB is reached: `[store.influxdb]` of the configuration, and the environment, which goes before it."""

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from joulefleet.config import ConfigError

PREFIX = "INFLUX_"
"""Every key may be said in the environment: `url` as INFLUX_URL, `token` as INFLUX_TOKEN."""
SECRETS = ("token", "password")
HIDDEN = "(hidden)"


class InfluxConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An InfluxDB, or what takes its line protocol. `bucket` speaks the v2 API, `database` that of 1.x."""

    url: str = "http://127.0.0.1:8086"
    bucket: str = ""
    """For 2.x and later; for 1.8 `database/retention-policy`."""
    org: str = ""
    token: str = ""
    database: str = ""
    """For 1.x."""
    username: str = ""
    password: str = ""
    retention_days: Annotated[float, msgspec.Meta(ge=0, le=36500)] = 0.0
    """How long a bucket or database that is made here keeps what it holds; 0 for ever."""
    create: bool = True
    """Whether the bucket or database may be made where it is missing."""
    read: bool = True
    """False where the server takes lines but answers no InfluxQL, as VictoriaMetrics: then nothing can be asked."""

    def __repr__(self) -> str:
        told = {name: getattr(self, name) for name in self.__struct_fields__}
        hidden = {name: HIDDEN for name in SECRETS if told[name]}
        return f"InfluxConfig({', '.join(f'{name}={text!r}' for name, text in (told | hidden).items())})"

    @property
    def name(self) -> str:
        """The database that InfluxQL knows: on 2.x that of the bucket's name."""
        return self.database or self.bucket.partition("/")[0]

    @property
    def place(self) -> str:
        """Address and name, for a person; no secret."""
        return f"{self.url} {'bucket' if self.bucket else 'database'} '{self.bucket or self.database}'"


def from_environment(config: InfluxConfig, environment: Mapping[str, str], where: str) -> InfluxConfig:
    """The configuration with what the environment says. Raises ConfigError where it names no store or two."""
    said = {
        name: environment[PREFIX + name.upper()]
        for name in config.__struct_fields__
        if PREFIX + name.upper() in environment
    }
    try:
        merged = msgspec.convert(msgspec.to_builtins(config) | said, InfluxConfig, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError("environment", PREFIX.rstrip("_"), str(error)) from error
    _check(merged, where)
    return merged


def _check(config: InfluxConfig, where: str) -> None:
    address = urlsplit(config.url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ConfigError(where, "store.influxdb.url", "expected http://host:port or https://host:port")
    if "@" in address.netloc:
        raise ConfigError(
            where, "store.influxdb.url", "say name and password apart, as INFLUX_USERNAME, INFLUX_PASSWORD"
        )
    if bool(config.bucket) == bool(config.database):
        raise ConfigError(
            where, "store.influxdb", "name a bucket (InfluxDB 2 and later) or a database (1.x), one of them"
        )
