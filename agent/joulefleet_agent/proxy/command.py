"""`joulefleet agent proxy`: counts what a server does that has no metrics of its own."""

import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from joulefleet.cli import Mendable
from joulefleet.config import ConfigError
from joulefleet_agent.proxy.config import ProxyConfig, load_config

NEEDS = "the proxy needs more than an agent: pip install 'joulefleet[proxy]'"


@click.command()
@click.option("--config", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="TOML file.")
@click.option("--to", help="URL of the server that answers.")
@click.option("--listen", help="HOST:PORT for clients.")
@click.option("--metrics", help="HOST:PORT of the metrics page, which the agent reads.")
@click.option("--energy-from", help="URL of a collector whose newest figures are told with each answer.")
def proxy(path: Path | None, **said: str | None) -> None:
    """Stand before a server of the OpenAI API that has no metrics, and count its requests and tokens."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        config = load_config(path, {name: value for name, value in said.items() if value is not None})
        service = _service()
        service.run(service.serve(config, str(path or "proxy"), lambda urls: click.echo(_words(urls, config))))
    except (ConfigError, OSError) as error:
        raise Mendable(error) from error


def _service() -> Any:
    """What is heavy, or not installed."""
    try:
        return import_module("joulefleet_agent.proxy.service")
    except ModuleNotFoundError as error:
        raise Mendable(f"{NEEDS} (no module '{error.name}')") from error


def _words(urls: Any, config: ProxyConfig) -> str:
    return f"proxy listens on {urls.clients}, before {config.to}; metrics on {urls.metrics}"
