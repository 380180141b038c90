"""Declares an engine that counts nothing itself: a worker of a group whose requests another server of it counts.

Requirements: none, and nothing is read. With it the energy of the devices that the worker holds is known as its own,
and a question joins it with the work of its group (tensor or pipeline parallel over several servers).
"""

from typing import Annotated, Any

import msgspec

from joulefleet import ConfigError, Engine, Meter, Reading, Source, WorkReading, typed
from joulefleet.units import s_to_ns
from joulefleet_plugins.work.place import Place, placed

TRIED = "simulated"
LIVE = False
WHERE = "member"


class Config(Place, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worker of a group."""

    software: str
    id: str = ""
    """Default: made of the group's name."""
    period_s: Annotated[float, msgspec.Meta(ge=1)] = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.group:
            raise ValueError("a member has a `group`: the name that its engine with the work has, too")


class MemberSource:
    """An engine that is there and of which no work is known."""

    def __init__(self, config: Config) -> None:
        self._engine = Engine(
            id=config.id or f"{WHERE}@{config.group}",
            software=config.software,
            period_ns=s_to_ns(config.period_s),
            **placed(config)._asdict(),
        )
        self.declares: tuple[Meter | Engine, ...] = (self._engine,)
        self.period_ns = self._engine.period_ns
        self.deadline_ns = self.period_ns

    def read(self) -> list[Reading]:
        """That it is there; no count, which is not a count of 0."""
        return [WorkReading(engine=self._engine.id)]


def open(table: dict[str, Any]) -> Source:
    """A member by its part of the config. Raises ConfigError."""
    config = typed(table, Config, WHERE)
    if not config.software:
        raise ConfigError(WHERE, "software", 'expected what the group runs, such as "vllm"')
    return MemberSource(config)
