"""`joulefleet agent relay`: on a machine that reaches the management network."""

import logging
import sys
from pathlib import Path

import click

from joulefleet.cli import Mendable
from joulefleet.config import ConfigError
from joulefleet_agent.ending import stop_on_signal
from joulefleet_agent.relay import run_relay
from joulefleet_agent.relay_config import RelayConfig, load_config


@click.command()
@click.option(
    "--config", "path", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="TOML file."
)
def relay(path: Path) -> None:
    """Read meters that only the management network reaches, and tell them to the agents of their servers."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    stop = stop_on_signal()
    try:
        config = load_config(path)
        sys.exit(run_relay(config, str(path), stop, lambda url: click.echo(f"relay listens on {url}, {_what(config)}")))
    except (ConfigError, OSError) as error:
        raise Mendable(error) from error


def _what(config: RelayConfig) -> str:
    return f"{_count(len(config.sources), 'source')} for {_count(len(config.rights), 'server')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
