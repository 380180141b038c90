"""Any vendor's tool as a meter: runs a command, finds power or energy in what it prints, as the config describes it.

The command is a list of words, run without a shell as the agent's own user, once for each reading or, with `stream`,
on and on with a line for each sample. It gets no more of the agent's environment than PATH and what is named. Where
the values stand in its output, JSON or text, is told as output.py describes.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from joulefleet import ConfigError, Engine, Failure, Meter, Reading, Source, SourceUnavailable, typed
from joulefleet.reading import MeterReading
from joulefleet.secret import hidden, read_secret
from joulefleet.units import NS_PER_S, s_to_ns
from joulefleet_plugins.interfaces.output import (
    Bound,
    MeterTable,
    Output,
    asks,
    bind,
    check,
    longest_ns,
    meter_of,
    meters_of,
    read_all,
)
from joulefleet_plugins.interfaces.process import Command, CommandFailed, Line, Lines
from joulefleet_plugins.interfaces.quantity import BadOutput

TRIED = "faithful fake"
WHERE = "source exec"
ENVIRONMENT = {"LC_ALL": "C"}
"""So that tools write numbers with a point."""
AFTER_TIMEOUT_NS = 2 * NS_PER_S
"""In which a tool that was killed is waited for."""

Nonempty = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class ExecConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One command and what its output tells."""

    command: Nonempty
    """The tool and its arguments; no shell looks at them."""
    meters: tuple[MeterTable, ...]
    stream: bool = False
    """Whether it runs on and on and prints a line for each sample."""
    period_s: Annotated[float, msgspec.Meta(ge=0.1)] = 5.0
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0
    environment: dict[str, str] = {}
    """Variables for the command, beside PATH and LC_ALL."""
    inherit: tuple[str, ...] = ()
    """Variables that it gets from the agent's environment. What is in them is told nowhere."""
    secrets: dict[str, str] = {}
    """Variables that are read from files. What is in them is told nowhere."""


class Tool(msgspec.Struct, frozen=True):
    """A command that can be run, and what must not be told of it."""

    command: Command
    secrets: tuple[str, ...] = ()

    def ask(self) -> Output:
        """One output. Raises CommandFailed."""
        return Output(self.command.run())

    def failure(self, error: CommandFailed | BadOutput) -> Failure:
        """A failure of everything that it tells."""
        return Failure(subject="", code=error.code, detail=hidden(error.detail, self.secrets))

    def safe(self, reading: Reading) -> Reading:
        """The reading, in which no secret stands that the tool may have repeated."""
        if not isinstance(reading, Failure):
            return reading
        return msgspec.structs.replace(reading, detail=hidden(reading.detail, self.secrets))


class Samples:
    """A command that is run for each reading."""

    def __init__(self, tool: Tool, bound: Sequence[Bound], period_ns: int, now_ns: Callable[[], int] = time.time_ns):
        """`now_ns` is the wall clock, to which times in the output are compared."""
        self.declares: tuple[Meter | Engine, ...] = meters_of(bound)
        self.period_ns = period_ns
        self.deadline_ns = s_to_ns(tool.command.timeout_s) + AFTER_TIMEOUT_NS
        self._tool = tool
        self._bound = bound
        self._now_ns = now_ns

    def read(self) -> list[Reading]:
        """Every meter once; a command that failed is a failure of all of them."""
        try:
            readings = read_all(self._bound, self._tool.ask(), self._now_ns())
        except CommandFailed as error:
            return [self._tool.failure(error)]
        return [self._tool.safe(one) for one in readings]


class Stream:
    """A command that runs on and on; each of its lines is read by itself, at the time at which it came."""

    deadline_ns = AFTER_TIMEOUT_NS

    def __init__(
        self,
        tool: Tool,
        bound: Sequence[Bound],
        period_ns: int,
        now_ns: Callable[[], int] = time.time_ns,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`now_ns` is the wall clock, `clock_ns` one that nobody sets. Raises CommandFailed."""
        self.declares: tuple[Meter | Engine, ...] = meters_of(bound)
        self.period_ns = period_ns
        self._tool = tool
        self._bound = bound
        self._now_ns = now_ns
        self._clock_ns = clock_ns
        self._lines = Lines(tool.command.argv, tool.command.environment, clock_ns)
        self._heard_ns = {meter.id: 0 for meter in meters_of(bound)}

    def read(self) -> list[Reading]:
        """What came since the last read, and a failure for each meter of which nothing came for too long."""
        try:
            lines = self._lines.take()
        except CommandFailed as error:
            return [self._tool.failure(error)]
        readings = [reading for line in lines for reading in self._read(line)]
        return [*readings, *self._stale()]

    def _read(self, line: Line) -> list[Reading]:
        output, since_ns = Output(line.text), self._clock_ns() - line.came_ns
        readings: list[Reading] = []
        for bound in self._bound:
            try:
                readings += bound.read(output, self._now_ns() - since_ns)
            except BadOutput:
                continue  # A line of another kind: a banner, a heading.
        for reading in readings:
            self._heard_ns[meter_of(reading)] = line.came_ns
        return [self._tool.safe(_aged(reading, since_ns)) for reading in readings]

    def _stale(self) -> list[Failure]:
        now_ns = self._clock_ns()
        meters = meters_of(self._bound)
        begun_ns = self._lines.started_ns
        silent = [one.id for one in meters if now_ns - max(self._heard_ns[one.id], begun_ns) > longest_ns(one)]
        if len(silent) == len(meters):
            self._lines.end()
        detail = f"{self._tool.command.argv[0]} prints nothing of it any more"
        return [Failure(subject=one, code="stale", detail=detail) for one in silent]


def _aged(reading: Reading, by_ns: int) -> Reading:
    if isinstance(reading, MeterReading):
        return msgspec.structs.replace(reading, age_ns=reading.age_ns + by_ns)
    return reading


def _tool(config: ExecConfig, environ: Mapping[str, str]) -> Tool:
    secrets = {name: read_secret(path) for name, path in config.secrets.items()}
    handed = {name: environ[name] for name in config.inherit if name in environ}
    path = {"PATH": environ.get("PATH", os.defpath)}
    environment = {**path, **ENVIRONMENT, **handed, **config.environment, **secrets}
    found = shutil.which(config.command[0], path=environment["PATH"])
    if found is None:
        raise _not_there(config.command[0])
    hide = (*secrets.values(), *(value for name, value in handed.items() if name != "PATH"))
    return Tool(Command((found, *config.command[1:]), environment, config.timeout_s), hide)


def _not_there(name: str) -> SourceUnavailable:
    if Path(name).exists() and os.sep in name:
        mend = f"make it executable for the agent's user: chmod o+x {name}"
        return SourceUnavailable("permission", f"{name} may not be executed", mend)
    return SourceUnavailable("absent", f"there is no command {name}", "install it, or write its full path")


def _bound(config: ExecConfig, tool: Tool, period_ns: int) -> tuple[Bound, ...]:
    try:
        return bind(config.meters, tool.ask() if asks(config.meters) else None, period_ns)
    except (CommandFailed, BadOutput) as error:
        told = tool.failure(error)
        raise SourceUnavailable(told.code, told.detail, f"try it: {' '.join(config.command)}") from None


def open(table: dict[str, Any]) -> Source:
    """A command as a source.

    Raises ConfigError, and SourceUnavailable where there is no such command, or it does not tell which meters it has.
    """
    config = typed(table, ExecConfig, WHERE)
    check(config.meters, WHERE)
    if config.stream and asks(config.meters):
        expected = "a stream is not asked which meters there are: name `ids` and `max_power_w` of each table"
        raise ConfigError(WHERE, "meters", expected)
    tool = _tool(config, os.environ)
    period_ns = s_to_ns(config.period_s)
    bound = _bound(config, tool, period_ns)
    if not config.stream:
        return Samples(tool, bound, period_ns)
    try:
        return Stream(tool, bound, period_ns)
    except CommandFailed as error:
        raise SourceUnavailable(error.code, hidden(error.detail, tool.secrets), "") from None
