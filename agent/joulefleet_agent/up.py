"""`joulefleet up`: collector and agent on this machine, in one command, with figures as they come."""

import fcntl
import http.client
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from joulefleet.cli import Mendable
from joulefleet.config import ConfigError
from joulefleet_agent.children import END_WITHIN_S, CannotGoOn, Children
from joulefleet_agent.config import SourceConfig
from joulefleet_agent.doctor import told
from joulefleet_agent.ending import stop_on_signal
from joulefleet_agent.live import lines_of
from joulefleet_agent.places import state_dir
from joulefleet_agent.probe import NEEDS_CONFIGURATION, Finding, probe
from joulefleet_agent.sources import on_this_machine

STEP_S = 10
NAMED, FOUND = "openmetrics", "found"
"""The sources of engines: those that are named, and those that are found."""
LOOK_EVERY_S = 2.0
TELL_EVERY_S = 10.0


@click.command()
@click.option("--demo", is_flag=True, help="A small simulated fleet, in a store of its own.")
@click.option("--engine", "engines", multiple=True, metavar="URL", help="Metrics page of an inference server here.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="The collector's port.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where everything is kept.")
@click.option("--json", "json_", is_flag=True, help="Print each set of figures as one line of JSON.")
def up(demo: bool, engines: tuple[str, ...], port: int, data_dir: Path | None, json_: bool) -> None:
    """Start collector and agent on this machine and show what an inference costs here. Ctrl-C ends both."""
    folder = data_dir or state_dir() / ("demo" if demo else "up")
    stop = stop_on_signal()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder), Children(folder) as children:
            url = _start_collector(children, folder, port)
            if demo:
                children.start("demo", "agent", "demo", "--collector", url, "--data-dir", str(folder))
                click.echo("A simulated fleet: everything below is SIMULATED.", err=True)
            else:
                _start_agent(children, folder, url, engines)
            click.echo(f"More: joulefleet report --collector {url} --by model,hardware\n", err=True)
            _show(url, stop, children, json_)
    except (CannotGoOn, ConfigError, OSError) as error:
        raise Mendable(error) from error


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder. Raises CannotGoOn where another `up` does: it writes the same config and logs."""
    with (folder / "up.lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            mend = "end it, or choose another folder with --data-dir"
            raise CannotGoOn(f"another `joulefleet up` is running on {folder}; {mend}") from error
        yield


def _start_collector(children: Children, folder: Path, port: int) -> str:
    """Start it and wait until it listens. Returns its URL. Raises CannotGoOn."""
    words = ("run", "--data-dir", str(folder / "store"), "--port", str(port))
    child = children.start("collector", "collector", *words)
    assert child.stdout is not None
    line = child.stdout.readline()
    if " listens on " not in line:
        child.wait(timeout=END_WITHIN_S)
        raise CannotGoOn(children.last_words("collector"))
    url = line.split(" listens on ")[1].split(",")[0]
    click.echo(f"collector: {url}, data in {folder}", err=True)
    return url


def _start_agent(children: Children, folder: Path, url: str, engines: tuple[str, ...]) -> None:
    chosen = [one for one in on_this_machine() if one.use not in (NAMED, FOUND)]
    pages = [SourceConfig(NAMED, {"url": page}) for page in engines]
    # Servers that are started later are found then, so that it stays even if it finds none now.
    looks = SourceConfig(FOUND, {"skip": [urlsplit(url).port]})
    findings = probe([*chosen, *pages, looks], "up", unasked=True)
    wrong = [one.detail for one in findings[len(chosen) : -1] if one.state == NEEDS_CONFIGURATION]
    if wrong:
        raise CannotGoOn(f"--engine: {wrong[0]}")
    for line in told(findings):
        click.echo(line, err=True)
    config = folder / "agent.toml"
    # A page that was named may answer later.
    config.write_text(toml_of(folder, url, [*_readable(chosen, findings), *pages, looks]), encoding="utf-8")
    children.start("agent", "agent", "run", "--config", str(config))


def _readable(sources: list[SourceConfig], findings: list[Finding]) -> list[SourceConfig]:
    """Those that can be read. A model of the host beside real CPU meters stays: it alone tells the whole server."""
    return [one for one, finding in zip(sources, findings, strict=False) if finding.readable]


def toml_of(folder: Path, url: str, sources: list[SourceConfig]) -> str:
    """The agent's config: these sources, to this collector, with everything it keeps in this folder."""
    lines = [f"step_s = {STEP_S}", f"spool = {_quoted(str(folder / 'spool.db'))}"]
    lines += ["", "[collector]", f"url = {_quoted(url)}"]
    for one in sources:
        lines += ["", "[[sources]]", f"use = {_quoted(one.use)}"]
        lines += [f"{name} = {_value(value)}" for name, value in one.table.items()]
    return "\n".join(lines) + "\n"


def _value(value: str | list[int]) -> str:
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    """A TOML string: that of JSON, save that TOML knows no escapes of two halves, and takes no bare DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _show(url: str, stop: threading.Event, children: Children, json_: bool) -> None:
    """Print figures as they come, until told to stop. Raises CannotGoOn where a process of ours has ended."""
    before, trouble, told_at_s = "", "", 0.0
    while not stop.wait(LOOK_EVERY_S):
        children.check()
        if before and time.monotonic() - told_at_s < TELL_EVERY_S:
            continue
        try:
            text = text_of(_ask(url), json_)
        except NoFigures as error:
            if trouble != str(error):
                click.echo(f"no figures now: {error}", err=True)
            trouble = str(error)
            continue
        if text and text != before:
            click.echo(text)
            before, trouble, told_at_s = text, "", time.monotonic()


def text_of(answer: dict[str, Any], json_: bool) -> str:
    """The figures as they are printed; empty where there are none yet. Several lines are set off from the next ones."""
    if json_:
        return json.dumps(answer) if answer["ledger"] else ""
    lines = lines_of(answer)
    return "\n".join([*lines, ""] if len(lines) > 1 else lines)


class NoFigures(Exception):
    """The collector did not answer as it should."""


def _ask(url: str) -> dict[str, Any]:
    """What was used lately. Raises NoFigures."""
    question = f"{url}/v1/usage?since=-10m&by=server,model,version,hardware"
    try:
        with urllib.request.urlopen(question, timeout=10) as answer:  # noqa: S310 # our own collector's URL
            usage: dict[str, Any] = json.load(answer)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoFigures(f"the collector does not answer: {error}") from error
    return usage
