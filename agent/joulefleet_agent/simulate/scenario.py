"""What a simulation is told: the fleet, the time, and everything that goes wrong in it."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from joulefleet.config import ConfigError, load
from joulefleet.grid import HOUR_NS, check_step, floor_to
from joulefleet.units import s_to_ns, us_to_ns
from joulefleet_agent.simulate.catalogue import (
    DEPLOYMENTS,
    HARDWARE,
    MODELS,
    Deployment,
    Hardware,
    Model,
    Name,
    NotNegative,
    Positive,
    Share,
)

DAY_NS = 24 * HOUR_NS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Hours = NotNegative
"""Hours since the beginning; instants are rounded down to a reading."""


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From an instant on, work costs more or less energy on the servers that are named.

    Each of `server`, `pool`, `site`, `hardware` and `model` narrows them down; empty means all.
    """

    kind: Literal["release", "regression", "straggler"] = "regression"
    """What the truth file calls it."""
    at_h: Hours
    until_h: Hours | None = None
    """For good if not given."""
    energy_pct: Annotated[float, msgspec.Meta(ge=-90, le=400)] = 0.0
    """By how much the energy above idle rises, in per cent."""
    version: str = ""
    """The engine's version from then on; empty for a silent change."""
    server: str = ""
    pool: str = ""
    site: str = ""
    hardware: str = ""
    model: str = ""
    share: Share = 1.0
    """Part of those servers, drawn by chance."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A meter or the engine of one server tells something wrong, or nothing.

    `stuck`: the counter stands still, and goes on from there; `reset`: it begins anew at 0; `gap`: reads fail;
    `hung`: reads do not return.
    """

    kind: Literal["stuck", "reset", "gap", "hung"]
    server: Name
    subject: Name
    """Id of the meter or engine."""
    at_h: Hours
    for_h: Positive = 1.0


class Outage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agent of one server does not run; the server goes on working."""

    server: Name
    at_h: Hours
    for_h: Positive = 1.0


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A simulated fleet and its time; everything that is made follows from it alone."""

    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_.-]+$")] = "sim"
    """Beginning of the servers' names."""
    seed: int = 1
    servers: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 8
    begin: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    """A whole hour of UTC."""
    days: Positive = 1.0
    step_s: Positive = 60.0
    """Length of a window."""
    period_s: Positive = 10.0
    """Time between readings."""
    arrivals: str = ""
    """CSV of real requests (`TIMESTAMP,ContextTokens,GeneratedTokens`) that gives the course of the demand."""
    board_spread: Share = 0.03
    """Boards of one kind differ by up to so much in idle power and in energy above it."""
    demand_noise: Share = 0.1
    """From hour to hour a server's load differs by up to so much from the course."""
    energy_noise: Share = 0.01
    """From hour to hour the energy of equal work differs by up to so much."""
    hardware: tuple[Hardware, ...] = HARDWARE
    models: tuple[Model, ...] = MODELS
    deployments: tuple[Deployment, ...] = DEPLOYMENTS
    changes: tuple[Change, ...] = ()
    faults: tuple[Fault, ...] = ()
    outages: tuple[Outage, ...] = ()

    @property
    def begin_ns(self) -> int:
        """First instant, in nanoseconds since 1970."""
        return us_to_ns((self.begin - _EPOCH) // timedelta(microseconds=1))

    @property
    def end_ns(self) -> int:
        """First instant after the last window."""
        return self.begin_ns + floor_to(round(self.days * DAY_NS), self.step_ns)

    @property
    def step_ns(self) -> int:
        """Length of a window."""
        return s_to_ns(self.step_s)

    @property
    def period_ns(self) -> int:
        """Time between readings."""
        return s_to_ns(self.period_s)

    def instant_ns(self, hours: float) -> int:
        """So many hours after the beginning, at a reading."""
        return self.begin_ns + floor_to(round(hours * HOUR_NS), self.period_ns)


def load_scenario(path: Path) -> Scenario:
    """Read and check a scenario file. Raises ConfigError."""
    scenario = load(path, Scenario)
    check(scenario, str(path))
    return scenario


def check(scenario: Scenario, where: str) -> None:
    """What types alone do not tell. Raises ConfigError."""
    for key, fault in _faults(scenario):
        raise ConfigError(where, key, fault)


def _faults(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Key and reason of whatever cannot be."""
    yield from _times(scenario)
    for key, several in (("hardware", scenario.hardware), ("models", scenario.models)):
        names = [one.name for one in several]
        if len(set(names)) < len(names):
            yield key, "two have one name"
    if not scenario.deployments:
        yield "deployments", "expected at least one"
    for place, one in enumerate(scenario.deployments):
        yield from _unknown(f"deployments[{place}].hardware", one.hardware, scenario.hardware)
        yield from _unknown(f"deployments[{place}].model", one.model, scenario.models)
    for place, kind in enumerate(scenario.hardware):
        if kind.board_max_w <= kind.board_idle_w:
            yield f"hardware[{place}].board_max_w", "expected more than board_idle_w"


def _times(scenario: Scenario) -> Iterator[tuple[str, str]]:
    try:
        check_step(scenario.step_ns)
    except ValueError as error:
        yield "step_s", str(error)
        return
    if scenario.begin.tzinfo is None or scenario.begin_ns % HOUR_NS:
        yield "begin", "expected a whole hour with its offset, such as 2026-01-01T00:00:00Z"
    elif scenario.begin_ns < DAY_NS:
        yield "begin", "expected a day after 1970-01-01"
    if scenario.period_ns <= 0 or scenario.step_ns % scenario.period_ns:
        yield "period_s", f"expected a part of the window's step of {scenario.step_s:g} s"
    if scenario.end_ns == scenario.begin_ns:
        yield "days", "shorter than one window"
    for place, change in enumerate(scenario.changes):
        if change.until_h is not None and change.until_h <= change.at_h:
            yield f"changes[{place}].until_h", "expected a time after at_h"


def _unknown(key: str, name: str, known: Sequence[Hardware | Model]) -> Iterator[tuple[str, str]]:
    if name not in {one.name for one in known}:
        yield key, f"'{name}' is not among {', '.join(one.name for one in known)}"
