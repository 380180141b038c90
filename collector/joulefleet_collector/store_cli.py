"""The commands that look after the collector's store: contents, copies, space, sums anew, fitted watts, tables."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import click

from joulefleet.grid import rfc3339
from joulefleet.units import bytes_to_mb
from joulefleet_collector.account.drawing import Drawing
from joulefleet_collector.account.fit import Fit
from joulefleet_collector.api import times
from joulefleet_collector.cli import config_option, data_dir_option, or_exit
from joulefleet_collector.config import CollectorConfig, configure
from joulefleet_collector.rows import KINDS
from joulefleet_collector.service import check_present, open_store, under
from joulefleet_collector.store.backup import back_up
from joulefleet_collector.store.embedded import FILE_NAME
from joulefleet_collector.store.export import Format, export
from joulefleet_collector.store.info import Info, Span, inspect
from joulefleet_collector.store.listing import Grain, Wanted
from joulefleet_collector.store.store import STEP_NS
from joulefleet_collector.watts import watts_json, watts_text, with_watts

json_option = click.option("--json", "json_", is_flag=True, help="Print the outcome as JSON.")
TELL_EVERY = 10_000
"""Windows between two words of progress."""
new_file = click.Path(path_type=Path, dir_okay=False)


@click.group()
def store() -> None:
    """Look after the collector's store."""


@store.command()
@data_dir_option
@config_option
@json_option
def info(data_dir: str | None, config_file: Path | None, json_: bool) -> None:
    """Sizes, counts, times and versions of the store."""
    config = _configured(config_file, data_dir)
    found = or_exit(lambda: inspect(config.data_dir / FILE_NAME))
    click.echo(json.dumps(_as_table(found)) if json_ else "\n".join(_as_text(found)))


@store.command()
@click.argument("file", type=new_file)
@data_dir_option
@config_option
@json_option
def backup(file: Path, data_dir: str | None, config_file: Path | None, json_: bool) -> None:
    """Copy the store to the new file FILE while the collector runs, and check the copy."""
    config = _configured(config_file, data_dir)
    size = or_exit(lambda: back_up(config.data_dir / FILE_NAME, file, _progress_bytes))
    _tell(json_, {"file": str(file), "bytes": size}, f"{bytes_to_mb(size):.1f} MB copied to {file}")


@store.command()
@data_dir_option
@config_option
@json_option
def compact(data_dir: str | None, config_file: Path | None, json_: bool) -> None:
    """Remove what is older than shall be kept and write the file without unused space.

    A collector that runs meanwhile answers that it is busy, and agents keep their windows until it is done.
    """
    config = _configured(config_file, data_dir)
    before = _size(config)
    windows, rows = or_exit(lambda: _compact(config))
    outcome = {"windows_removed": windows, "minute_rows_removed": rows, "bytes_before": before, "bytes": _size(config)}
    said = f"{windows} windows and {rows} rows of minutes removed; {_mb(before)} MB before, {_mb(_size(config))} MB now"
    _tell(json_, {"data_dir": str(config.data_dir), **outcome}, said)


@store.command()
@data_dir_option
@config_option
@json_option
def recount(data_dir: str | None, config_file: Path | None, json_: bool) -> None:
    """Make all sums anew from the kept windows, after a change of policy.

    Sums of days of which a window is no longer kept stay as they are.
    """
    config = _configured(config_file, data_dir)
    windows, days = or_exit(lambda: _recount(config))
    left = [rfc3339(day_ns)[:10] for day_ns in days]
    said = f"{windows} windows recounted in {config.data_dir}"
    if left:
        said += f"; sums of {len(left)} days stay as they were ({left[0]} to {left[-1]}): their windows are gone"
    _tell(json_, {"windows": windows, "data_dir": str(config.data_dir), "days_left": left}, said)


@store.command("fit-watts")
@click.option("--since", default="all", show_default=True, metavar="TIME", help="RFC 3339, unix seconds, -1h, or all.")
@click.option("--until", default="now", show_default=True, metavar="TIME", help="As --since.")
@data_dir_option
@config_option
@json_option
def fit_watts(since: str, until: str, data_dir: str | None, config_file: Path | None, json_: bool) -> None:
    """Find the watts of each model and phase in the kept windows, for the policy.

    Busy seconds of unlike models and phases are then worth what they drew. Fits that windows do not bear are refused.
    """
    config = _configured(config_file, data_dir)
    span = or_exit(lambda: times({"since": since, "until": until}, time.time_ns(), STEP_NS["minute"]))
    fits = or_exit(lambda: _fit_watts(config, span))
    policy = with_watts(config.policy, fits)
    asked = {"since": rfc3339(span[0]), "until": rfc3339(span[1])}
    _tell(json_, {**asked, **watts_json(fits, policy)}, watts_text(fits, policy))


@store.command("export")
@click.option("--format", "form", type=click.Choice(get_args(Format)), default="csv", show_default=True)
@click.option("--kind", type=click.Choice(sorted(KINDS)), default="usage", show_default=True, help="Which rows.")
@click.option("--step", type=click.Choice(get_args(Grain)), default="hour", show_default=True)
@click.option("--since", default="", metavar="TIME", help="RFC 3339, unix seconds, -1h, or all. [default: -24h]")
@click.option("--until", default="now", show_default=True, metavar="TIME", help="As --since.")
@click.option("-o", "--output", "file", type=new_file, required=True, metavar="FILE", help="File to make.")
@data_dir_option
@config_option
@json_option
def export_(  # noqa: PLR0913, PLR0917 click hands each option over by name
    form: Format,
    kind: str,
    step: Grain,
    since: str,
    until: str,
    file: Path,
    data_dir: str | None,
    config_file: Path | None,
    json_: bool,
) -> None:
    """Write sums to a table for other programs: the start of each step, tags, and sums; unknown is empty."""
    config = _configured(config_file, data_dir)
    span = or_exit(lambda: times({"since": since, "until": until}, time.time_ns(), STEP_NS[step]))
    rows = or_exit(lambda: _export(config, Wanted(kind, step, *span), form, file))
    asked = {"kind": kind, "step": step, "since": rfc3339(span[0]), "until": rfc3339(span[1])}
    _tell(json_, {"file": str(file), "rows": rows, **asked}, f"{rows} rows written to {file}")


def _configured(config_file: Path | None, data_dir: str | None) -> CollectorConfig:
    config = or_exit(lambda: configure(config_file, data_dir, None))
    or_exit(lambda: check_present(config))
    return config


def _tell(json_: bool, outcome: dict[str, object], said: str) -> None:
    click.echo(json.dumps(outcome) if json_ else said)


def _compact(config: CollectorConfig) -> tuple[int, int]:
    windows, rows, more = 0, 0, True
    with closing(open_store(config)) as opened:
        while more:
            part = opened.prune(config.store.keep, time.time_ns())
            windows, rows, more = windows + part.windows, rows + part.minute_rows, part.more
            click.echo(f"{windows} windows and {rows} rows of minutes removed", err=True)
        click.echo("writing the file anew", err=True)
        opened.compact()
    return windows, rows


def _recount(config: CollectorConfig) -> tuple[int, list[int]]:
    counted = 0

    def progress(done: int, total: int) -> None:
        nonlocal counted
        counted = done
        click.echo(f"{done} of {total} windows", err=True)

    with closing(open_store(config)) as opened:
        opened.recount(under(config.policy), progress)
        return counted, opened.settled_days()


def _fit_watts(config: CollectorConfig, span: tuple[int, int]) -> list[Fit]:
    drawing, done = Drawing(config.policy), 0
    with closing(open_store(config)) as opened:
        for window in opened.windows(None, *span):
            drawing.add(window)
            done += 1
            if done % TELL_EVERY == 0:
                click.echo(f"{done} windows", err=True)
    return drawing.fits()


def _export(config: CollectorConfig, wanted: Wanted, form: Format, file: Path) -> int:
    with closing(open_store(config)) as opened:
        opened.settle()
    return export(config.data_dir / FILE_NAME, wanted, form, file, lambda done: click.echo(f"{done} rows", err=True))


def _progress_bytes(done: int, total: int) -> None:
    click.echo(f"{_mb(done)} of {_mb(total)} MB", err=True)


def _size(config: CollectorConfig) -> int:
    return (config.data_dir / FILE_NAME).stat().st_size


def _mb(size: int) -> str:
    return f"{bytes_to_mb(size):.1f}"


def _as_table(found: Info) -> dict[str, object]:
    return {
        "path": found.path,
        "epoch": found.epoch,
        "versions": {"joulefleet": version("joulefleet"), "schema": found.schema, "sqlite": found.sqlite},
        "bytes": {
            "file": found.file_bytes,
            "unused": found.unused_bytes,
            "log": found.log_bytes,
            "waiting": found.waiting_bytes,
        },
        "servers": found.servers,
        "windows": {**_span(found.windows), "forgotten": found.windows_forgotten},
        "minutes_from": _instant(found.minutes_from_ns or None),
        "rollups": {name: _span(span) for name, span in found.rollups.items()},
    }


def _span(span: Span) -> dict[str, object]:
    return {"count": span.count, "first": _instant(span.first_ns), "last": _instant(span.last_ns)}


def _instant(at_ns: int | None) -> str | None:
    return None if at_ns is None else rfc3339(at_ns)


def _as_text(found: Info) -> Iterator[str]:
    yield f"{found.path}: {_mb(found.file_bytes)} MB, {_mb(found.unused_bytes)} unused, log {_mb(found.log_bytes)} MB"
    yield f"epoch {found.epoch}, schema {found.schema}, joulefleet {version('joulefleet')}, SQLite {found.sqlite}"
    yield f"{found.servers} servers, {found.windows_forgotten} windows counted and no longer kept"
    if found.waiting_bytes:
        yield f"rows of {_mb(found.waiting_bytes)} MB wait to be added to the sums below"
    if found.minutes_from_ns:
        yield f"sums of minutes are kept from {rfc3339(found.minutes_from_ns)} on"
    for name, span in {"windows": found.windows, **found.rollups}.items():
        if span.count:
            yield f"{name:18} {span.count:>12}  {_instant(span.first_ns)} to {_instant(span.last_ns)}"
