"""The command `report`: asks a collector what requests and tokens cost in energy, and prints it."""

import http.client
import shutil
import sys
from collections.abc import Sequence
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

import click
import msgspec

from joulefleet_collector.report_table import report as as_text

DEFAULT_URL = "http://127.0.0.1:8765"
TIMEOUT_S = 60.0


@click.command()
@click.option("--collector", "url", default=DEFAULT_URL, show_default=True, metavar="URL", help="Whom to ask.")
@click.option("--since", default="", metavar="TIME", help="RFC 3339, unix seconds, -1h, or all. [default: -24h]")
@click.option("--until", default="now", show_default=True, metavar="TIME", help="As --since.")
@click.option("--by", default="model,hardware", show_default=True, metavar="TAGS", help="Tags that stay apart.")
@click.option("--step", type=click.Choice(["none", "minute", "hour", "day"]), default="none", show_default=True)
@click.option("--boundary", multiple=True, metavar="B", help="accelerator, compute or server. [default: all]")
@click.option("--json", "as_json", is_flag=True, help="The collector's answer as it is.")
def report(  # noqa: PLR0913, PLR0917 click hands each option over by name
    url: str, since: str, until: str, by: str, step: str, boundary: tuple[str, ...], as_json: bool
) -> None:
    """Joules per request and per token, by model, hardware or any other tag."""
    options = [("until", until), ("by", by), ("step", step), *(("boundary", name) for name in boundary)]
    body = ask(url, [("since", since), *options] if since else options)
    click.echo(body.decode() if as_json else as_text(_decoded(url, body), terminal_width()))


def ask(url: str, options: Sequence[tuple[str, str]]) -> bytes:
    """The collector's answer. Raises click's UsageError where the question is wrong, ClickException otherwise."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise click.UsageError(f"'{url}' is no address of a collector; write it as {DEFAULT_URL}")
    try:
        with urlopen(f"{url.rstrip('/')}/v1/usage?{urlencode(options)}", timeout=TIMEOUT_S) as answer:  # noqa: S310 the scheme is checked above
            return bytes(answer.read())
    except HTTPError as error:
        raise _refused(url, error) from error
    except (URLError, OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        mend = "start it with 'joulefleet collector run', or name another with --collector"
        raise click.ClickException(f"no collector answers at {url} ({reason}); {mend}") from error


def _refused(url: str, error: HTTPError) -> click.ClickException:
    body = error.read()
    try:
        sentence = str(msgspec.json.decode(body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        sentence = f"HTTP {error.code}; is it a collector?"
    if error.code == http.client.BAD_REQUEST:
        return click.UsageError(sentence)
    return click.ClickException(f"{url}: {sentence}")


def _decoded(url: str, body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise click.ClickException(f"{url} gave no answer of a collector; check --collector") from error


def terminal_width() -> int | None:
    """Characters of a line of the terminal; None where the output goes to a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
