"""`joulefleet simulate`: a mixed fleet whose true answer is known, to a file or to a collector."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from joulefleet.config import ConfigError
from joulefleet.units import NS_PER_S
from joulefleet.window import Window
from joulefleet_agent.simulate.load import Batch, Connection, Pace, Sent, Silent, send_all
from joulefleet_agent.simulate.roster import SimServer, roster
from joulefleet_agent.simulate.scenario import Scenario, check, load_scenario
from joulefleet_agent.simulate.stream import groups
from joulefleet_agent.simulate.trouble import Ordered, with_trouble
from joulefleet_agent.simulate.truth import write_truth

PROGRESS_S = 5.0
OVERRIDES = ("name", "seed", "servers", "begin", "days", "step_s", "arrivals")
"""Keys of a scenario that options replace."""


class Outcome(msgspec.Struct, kw_only=True):
    """What a simulation made."""

    servers: int
    from_s: int
    until_s: int
    windows: int = 0
    """Written to the file or stored by the collector."""
    refused: dict[str, int] = {}
    wire_bytes: int = 0
    seconds: float = 0.0
    windows_per_s: float = 0.0


@click.command()
@click.option("--scenario", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="TOML file.")
@click.option("--servers", type=int, help="Number of servers.  [default: 8]")
@click.option("--days", type=float, help="Simulated days.  [default: 1]")
@click.option("--step", "step_s", type=float, help="Length of a window in seconds.  [default: 60]")
@click.option("--seed", type=int, help="What chance follows from.  [default: 1]")
@click.option("--begin", help="First hour, such as 2026-01-01T00:00:00Z, which is the default.")
@click.option("--name", help="Beginning of the servers' names.  [default: sim]")
@click.option("--arrivals", help="CSV of real requests, such as the Azure LLM traces, that gives the demand's course.")
@click.option(
    "--release", "release_pct", type=float, help="A new version from the middle on that costs so many % more."
)
@click.option("--regression", "regression_pct", type=float, help="The same on other servers, in silence.")
@click.option("--stragglers", type=int, default=0, help="Servers that always cost 15 % more.")
@click.option("--sensor-faults", "faults", type=int, default=0, help="Stuck, reset, failing and hanging meters.")
@click.option("--outages", type=int, default=0, help="Agents that do not run for up to three hours.")
@click.option("--fast", is_flag=True, help="Windows from the closed form instead of through the agent's cutter.")
@click.option("--out", type=click.File("wb"), help="JSON lines for `joulefleet replay windows`; - for standard output.")
@click.option("--collector", "url", help="Send the windows to this collector.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Windows a second; as fast as it goes if left out."
)
@click.option("--connections", default=4, show_default=True, type=click.IntRange(1, 256), help="To the collector.")
@click.option(
    "--batch", default=32, show_default=True, type=click.IntRange(1, 256), help="Windows of a server sent at once."
)
@click.option("--truth", "truth_file", type=click.File("wb"), help="Write what really happened to this JSON file.")
@click.option("--json", "json_", is_flag=True, help="Print the outcome as JSON.")
def simulate(path: Path | None, fast: bool, json_: bool, **options: Any) -> None:
    """Simulate a mixed fleet, the same for the same seed, and know the true answer.

    Every window is marked as simulated.
    """
    if not any(options[name] for name in ("out", "url", "truth_file")) or (options["out"] and options["url"]):
        raise click.UsageError("say where it goes: --out FILE or --collector URL, and --truth FILE if you like")
    try:
        scenario, servers = prepared(path, options)
        if options["truth_file"]:
            write_truth(options["truth_file"], servers, scenario)
        outcome = _made(scenario, servers, fast, options)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except Silent as error:
        raise click.ClickException(str(error)) from error
    _tell(outcome, json_)


def prepared(path: Path | None, options: Mapping[str, Any]) -> tuple[Scenario, list[SimServer]]:
    """The scenario with what options say, and its servers. Raises ConfigError."""
    scenario = load_scenario(path) if path else Scenario()
    said = {name: options[name] for name in OVERRIDES if options[name] is not None}
    table = {**msgspec.to_builtins(scenario), **said}
    try:
        scenario = msgspec.convert(table, Scenario)
    except msgspec.ValidationError as error:
        raise ConfigError("simulate", "", str(error)) from error
    where = str(path or "simulate")
    check(scenario, where)
    names = ("release_pct", "regression_pct", "stragglers", "faults", "outages")
    scenario = with_trouble(scenario, roster(scenario), Ordered(**{name: options[name] for name in names}))
    check(scenario, where)
    return scenario, roster(scenario)


def _made(scenario: Scenario, servers: Sequence[SimServer], fast: bool, options: Mapping[str, Any]) -> Outcome:
    outcome = Outcome(servers=len(servers), from_s=scenario.begin_ns // NS_PER_S, until_s=scenario.end_ns // NS_PER_S)
    began_s = time.monotonic()
    progress = Progress(began_s)
    if options["url"]:
        windows = _told(groups(servers, fast, options["batch"]), progress)
        connections = [Connection(options["url"]) for _ in range(options["connections"])]
        sent = send_all(_encoded(windows), connections, Pace(options["rate"]), progress.sent)
        outcome.windows, outcome.refused, outcome.wire_bytes = sent.windows, sent.refused, sent.wire_bytes
    elif options["out"]:
        pace = Pace(options["rate"])
        for group in _told(groups(servers, fast, 1), progress):
            pace.let(len(group))
            options["out"].writelines(window.encode_json() + b"\n" for window in group)
            outcome.windows += len(group)
    outcome.seconds = time.monotonic() - began_s
    outcome.windows_per_s = outcome.windows / outcome.seconds if outcome.windows else 0.0
    return outcome


class Progress:
    """A line on standard error every few seconds."""

    def __init__(self, began_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._began_s = self._said_s = began_s
        self._clock = clock
        self._made = 0
        self._sent: Sent | None = None

    def made(self, group: Sequence[Window]) -> None:
        """So many more windows were made."""
        self._made += len(group)
        now_s = self._clock()
        if now_s - self._said_s >= PROGRESS_S:
            self._said_s = now_s
            stored = "" if self._sent is None else f", {self._sent.windows} stored"
            rate = self._made / (now_s - self._began_s)
            click.echo(f"{self._made} windows{stored}, {rate:.0f}/s, at {_utc(group[-1].end_ns // NS_PER_S)}", err=True)

    def sent(self, sent: Sent) -> None:
        """So many were stored so far."""
        self._sent = sent


def _told(made: Iterator[list[Window]], progress: Progress) -> Iterator[list[Window]]:
    for group in made:
        progress.made(group)
        yield group


def _encoded(made: Iterator[list[Window]]) -> Iterator[Batch]:
    return ([window.encode() for window in group] for group in made)


def _tell(outcome: Outcome, json_: bool) -> None:
    if json_:
        click.echo(msgspec.json.format(msgspec.json.encode(outcome), indent=2).decode())
    else:
        span = f"{_utc(outcome.from_s)} to {_utc(outcome.until_s)}"
        rate = f", in {outcome.seconds:.1f} s ({outcome.windows_per_s:.0f}/s)" if outcome.windows else ""
        click.echo(f"{outcome.windows} windows of {outcome.servers} servers, {span}{rate}", err=True)
    if outcome.refused:
        refused = ", ".join(f"{number} {code}" for code, number in outcome.refused.items())
        raise click.ClickException(f"the collector refused windows for good: {refused}")


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
