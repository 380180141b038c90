"""Finds the sources that are installed, by entry point, and what their modules say of themselves.

A module may have constants beside its `open`: TRIED, how far it was tried ("on hardware", "faithful fake", "from
documents", "simulated"); LIVE = False, where it reads a recording or nothing at all; HERE, its table where nobody
configured it.
"""

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from joulefleet.config import ConfigError
from joulefleet.source import OpenSource, Source, SourceUnavailable
from joulefleet_agent.config import SourceConfig
from joulefleet_agent.sampler import Configured

GROUP = "joulefleet.sources"


def installed() -> list[str]:
    """Names of all sources."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def on_this_machine() -> list[SourceConfig]:
    """Every source that reads this machine, as it is tried where nobody configured it."""
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return [SourceConfig(one.name, _here(one)) for one in points if _constant(one, "LIVE", True)]


def _here(point: EntryPoint) -> dict[str, Any]:
    table = _constant(point, "HERE", {})
    return dict(table) if isinstance(table, dict) else {}


def unasked(sources: Sequence[Configured]) -> list[Configured]:
    """The same where nobody configured them: one that needs a config is absent, which is no error."""
    return [Configured(one.name, _absent_without_config(one.opener), one.table) for one in sources]


def _absent_without_config(opener: OpenSource) -> OpenSource:
    def opened(table: dict[str, Any]) -> Source:
        try:
            return opener(table)
        except ConfigError as error:
            mend = "write it as [[sources]] of the agent's config"
            raise SourceUnavailable("needs_configuration", f"{error.key}: {error.expected}", mend) from error

    return opened


def tried_of(name: str) -> str:
    """How far this source was tried; empty where its module does not say."""
    return next((str(_constant(point, "TRIED", "")) for point in entry_points(group=GROUP, name=name)), "")


def _constant(point: EntryPoint, constant: str, default: Any) -> Any:
    try:
        return getattr(import_module(point.module), constant, default)
    except Exception:  # told when it is opened
        return default


def opener_of(name: str, where: str) -> OpenSource:
    """A source's `open`. Its module is imported when it is called: where the source is read, beside the others.

    One whose module cannot be imported raises SourceUnavailable. Raises ConfigError where no source has this name.
    """
    return _opener(entry_points(group=GROUP), name, where)


def _opener(points: EntryPoints, name: str, where: str) -> OpenSource:
    point = next(iter(points.select(name=name)), None)
    if point is None:
        raise ConfigError(where, "sources", f"no source is named {name!r}; there are {', '.join(installed())}")

    def imported_and_opened(table: dict[str, Any]) -> Source:
        try:
            opener: OpenSource = point.load()
        except Exception as error:  # a source's fault must not end the agent
            reason = f"its module cannot be imported: {type(error).__name__}: {error}"
            raise SourceUnavailable("fault", reason) from error
        return opener(table)

    return imported_and_opened


def configured(sources: Sequence[SourceConfig], where: str) -> list[Configured]:
    """Every source with its opener; names are numbered where one is used twice. Raises ConfigError."""
    seen: dict[str, int] = {}
    points = entry_points(group=GROUP)
    out = []
    for one in sources:
        seen[one.use] = seen.get(one.use, 0) + 1
        name = one.use if seen[one.use] == 1 else f"{one.use}#{seen[one.use]}"
        out.append(Configured(name, _opener(points, one.use, where), one.table))
    return out
