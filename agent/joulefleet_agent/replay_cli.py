"""`joulefleet replay`: recordings through the real pipeline, as a declared backfill."""

import logging
import random
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from joulefleet.cli import Mendable
from joulefleet.config import ConfigError
from joulefleet.grid import check_step
from joulefleet.secret import read_token
from joulefleet.source import SourceUnavailable
from joulefleet.units import ns_to_s, s_to_ns
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.config import is_collector
from joulefleet_agent.cutter import Identity
from joulefleet_agent.link import PostLink
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.places import state_dir
from joulefleet_agent.recording import BadReadings, RecordedReadings
from joulefleet_agent.replay import (
    BadRecording,
    CollectorSilent,
    Outcome,
    Progress,
    replay_source,
    replay_spool,
    replay_windows,
    span,
    timeline_of,
)
from joulefleet_agent.replay_readings import replay_readings
from joulefleet_agent.service import only_one
from joulefleet_agent.sources import opener_of
from joulefleet_agent.spool import Bounds, Spool, SpoolUnavailable
from joulefleet_agent.uplink import Uplink

COLLECTOR = "http://127.0.0.1:8765"
REPLAY_BOUNDS = Bounds(max_bytes=16 * 1024**3)


def of_collector(_context: click.Context, _option: click.Parameter, url: str | None) -> str | None:
    """A URL as it is, where it is one: another scheme than https would send a token in clear text."""
    if url is not None and not is_collector(url):
        raise click.BadParameter("expected a URL without a user or a query, such as http://127.0.0.1:8765")
    return url


to_collector = click.option(
    "--collector",
    "url",
    default=COLLECTOR,
    show_default=True,
    callback=of_collector,
    help="Where the windows go.",
)
with_token = click.option(
    "--token-file", type=click.Path(path_type=Path, dir_okay=False), help="The server's token, where one is needed."
)
as_json = click.option("--json", "json_", is_flag=True, help="Print the outcome as JSON.")
on_server = click.option("--server", required=True, help="Name of the server in the fleet.")
with_step = click.option("--step", "step_s", default=60.0, show_default=True, help="Length of a window in seconds.")
of_hardware = click.option("--hardware", default="", help="Name of the hardware; told by the recording if not given.")
in_spool = click.option("--spool", "spool_path", type=click.Path(path_type=Path), help="Where windows wait meanwhile.")


@click.group()
def replay() -> None:
    """Send a recording through the real pipeline to a collector, as a declared backfill.

    The same recording replayed again changes nothing; one that was interrupted goes on.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


@replay.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@on_server
@click.option("--model", required=True, help="Name of the model that ran.")
@of_hardware
@with_step
@click.option("--all", "all_", is_flag=True, help="The whole power log, not only the measured interval.")
@to_collector
@with_token
@in_spool
@as_json
def mlperf(path: Path, server: str, model: str, hardware: str, step_s: float, all_: bool, **rest: Any) -> None:  # noqa: PLR0913, PLR0917 # one argument an option
    """Replay the folder of one MLPerf run with its power log: PATH is <system>/<benchmark>/<scenario>."""
    table = {"path": str(path.resolve()), "model": model, "hardware": hardware, "all": all_}
    files = [path / name for name in ("spl.txt", "mlperf_log_detail.txt", "mlperf_log_summary.txt")]
    _replay("mlperf", table, [file for file in files if file.exists()], Identity(server=server), step_s, **rest)


@replay.command("nvidia-smi")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@on_server
@click.option("--model", default="", help="Name of the model that ran on all boards of the recording.")
@click.option("--column", default="power.draw", show_default=True, help="Which power column.")
@of_hardware
@with_step
@to_collector
@with_token
@in_spool
@as_json
def nvidia_smi(  # noqa: PLR0913, PLR0917 # one argument an option
    path: Path, server: str, model: str, column: str, hardware: str, step_s: float, **rest: Any
) -> None:
    """Replay a CSV that `nvidia-smi --query-gpu=... --format=csv` wrote."""
    table = {"path": str(path.resolve()), "model": model, "column": column, "hardware": hardware}
    _replay("nvidia_smi", table, [path], Identity(server=server), step_s, **rest)


@replay.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@to_collector
@with_token
@in_spool
@as_json
def windows(path: Path, url: str, token_file: Path | None, spool_path: Path | None, json_: bool) -> None:
    """Send recorded windows, one JSON window a line, as `GET /v1/windows` of a collector gives them."""
    place = spool_path or _spool_of(timeline_of([path], {}))
    with _told_plainly(), Spool(place, REPLAY_BOUNDS) as spool:
        outcome = replay_windows(path, spool, _uplink(url, token_file, spool), _progress(json_))
    _finish(outcome, place, spool_path is None, json_)


@replay.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@to_collector
@with_token
@as_json
def spool(path: Path, url: str, token_file: Path | None, json_: bool) -> None:
    """Send what an agent's spool holds, also what a collector refused as too old. Stop the agent first."""
    with _told_plainly(), only_one(path), Spool(path, REPLAY_BOUNDS) as opened:
        outcome = replay_spool(opened, _uplink(url, token_file, opened))
    _finish(outcome, path, False, json_)


@replay.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--server", default="", help="Name of the server in the fleet; as recorded if not given.")
@click.option("--step", "step_s", type=float, help="Length of a window in seconds; as recorded if not given.")
@to_collector
@with_token
@as_json
def readings(path: Path, server: str, step_s: float | None, url: str, token_file: Path | None, json_: bool) -> None:  # noqa: PLR0913, PLR0917 # one argument an option
    """Play what `joulefleet agent record` kept through the agent's own cutting, on the recording's clocks."""
    with _told_plainly():
        recording = RecordedReadings(path)
        began = recording.began
        identity = msgspec.structs.replace(began.identity, server=server or began.identity.server)
        step_ns = check_step(s_to_ns(step_s)) if step_s is not None else began.step_ns
        timeline = timeline_of([path], {"server": identity.server, "step_ns": step_ns})
        place = _spool_of(timeline)
        place.parent.mkdir(parents=True, exist_ok=True)
        with only_one(place):
            _remove(place)
            with Spool(place, REPLAY_BOUNDS) as spool:
                uplink = _uplink(url, token_file, spool)
                outcome = replay_readings(recording, spool, uplink, identity, step_ns, timeline, _progress(json_))
    _finish(outcome, place, True, json_)


def _replay(  # noqa: PLR0913, PLR0917 # what the commands have in common
    use: str,
    table: dict[str, Any],
    files: list[Path],
    identity: Identity,
    step_s: float,
    url: str,
    token_file: Path | None,
    spool_path: Path | None,
    json_: bool,
) -> None:
    with _told_plainly():
        step_ns = check_step(s_to_ns(step_s))
        source = opener_of(use, use)(table)
        said = {**table, "path": "", "server": identity.server, "step_s": step_s}
        timeline = timeline_of(files, said)
        place = spool_path or _spool_of(timeline)
        with Spool(place, REPLAY_BOUNDS) as spool:
            pipeline = Pipeline(spool, identity, step_ns, timeline)
            outcome = replay_source(pipeline, source, _uplink(url, token_file, spool), spool, _progress(json_))
    _finish(outcome, place, spool_path is None, json_)


def _uplink(url: str, token_file: Path | None, spool: Spool) -> Uplink:
    token = read_token(token_file) if token_file else ""
    return Uplink([PostLink(url, random.SystemRandom(), token)], spool, wall_ns, live=False)


def _spool_of(timeline: int) -> Path:
    return state_dir() / f"replay-{timeline:08x}.db"


def _progress(quiet: bool) -> Progress:
    if quiet or not sys.stderr.isatty():
        return lambda _windows, _at_ns: None

    def show(number: int, at_ns: int) -> None:
        click.echo(f"\r{number} windows, at {_utc(at_ns)} ", err=True, nl=False)

    return show


def _finish(outcome: Outcome, spool: Path, ours: bool, json_: bool) -> None:
    """Say what was done; a spool of our own that has been delivered whole is taken away."""
    if ours and not outcome.refused and not outcome.lost:
        _remove(spool)
    if json_:
        click.echo(msgspec.json.format(msgspec.json.encode(outcome), indent=2).decode())
        return
    if not outcome.windows:
        click.echo("no windows: nothing was sent")
        return
    failed = f", {outcome.failures} readings without a value" if outcome.failures else ""
    click.echo(
        f"{outcome.windows} windows of {span(outcome):.0f} s, {_utc(outcome.from_ns)} to {_utc(outcome.until_ns)},"
        f" stored in {outcome.seconds:.1f} s{failed}"
    )
    if outcome.lost:
        raise click.ClickException(
            f"{outcome.lost} windows found no room in {spool}, and are lost; free its disk, remove it and replay again"
        )
    if outcome.refused:
        refused = ", ".join(f"{number} {code}" for code, number in outcome.refused.items())
        raise click.ClickException(f"the collector refused windows for good: {refused}; they are kept in {spool}")


def _remove(spool: Path) -> None:
    for name in (str(spool), f"{spool}-wal", f"{spool}-shm"):
        Path(name).unlink(missing_ok=True)


def _utc(at_ns: int) -> str:
    return datetime.fromtimestamp(ns_to_s(at_ns), UTC).strftime("%Y-%m-%d %H:%M:%S")


class _told_plainly:  # noqa: N801 # reads as a sentence where it is used
    """Turns what the user can mend into one sentence."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ConfigError | SourceUnavailable | BadRecording | BadReadings | ValueError | OSError):
            raise Mendable(error) from error
        if isinstance(error, CollectorSilent | SpoolUnavailable):
            raise click.ClickException(str(error)) from error
