"""The commands of the collector: `collector run` and `store recount`."""

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import click

from joulefleet.config import ConfigError
from joulefleet_collector.config import CollectorConfig, configure
from joulefleet_collector.service import CannotListen, check_present, open_store, serve, under
from joulefleet_collector.store.store import StoreUnavailable

T = TypeVar("T")

data_dir_option = click.option("--data-dir", metavar="DIR", help="Folder of the store; made where it is missing.")
config_option = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="Configuration in TOML."
)


class Mendable(click.ClickException):
    """An error that its reader can mend."""

    exit_code = 2


@click.group()
def collector() -> None:
    """Take windows of agents in, account their joules and answer questions."""


@collector.command()
@data_dir_option
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port on 127.0.0.1; 0 lets the system choose. [default: 8765]"
)
@config_option
def run(data_dir: str | None, port: int | None, config_file: Path | None) -> None:
    """Listen until SIGTERM or Ctrl-C."""
    config = _or_exit(lambda: configure(config_file, data_dir, port))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

    def announce(address: str) -> None:
        click.echo(f"collector listens on {address}, data in {config.data_dir}")

    _or_exit(lambda: asyncio.run(serve(config, announce)))


@click.group()
def store() -> None:
    """Look after the collector's store."""


@store.command()
@data_dir_option
@config_option
@click.option("--json", "json_", is_flag=True, help="Print the outcome as JSON.")
def recount(data_dir: str | None, config_file: Path | None, json_: bool) -> None:
    """Make all sums anew from the kept windows, after a change of policy."""
    config = _or_exit(lambda: configure(config_file, data_dir, None))
    windows = _or_exit(lambda: _recount(config))
    if json_:
        click.echo(json.dumps({"windows": windows, "data_dir": str(config.data_dir)}))
    else:
        click.echo(f"{windows} windows recounted in {config.data_dir}")


def _recount(config: CollectorConfig) -> int:
    counted = 0
    check_present(config)

    def progress(done: int, total: int) -> None:
        nonlocal counted
        counted = done
        click.echo(f"{done} of {total} windows", err=True)

    with closing(open_store(config)) as opened:
        opened.recount(under(config.policy), progress)
    return counted


def _or_exit(act: Callable[[], T]) -> T:
    """What `act` gives; an error that a person can mend ends the command with one sentence and exit code 2."""
    try:
        return act()
    except (ConfigError, CannotListen, StoreUnavailable) as error:
        raise Mendable(str(error)) from error
