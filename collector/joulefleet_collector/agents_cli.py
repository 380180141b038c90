"""`joulefleet agents`: who reports, who is silent, who loses, who never came; and who is gone for good."""

import json
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import click
import msgspec

from joulefleet.cli import Mendable
from joulefleet_collector.agents import AgentState
from joulefleet_collector.report_cli import ask, decoded, tell, terminal_width, whom_to_ask, with_token
from joulefleet_collector.report_table import Column, Row, table


@click.group(invoke_without_command=True)
@whom_to_ask
@with_token
@click.option(
    "--expected", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Server names, one a line."
)
@click.option("--pool", "pools", multiple=True, metavar="POOL", help="Only agents of this pool.")
@click.option("--site", "sites", multiple=True, metavar="SITE", help="Only agents of this site.")
@click.option("--json", "json_", is_flag=True, help="Print the answer as JSON.")
@click.pass_context
def agents(  # noqa: PLR0913, PLR0917 click hands each option over by name
    context: click.Context,
    url: str,
    token_file: Path | None,
    expected: Path | None,
    pools: tuple[str, ...],
    sites: tuple[str, ...],
    json_: bool,
) -> None:
    """List the agents of the fleet."""
    if context.invoked_subcommand:
        # What is said before the sub-command holds for it too.
        context.default_map = {"retire": {"url": url, "token_file": token_file, "json_": json_}}
        return
    names = _names(expected) if expected else []
    answer = narrowed(decoded(url, ask(url, "/v1/agents", [], token_file)), names, pools, sites)
    click.echo(json.dumps(answer, indent=2) if json_ else told(answer, terminal_width()))


@agents.command()
@click.argument("servers", nargs=-1, required=True, metavar="SERVER...")
@whom_to_ask
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The operator's token, where the collector has keys.",
)
@click.option("--undo", is_flag=True, help="They are not gone after all.")
@click.option("--json", "json_", is_flag=True, help="Print the answer as JSON.")
def retire(servers: tuple[str, ...], url: str, token_file: Path | None, undo: bool, json_: bool) -> None:
    """Servers are gone for good: they no longer show as silent or missing, until one reports again."""
    answer = decoded(url, tell(url, "/v1/agents/retire", {"servers": servers, "undo": undo}, token_file))
    if json_:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"{'no longer retired' if undo else 'retired'}: {', '.join(answer['servers'])}")
    for note in answer["notes"]:
        click.echo(note, err=True)


def narrowed(answer: Row, expected: Sequence[str], pools: Sequence[str], sites: Sequence[str]) -> Row:
    """The agents of these pools and sites, and those that are expected and never reported, which are of none.

    A fleet has more names than go into an address, so they are not sent.
    """
    known = {state["server"] for state in answer["agents"]}
    missing = [msgspec.to_builtins(AgentState(server=name, status="never")) for name in {*expected} - known]
    chosen = [
        state
        for state in answer["agents"]
        if (not pools or state["pool"] in pools) and (not sites or state["site"] in sites)
    ]
    shown = {state["server"] for state in chosen}
    return {
        "agents": sorted([*chosen, *missing], key=itemgetter("server")),
        "warnings": [one for one in answer["warnings"] if one["server"] in shown],
    }


def told(answer: Row, width: int | None) -> str:
    """The agents as a table, simulated ones marked; then those that are retired by name, and the warnings."""
    shown = [state for state in answer["agents"] if state["status"] != "retired"]
    retired = [state["server"] for state in answer["agents"] if state["status"] == "retired"]
    parts = [table(shown, _columns(shown), width)] if shown else []
    if not answer["agents"]:
        parts.append("No agent has reported yet, or none of those asked for.")
    if retired:
        parts.append(f"{len(retired)} retired: {', '.join(retired)}")
    parts += [f"warning {one['code']}: {one['message']}" for one in answer["warnings"]]
    return "\n".join(parts)


def _columns(shown: list[Row]) -> list[Column]:
    """All columns, but for those of which no agent tells anything."""
    found = [*COLUMNS]
    if any(state["simulated"] for state in shown):
        found.insert(2, Column("source", lambda row: "SIMULATED" if row["simulated"] else "real", right=False))
    return [one for one in found if one.head not in WHERE_SET or any(one.show(state) != "-" for state in shown)]


def _cell(name: str) -> Any:
    def show(row: Row) -> str:
        value = row.get(name)
        if value is None or value == "":
            return "-"
        return f"{value:,.0f}" if isinstance(value, float) else str(value)

    return show


def _labels(row: Row) -> str:
    return " ".join(f"{name}={value}" for name, value in row["labels"].items()) or "-"


def _clock(row: Row) -> str:
    ahead_s, error_s = row["clock_ahead_s"], row["clock_error_s"]
    return "-" if ahead_s is None else f"{ahead_s:+.3f} ±{error_s or 0.0:.3f}"


COLUMNS = (
    Column("server", _cell("server"), right=False),
    Column("status", _cell("status"), right=False),
    Column("pool", _cell("pool"), right=False, drop=4),
    Column("site", _cell("site"), right=False, drop=5),
    Column("labels", _labels, right=False, drop=8),
    Column("last window", _cell("last_window"), right=False, drop=7),
    Column("lag s", _cell("lag_s")),
    Column("clock s", _clock, drop=2),
    Column("waiting", _cell("spool_windows")),
    Column("lost", _cell("lost_windows")),
    Column("lost s", _cell("lost_s"), drop=3),
    Column("lost J", _cell("lost_j"), drop=6),
    Column("refused", _cell("refused_windows"), drop=1),
    Column("version", _cell("version"), right=False, drop=9),
    Column("schema", _cell("schema"), right=False, drop=10),
)
WHERE_SET = frozenset({"pool", "site", "labels"})


def _names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Mendable(f"{path} cannot be read: {error}") from error
    return [name for line in lines if (name := line.partition("#")[0].strip())]
