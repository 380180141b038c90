"""The command `report`: asks a collector what requests and tokens cost in energy, and prints it."""

import http.client
import shutil
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

import click
import msgspec

from joulefleet.config import ConfigError
from joulefleet.delivery import JSON_TYPE
from joulefleet.secret import read_secret
from joulefleet_collector.auth import SHORTEST_SECRET
from joulefleet_collector.report_table import report as as_text

DEFAULT_URL = "http://127.0.0.1:8765"
TIMEOUT_S = 60.0


whom_to_ask = click.option(
    "--collector", "url", default=DEFAULT_URL, show_default=True, metavar="URL", help="Whom to ask."
)
with_token = click.option(
    "--token-file", type=click.Path(path_type=Path, dir_okay=False), help="A reader's token, to ask from elsewhere."
)
only_where = click.option("--where", multiple=True, metavar="TAG=VALUE", help="Of this value of any tag.")


@click.command()
@whom_to_ask
@with_token
@click.option("--since", default="", metavar="TIME", help="RFC 3339, unix seconds, -1h, or all. [default: -24h]")
@click.option("--until", default="now", show_default=True, metavar="TIME", help="As --since.")
@click.option(
    "--by",
    default="model,hardware",
    show_default=True,
    metavar="TAGS",
    help="Tags that stay apart; also tenant, phase.",
)
@click.option("--step", type=click.Choice(["none", "minute", "hour", "day"]), default="none", show_default=True)
@click.option(
    "--boundary",
    "boundaries",
    multiple=True,
    metavar="B",
    help="accelerator, compute, server, fleet or facility. [default: the first three]",
)
@only_where
@click.option("--cost", is_flag=True, help="Cost and CO2, at the boundary facility.")
@click.option("--json", "as_json", is_flag=True, help="The collector's answer as it is.")
def report(  # noqa: PLR0913, PLR0917 click hands each option over by name
    url: str,
    token_file: Path | None,
    since: str,
    until: str,
    by: str,
    step: str,
    boundaries: tuple[str, ...],
    where: tuple[str, ...],
    cost: bool,
    as_json: bool,
) -> None:
    """Joules per request and per token, by model, hardware or any other tag."""
    named = dict.fromkeys((*boundaries, *(("facility",) if cost else ())))
    options = [("until", until), ("by", by), ("step", step), *(("boundary", name) for name in named), *filters(where)]
    body = ask(url, "/v1/usage", [("since", since), *options] if since else options, token_file)
    click.echo(body.decode() if as_json else as_text(decoded(url, body), terminal_width()))


def filters(where: Sequence[str]) -> list[tuple[str, str]]:
    """Tags and the values that they must have, from TAG=VALUE. Raises click's UsageError."""
    return [_filter(text) for text in where]


def _filter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--where '{text}' is no filter; write --where hardware=H100")
    return name, value


def ask(
    url: str,
    path: str,
    options: Sequence[tuple[str, str]],
    token_file: Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """The collector's answer. Raises click's UsageError where the question is wrong, ClickException otherwise."""
    return _exchange(url, f"{path}?{urlencode(options)}", token_file, timeout_s=timeout_s)


def tell(url: str, path: str, what: object, token_file: Path | None = None) -> bytes:
    """The collector's answer to a request that changes something. Raises as `ask`."""
    return _exchange(url, path, token_file, msgspec.json.encode(what))


def _exchange(
    url: str, path: str, token_file: Path | None, body: bytes | None = None, timeout_s: float = TIMEOUT_S
) -> bytes:
    if urlsplit(url).scheme not in ("http", "https"):
        raise click.UsageError(f"'{url}' is no address of a collector; write it as {DEFAULT_URL}")
    headers = {"Authorization": f"Bearer {_token(token_file)}"} if token_file else {}
    headers |= {"Content-Type": JSON_TYPE} if body else {}
    try:
        request = Request(f"{url.rstrip('/')}{path}", body, headers)  # noqa: S310 the scheme is checked above
        with urlopen(request, timeout=timeout_s) as answer:  # noqa: S310 the scheme is checked above
            return bytes(answer.read())
    except HTTPError as error:
        raise _refused(url, error) from error
    except (URLError, OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        mend = "start it with 'joulefleet collector run', or name another with --collector"
        if isinstance(reason, ssl.SSLCertVerificationError):
            mend = "name who signed its certificate, or itself where it did: SSL_CERT_FILE=FILE.pem"
        raise click.ClickException(f"no collector answers at {url} ({reason}); {mend}") from error


def _token(path: Path) -> str:
    try:
        return read_secret(path, SHORTEST_SECRET)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


def _refused(url: str, error: HTTPError) -> click.ClickException:
    body = error.read()
    try:
        sentence = str(msgspec.json.decode(body)["error"])
    except (msgspec.DecodeError, KeyError, TypeError):
        sentence = f"HTTP {error.code}; is it a collector?"
    if error.code == http.client.BAD_REQUEST:
        return click.UsageError(sentence)
    return click.ClickException(f"{url}: {sentence}")


def decoded(url: str, body: bytes) -> dict[str, Any]:
    """The answer's JSON. Raises ClickException where it is none."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise click.ClickException(f"{url} gave no answer of a collector; check --collector") from error


def terminal_width() -> int | None:
    """Characters of a line of the terminal; None where the output goes to a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
