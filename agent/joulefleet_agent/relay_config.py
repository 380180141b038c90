"""The relay's configuration file: what it reads, and which server may have which of it."""

from pathlib import Path
from typing import Annotated, Any

import msgspec

from joulefleet.config import ConfigError, is_loopback, load
from joulefleet_agent.relay_desk import Right


class Listen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the relay listens. Port 0 lets the system choose."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8766
    tls_certificate: str = ""
    """PEM file of the certificate and its chain; with `tls_key` the relay speaks HTTPS."""
    tls_key: str = ""

    @property
    def has_tls(self) -> bool:
        """Whether the relay speaks HTTPS."""
        return bool(self.tls_certificate and self.tls_key)


class Serves(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one server may have of one source. A server may be named several times."""

    server: str
    source: str
    meters: tuple[str, ...] = ()
    """Ids of meters of that source; all of them if left out, where no other server has some of it."""


class RelayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a relay is told."""

    listen: Listen = Listen()
    key_file: str = ""
    """Keys of the fleet, as `joulefleet collector token` makes them. Without them only this machine reaches it."""
    sources: dict[str, dict[str, Any]]
    """By a name of the operator's own. Each table names its plugin as `use`; its other keys are that plugin's."""
    serves: Annotated[tuple[Serves, ...], msgspec.Meta(min_length=1)]

    @property
    def rights(self) -> dict[str, Right]:
        """By server, the sources that it may have and the meters of each; none of them means all."""
        found: dict[str, dict[str, frozenset[str]]] = {}
        for one in self.serves:
            found.setdefault(one.server, {})[one.source] = frozenset(one.meters)
        return dict(found)


def load_config(path: Path) -> RelayConfig:
    """Read and check a config file. Raises ConfigError."""
    config, where = load(path, RelayConfig), str(path)
    for k, one in enumerate(config.serves):
        if one.source not in config.sources:
            named = ", ".join(config.sources) or "none"
            raise ConfigError(
                where, f"serves[{k}].source", f"no source is named {one.source!r} here; there are {named}"
            )
        if any((one.server, one.source) == (other.server, other.source) for other in config.serves[:k]):
            raise ConfigError(where, f"serves[{k}]", f"{one.server!r} has {one.source!r} twice: name its meters once")
        _check_shares(where, k, config.serves)
    for name, table in config.sources.items():
        if not name or "/" in name:
            raise ConfigError(
                where, f"sources.{name!r}", "expected a name without '/', which stands before ids of meters"
            )
        if not isinstance(table.get("use"), str):
            raise ConfigError(where, f"sources.{name}.use", 'expected the name of a source, such as "snmp"')
    if bool(config.listen.tls_certificate) != bool(config.listen.tls_key):
        raise ConfigError(where, "listen", "tls_certificate and tls_key go together: HTTPS needs both")
    if not is_loopback(config.listen.host) and not (config.key_file and config.listen.has_tls):
        expected = "other machines may reach it only with key_file, listen.tls_certificate and listen.tls_key"
        raise ConfigError(where, "listen.host", expected)
    return config


def _check_shares(where: str, k: int, serves: tuple[Serves, ...]) -> None:
    """No joule is two servers'. Raises ConfigError."""
    one = serves[k]
    for other in (other for other in serves if other.source == one.source and other.server != one.server):
        both = sorted(set(one.meters) & set(other.meters))
        if not one.meters or both:
            told = ", ".join(both) or f"all meters of {one.source!r}"
            expected = f"{told} would be counted for {other.server!r} too: name those of {one.server!r} alone"
            raise ConfigError(where, f"serves[{k}].meters", expected)
