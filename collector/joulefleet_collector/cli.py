"""The commands of the collector, and what its other commands share."""

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, get_args

import click
import msgspec

from joulefleet.cli import Mendable
from joulefleet.config import ConfigError
from joulefleet_collector.api import BadQuestion
from joulefleet_collector.auth import new_token
from joulefleet_collector.check import checked, told
from joulefleet_collector.config import MOST_WORKERS, Role, configure
from joulefleet_collector.service import CannotListen, serve
from joulefleet_collector.service import run as run_loop
from joulefleet_collector.sizing import Fleet
from joulefleet_collector.store.export import NoParquet
from joulefleet_collector.store.store import NotKept, StoreUnavailable
from joulefleet_collector.workers import WorkerEnded, serve_with_workers

T = TypeVar("T")

data_dir_option = click.option("--data-dir", metavar="DIR", help="Folder of the store; made where it is missing.")
config_option = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="Configuration in TOML."
)


@click.group()
def collector() -> None:
    """Take windows of agents in, account their joules and answer questions."""


@collector.command()
@data_dir_option
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port on 127.0.0.1; 0 lets the system choose. [default: 8765]"
)
@click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    help="Processes that take windows in; from two on, one more writes for all of them. [default: 1]",
)
@click.option(
    "--role",
    type=click.Choice(get_args(Role)),
    help="On InfluxDB: only take windows (ingest), or only add up and answer (watch). [default: all]",
)
@config_option
def run(
    data_dir: str | None, port: int | None, workers: int | None, role: Role | None, config_file: Path | None
) -> None:
    """Listen until SIGTERM or Ctrl-C."""
    config = or_exit(lambda: configure(config_file, data_dir, port, workers, role))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

    def announce(address: str) -> None:
        click.echo(f"collector listens on {address}, data in {config.data_dir}")

    try:
        or_exit(
            lambda: serve_with_workers(config, announce) if config.workers > 1 else run_loop(serve(config, announce))
        )
    except WorkerEnded as error:
        raise click.ClickException(str(error)) from error


@collector.command()
@data_dir_option
@config_option
@click.option("--servers", type=click.IntRange(1), default=10, show_default=True, help="Servers to size the store for.")
@click.option("--models", type=click.IntRange(1), default=1, show_default=True, help="Models on each of them.")
@click.option("--step", "step_s", type=click.FloatRange(1, 3600), default=60.0, show_default=True, help="Window in s.")
@click.option("--json", "json_", is_flag=True, help="Print the outcome as JSON.")
def check(  # noqa: PLR0913, PLR0917 click hands each option over by name
    data_dir: str | None, config_file: Path | None, servers: int, models: int, step_s: float, json_: bool
) -> None:
    """Prove that the store takes rows, gives them back and counts them once, and size it for a fleet."""
    config = or_exit(lambda: configure(config_file, data_dir, None))
    fleet = Fleet(servers=servers, models=models, step_s=step_s)
    outcome = or_exit(lambda: checked(config, fleet, os.environ))
    click.echo(json.dumps(msgspec.to_builtins(outcome)) if json_ else "\n".join(told(outcome)))


@collector.command()
@click.argument("server")
@click.option(
    "--keys",
    "key_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The fleet's keys; made, with a new key, where it is missing.",
)
@click.option(
    "--generation",
    type=click.IntRange(1, 999_999_999),
    default=1,
    show_default=True,
    help="Raise it, and least_generation in FILE, to withdraw older tokens of this server.",
)
@click.option("--days", type=click.IntRange(1, 36_500), help="For how long; for ever if not given.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def token(server: str, key_file: Path, generation: int, days: int | None, json_: bool) -> None:
    """Make the token with which SERVER's agent may write, as itself and as no other."""
    made, key_id, expires_s = or_exit(lambda: new_token(server, key_file, generation, days, time.time_ns()))
    if json_:
        click.echo(
            json.dumps(
                {"server": server, "key": key_id, "generation": generation, "expires_s": expires_s, "token": made}
            )
        )
    else:
        click.echo(made)


def or_exit(act: Callable[[], T]) -> T:
    """What `act` gives; an error that a person can mend ends the command with one sentence and exit code 2."""
    try:
        return act()
    except (BadQuestion, CannotListen, ConfigError, NoParquet, NotKept, StoreUnavailable) as error:
        raise Mendable(error) from error
