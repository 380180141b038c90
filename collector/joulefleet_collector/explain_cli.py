"""The command `explain`: asks a collector what is behind one figure, and prints it."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import click

from joulefleet_collector.explain.asked import MOST_WINDOWS
from joulefleet_collector.explain.explain_text import explained
from joulefleet_collector.report_cli import (
    ask,
    decoded,
    filters,
    only_where,
    terminal_width,
    whom_to_ask,
    with_token,
)

TIMEOUT_S = 300.0
"""An explanation goes through all windows of a figure, after those that were asked for before it."""
PATHS = ("/v1/usage", "/v1/explain")

Options = list[tuple[str, str]]


@click.command()
@click.argument("what", metavar="FIGURE|URL")
@whom_to_ask
@with_token
@click.option("--since", default="", metavar="TIME", help="RFC 3339, unix seconds, -1h, or all. [default: -24h]")
@click.option("--until", default="", metavar="TIME", help="As --since. [default: now]")
@click.option("--by", default=None, metavar="TAGS", help="As in the report that shows it. [default: model,hardware]")
@click.option("--boundary", metavar="B", help="One of those of the report. [default: the widest up to server]")
@click.option("--model", metavar="MODEL", help="Of this model.")
@click.option("--server", metavar="SERVER", help="Of this server.")
@only_where
@click.option("--windows", type=click.IntRange(0, MOST_WINDOWS), help="So many windows of each sort in full.")
@click.option("--json", "as_json", is_flag=True, help="The collector's answer as it is: everything.")
def explain(  # noqa: PLR0913, PLR0917 click hands each option over by name
    what: str,
    url: str,
    token_file: Path | None,
    since: str,
    until: str,
    by: str | None,
    boundary: str | None,
    model: str | None,
    server: str | None,
    where: tuple[str, ...],
    windows: int | None,
    as_json: bool,
) -> None:
    """What is behind a figure: windows, counters, methods, versions and policy.

    FIGURE is a name such as joules_per_output_token, of the one row that the options leave. Or give the URL of the
    report that it is in: http://collector:8765/v1/usage?since=-1h&model=llama#joules_per_request
    """
    told = [("since", since), ("until", until), ("boundary", boundary), ("model", model), ("server", server)]
    options = [(name, value) for name, value in told if value] + filters(where)
    options += [("by", by)] if by is not None else []
    if windows is not None:
        options.append(("windows", str(windows)))
    if "://" in what:
        url, of_url = read_url(what)
        options = of_url + options
    else:
        options.insert(0, ("figure", what))
    body = ask(url, "/v1/explain", options, token_file, TIMEOUT_S)
    click.echo(body.decode() if as_json else explained(decoded(url, body), terminal_width(), bool(windows)))


def read_url(text: str) -> tuple[str, Options]:
    """The collector's address and the question of a report's URL. Raises click's UsageError.

    What follows `#` names the figure; without it it is joules_per_output_token.
    """
    parts = urlsplit(text)
    path = next((path for path in PATHS if parts.path.endswith(path)), None)
    if path is None:
        raise click.UsageError(f"'{text}' is no address of a report; write http://collector:8765/v1/usage?...#FIGURE")
    base = f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix(path)}"
    options = parse_qsl(parts.query, keep_blank_values=True)
    return base, _named(options, parts.fragment)


def _named(options: Sequence[tuple[str, str]], figure: str) -> Options:
    if not figure:
        return list(options)
    return [("figure", figure), *((name, value) for name, value in options if name != "figure")]
