"""`joulefleet agent`: the daemon on each server."""

import logging
import sys
from importlib import import_module
from pathlib import Path

import click
import msgspec

from joulefleet.cli import Mendable
from joulefleet.config import ConfigError
from joulefleet.reading import Reading, WorkReading
from joulefleet.source import SourceUnavailable
from joulefleet_agent.calibration import sources_in
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.config import AgentConfig, load_config
from joulefleet_agent.ending import stop_on_signal
from joulefleet_agent.in_words import in_words
from joulefleet_agent.sampler import Configured, stamped
from joulefleet_agent.service import run_agent
from joulefleet_agent.spool import SpoolUnavailable

config_file = click.option(
    "--config", "path", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="TOML file."
)


LATER = {
    "demo": "joulefleet_agent.demo",
    "proxy": "joulefleet_agent.proxy.command",
    "relay": "joulefleet_agent.relay_cli",
}
"""Commands that are loaded when they are asked for: the daemon does without what they need."""


class WithLater(click.Group):
    """Knows the commands of LATER without loading them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return sorted([*super().list_commands(ctx), *LATER])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        if cmd_name not in LATER:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(LATER[cmd_name]), cmd_name)
        return command


@click.group(cls=WithLater)
def agent() -> None:
    """Read the meters and engines of this server and deliver whole windows to a collector."""


@agent.command()
@config_file
def run(path: Path) -> None:
    """Run until stopped. Exit code 75 asks the service manager for a new process."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    stop = stop_on_signal()
    try:
        config = load_config(path)
        click.echo(
            f"agent of {config.name}: windows of {config.step_s:g} s to {' or '.join(config.collector.urls)}", err=True
        )
        sys.exit(run_agent(config, str(path), stop))
    except (ConfigError, SpoolUnavailable, OSError) as error:
        raise Mendable(error) from error


@agent.command()
@config_file
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def once(path: Path, json_: bool) -> None:
    """Read every source once and print what it says; nothing is stored or sent."""
    try:
        config: AgentConfig = load_config(path)
        said = {one.name: _read_once(one, str(path)) for one in sources_in(config, str(path))}
    except ConfigError as error:
        raise Mendable(error) from error
    if json_:
        click.echo(msgspec.json.format(msgspec.json.encode(_by_type(said)), indent=2).decode())
        return
    for name, readings in said.items():
        click.echo(f"{name}:")
        for reading in readings:
            click.echo(f"  {reading if isinstance(reading, str) else in_words(reading)}")


@agent.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--config", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its sources.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="How long; until Ctrl-C if not given.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON what was kept.")
def record(file: Path, path: Path | None, seconds: float | None, json_: bool) -> None:
    """Keep the raw readings of every source in FILE, for `joulefleet replay readings`; nothing is stored or sent."""
    from joulefleet_agent.record import began, keep, progress, said_by  # noqa: PLC0415 - the daemon does without it

    stop = stop_on_signal()
    try:
        config = load_config(path) if path else AgentConfig()
        where = str(path or "record")
        heard = said_by(config, where, stop, seconds)
        kept = keep(heard, began(config, where), file, progress())
        click.echo(msgspec.json.encode(kept).decode() if json_ else f"{file}: {kept}")
    except FileExistsError as error:
        raise Mendable(f"{file} exists already; name another file") from error
    except (ConfigError, OSError) as error:
        raise Mendable(error) from error


def _read_once(source: Configured, where: str) -> list[Reading | str]:
    try:
        opened = source.opener(source.table)
        return list(stamped(opened.read(), wall_ns(), opened.declares))
    except SourceUnavailable as error:
        return [f"{error.code}: {error}"]
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.where}", error.key, error.expected) from error


def _by_type(said: dict[str, list[Reading | str]]) -> dict[str, list[object]]:
    return {name: [_plain(one) for one in readings] for name, readings in said.items()}


def _plain(reading: Reading | str) -> object:
    """A reading as JSON has it: its type, and work as a list, since a key of three parts is no name."""
    if isinstance(reading, str):
        return reading
    fields = {name: getattr(reading, name) for name in reading.__struct_fields__}
    if isinstance(reading, WorkReading):
        fields["counts"] = [{"key": key, "counts": counts} for key, counts in reading.counts.items()]
        fields["latency"] = [{"key": key, "latency": kinds} for key, kinds in reading.latency.items()]
    return {"type": type(reading).__name__, **fields}
