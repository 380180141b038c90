"""Finds the sources that are installed, by entry point."""

from collections.abc import Sequence
from importlib.metadata import entry_points

from joulefleet.config import ConfigError
from joulefleet.source import OpenSource
from joulefleet_agent.config import SourceConfig
from joulefleet_agent.sampler import Configured

GROUP = "joulefleet.sources"


def installed() -> list[str]:
    """Names of all sources."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def opener_of(name: str, where: str) -> OpenSource:
    """A source's `open`. Its module is imported now. Raises ConfigError where no source has this name."""
    for point in entry_points(group=GROUP, name=name):
        opener: OpenSource = point.load()
        return opener
    raise ConfigError(where, "sources", f"no source is named {name!r}; there are {', '.join(installed())}")


def configured(sources: Sequence[SourceConfig], where: str) -> list[Configured]:
    """Every source with its opener; names are numbered where one is used twice. Raises ConfigError."""
    seen: dict[str, int] = {}
    out = []
    for one in sources:
        seen[one.use] = seen.get(one.use, 0) + 1
        name = one.use if seen[one.use] == 1 else f"{one.use}#{seen[one.use]}"
        out.append(Configured(name, opener_of(one.use, where), one.table))
    return out
