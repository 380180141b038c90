"""The proxy's configuration: where it listens, which server it stands before, and what it may use."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import msgspec

from joulefleet.config import ConfigError, load
from joulefleet_agent.places import state_dir

LISTEN = "127.0.0.1:8400"
METRICS = "127.0.0.1:8401"


class Place(NamedTuple):
    """A host and a port to listen on; port 0 lets the system choose."""

    host: str
    port: int


class ProxyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a proxy is told."""

    to: str = ""
    """URL of the server that answers: scheme, host and port, a path before all paths if it has one. Has to be told."""
    listen: str = LISTEN
    """Host and port for clients."""
    metrics: str = METRICS
    """Host and port of the metrics page, which the agent reads."""
    tenants_file: str = ""
    """Tenants by API key."""
    tenant_header: str = ""
    """A header that names the tenant of a request without an API key."""
    salt_file: str = ""
    """With what keys of no named tenant are hashed; made where there is none."""
    energy_from: str = ""
    """URL of a collector whose newest figures are told with each answer; none are if left out."""
    energy_server: str = ""
    """The server whose figures these are; all servers if left out."""
    energy_token_file: str = ""
    """The collector's token for readers."""
    max_connections: Annotated[int, msgspec.Meta(ge=1)] = 4_096
    max_header_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 65_536
    """Of one header, and of the request's first line."""
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 256 * 1024 * 1024
    max_looked_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 256 * 1024 * 1024
    """Memory for what is read of requests and answers, all together; beyond it they pass unread."""
    connect_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    stop_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """How long answers may go on once the proxy is told to stop."""

    @property
    def salt_path(self) -> Path:
        """Where the salt is."""
        return Path(self.salt_file) if self.salt_file else state_dir() / "proxy-salt"


def load_config(path: Path | None, said: Mapping[str, str]) -> ProxyConfig:
    """The file, if there is one, and what the command line says instead; checked. Raises ConfigError."""
    config = ProxyConfig() if path is None else load(path, ProxyConfig)
    config = msgspec.structs.replace(config, **said)
    _check(config, str(path or "proxy"))
    return config


def _check(config: ProxyConfig, where: str) -> None:
    """Raises ConfigError for what no proxy can use."""
    if not config.to:
        raise ConfigError(where, "to", "name the server that answers: --to http://appliance:8000, or in --config FILE")
    for key in ("listen", "metrics"):
        place(getattr(config, key), where, key)
    _check_url(config.to, where, "to")
    if config.energy_from:
        _check_url(config.energy_from, where, "energy_from")


def place(text: str, where: str, key: str) -> Place:
    """The host and port in `HOST:PORT`. Raises ConfigError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ConfigError(where, key, f"expected a host and a port, such as {LISTEN}")
    return Place(host.strip("[]"), int(port))


def _check_url(url: str, where: str, key: str) -> None:
    parts = urlsplit(url)
    try:
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if parts.username is not None or parts.password is not None:
        raise ConfigError(where, key, "a URL is no place for a password: clients send their keys themselves")
    if not good or parts.query or parts.fragment:
        raise ConfigError(where, key, "expected a URL, such as http://appliance:8000")
