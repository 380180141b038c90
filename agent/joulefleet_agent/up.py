"""`joulefleet up`: collector and agent on this machine, in one command, with figures as they come."""

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import click

from joulefleet_agent.config import SourceConfig
from joulefleet_agent.doctor import told
from joulefleet_agent.live import lines_of
from joulefleet_agent.places import state_dir
from joulefleet_agent.probe import ENGINE_PAGE, ON_THIS_MACHINE, Finding, probe

STEP_S = 10
LOOK_EVERY_S = 2.0
TELL_EVERY_S = 10.0
COLLECTOR_STARTS_S = 30.0


class CannotStart(Exception):
    """One of our own processes did not start; its own words say why."""


class Children:
    """Our own processes: started here, ended here, by their id."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Children":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self._running):
            child.terminate()
        for child in reversed(self._running):
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()

    def start(self, *words: str, log: Path) -> subprocess.Popen[str]:
        """Start a `joulefleet` command whose errors go to this file."""
        with log.open("w", encoding="utf-8") as errors:
            child = subprocess.Popen(
                [sys.executable, "-m", "joulefleet", *words], stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._running.append(child)
        return child

    def ended(self) -> bool:
        """Whether one of them is no longer running."""
        return any(child.poll() is not None for child in self._running)


@click.command()
@click.option("--demo", is_flag=True, help="A small simulated fleet, in a store of its own.")
@click.option("--engine", "engines", multiple=True, metavar="URL", help="Metrics page of an inference server here.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="The collector's port.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where everything is kept.")
@click.option("--json", "json_", is_flag=True, help="Print each set of figures as one line of JSON.")
def up(demo: bool, engines: tuple[str, ...], port: int, data_dir: Path | None, json_: bool) -> None:
    """Start collector and agent on this machine and show what an inference costs here. Ctrl-C ends both."""
    folder = data_dir or state_dir() / ("demo" if demo else "up")
    stop = _stop_on_signal()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Children() as children:
            url = _start_collector(children, folder, port)
            if demo:
                children.start("agent", "demo", "--collector", url, "--data-dir", str(folder), log=folder / "demo.log")
                click.echo("A simulated fleet: everything below is SIMULATED.", err=True)
            else:
                _start_agent(children, folder, url, engines)
            click.echo(f"More: joulefleet report --collector {url} --by model,hardware\n", err=True)
            _show(url, stop, children, json_)
    except (CannotStart, OSError) as error:
        raise click.UsageError(str(error)) from error


def _stop_on_signal() -> threading.Event:
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, end)
    return stop


def _start_collector(children: Children, folder: Path, port: int) -> str:
    """Start it and wait until it listens. Returns its URL."""
    log = folder / "collector.log"
    child = children.start("collector", "run", "--data-dir", str(folder / "store"), "--port", str(port), log=log)
    assert child.stdout is not None
    line = child.stdout.readline()
    if " listens on " not in line:
        child.wait(timeout=COLLECTOR_STARTS_S)
        raise CannotStart(log.read_text(encoding="utf-8").strip().removeprefix("Error: "))
    url = line.split(" listens on ")[1].split(",")[0]
    click.echo(f"collector: {url}, data in {folder}", err=True)
    return url


def _start_agent(children: Children, folder: Path, url: str, engines: tuple[str, ...]) -> None:
    chosen = [one for one in ON_THIS_MACHINE if one.use != "openmetrics"]
    pages = [SourceConfig("openmetrics", {"url": page}) for page in engines or (ENGINE_PAGE,)]
    findings = probe([*chosen, *pages], "up")
    for line in told(findings):
        click.echo(line, err=True)
    # A page that nobody named and that does not answer is no engine; one that was named may answer later.
    found = [page for page, finding in zip(pages, findings[len(chosen) :], strict=True) if engines or finding.readable]
    if not found:
        click.echo(f"No inference server at {ENGINE_PAGE}: name one with --engine URL for energy per token.", err=True)
    config = folder / "agent.toml"
    config.write_text(_toml(folder, url, [*_readable(chosen, findings), *found]), encoding="utf-8")
    children.start("agent", "run", "--config", str(config), log=folder / "agent.log")


def _readable(chosen: list[SourceConfig], findings: list[Finding]) -> list[SourceConfig]:
    """Those that can be read. A model of the host beside real CPU meters stays: it alone tells the whole server."""
    return [one for one, finding in zip(chosen, findings, strict=False) if finding.readable]


def _toml(folder: Path, url: str, sources: list[SourceConfig]) -> str:
    lines = [f"step_s = {STEP_S}", f"spool = {json.dumps(str(folder / 'spool.db'))}"]
    lines += ["", "[collector]", f"url = {json.dumps(url)}"]
    for one in sources:
        lines += ["", "[[sources]]", f"use = {json.dumps(one.use)}"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in one.table.items()]
    return "\n".join(lines) + "\n"


def _show(url: str, stop: threading.Event, children: Children, json_: bool) -> None:
    """Print figures as they come, until told to stop."""
    told_at_s = 0.0
    before: list[str] = []
    while not stop.wait(LOOK_EVERY_S):
        if children.ended():
            raise CannotStart("one of the two processes ended by itself; its log is in the data folder")
        if time.monotonic() - told_at_s < TELL_EVERY_S and before:
            continue
        answer = _ask(url)
        lines = [json.dumps(answer)] if json_ and answer["ledger"] else lines_of(answer)
        if lines and lines != before:
            click.echo("\n".join(lines))
            before, told_at_s = lines, time.monotonic()


def _ask(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/v1/usage?since=-10m&by=server,model,version,hardware", timeout=10) as answer:  # noqa: S310 # our own collector's URL
        usage: dict[str, Any] = json.load(answer)
    return usage
