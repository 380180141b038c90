"""The agent's configuration file."""

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from joulefleet.config import ConfigError, load
from joulefleet.grid import check_step
from joulefleet.units import s_to_ns
from joulefleet_agent.spool import Bounds

RESERVED_LABELS = ("server", "pool", "site")


class SourceConfig(msgspec.Struct, frozen=True):
    """One source: which, and the keys that its own config names."""

    use: str
    table: dict[str, Any]


class CollectorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where windows go."""

    url: str | tuple[str, ...] = "http://127.0.0.1:8765"
    """One collector, or several that are tried in turn."""
    token_file: str = ""

    @property
    def urls(self) -> tuple[str, ...]:
        """All collectors, in their order."""
        return (self.url,) if isinstance(self.url, str) else self.url


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that an agent is told.

    Each table of `sources` names its plugin as `use`; its other keys are that plugin's own. Without any, all that this
    machine has are tried.
    """

    server: str = ""
    """Name of this server; the host's name if empty."""
    pool: str = ""
    site: str = ""
    labels: dict[str, str] = {}
    hardware: str = ""
    step_s: float = 60.0
    spool: str = "/var/lib/joulefleet/spool.db"
    spool_bounds: Bounds = msgspec.field(default_factory=Bounds)
    collector: CollectorConfig = msgspec.field(default_factory=CollectorConfig)
    calibration: str = ""
    """File of gains that `joulefleet calibrate` wrote; a relative path starts at the folder of this config."""
    sources: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        """The server's name."""
        return self.server or socket.gethostname()

    @property
    def step_ns(self) -> int:
        """Length of a window in nanoseconds."""
        return s_to_ns(self.step_s)


def load_config(path: Path) -> AgentConfig:
    """Read and check a config file. Raises ConfigError."""
    config = load(path, AgentConfig)
    check(config, str(path))
    return config


def check(config: AgentConfig, where: str) -> None:
    """What types alone do not tell. Raises ConfigError."""
    try:
        check_step(config.step_ns)
    except ValueError as error:
        raise ConfigError(where, "step_s", str(error)) from error
    for label in config.labels:
        if label in RESERVED_LABELS or not label.isidentifier():
            raise ConfigError(
                where, f"labels.{label}", "a label's name is letters, digits and '_', and not a word of ours"
            )
    if not config.collector.urls or not all(is_collector(url) for url in config.collector.urls):
        expected = "expected a URL without a user or a query, such as http://127.0.0.1:8765"
        raise ConfigError(where, "collector.url", expected)
    sources_of(config, where)


def is_collector(url: str) -> bool:
    """Whether this is a URL of a collector; a password in it would be told in logs."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    return named and parts.scheme in ("http", "https") and "@" not in parts.netloc and not parts.query


def sources_of(config: AgentConfig, where: str) -> list[SourceConfig]:
    """The sources, each with its name and its own table. Raises ConfigError."""
    out = []
    for k, table in enumerate(config.sources):
        use = table.get("use")
        if not isinstance(use, str):
            raise ConfigError(where, f"sources[{k}].use", 'expected the name of a source, such as "nvml"')
        out.append(SourceConfig(use, {name: value for name, value in table.items() if name != "use"}))
    return out
