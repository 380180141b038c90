"""`joulefleet agents`: who reports, who is silent, who loses, and who never came."""

import json
from pathlib import Path
from typing import Any

import click

from joulefleet.cli import Mendable
from joulefleet_collector.report_cli import ask, decoded, terminal_width, whom_to_ask, with_token
from joulefleet_collector.report_table import Column, table

COLUMNS = (
    ("server", "server", False),
    ("status", "status", False),
    ("last window", "last_window", False),
    ("lag s", "lag_s", True),
    ("waiting", "spool_windows", True),
    ("lost", "lost_windows", True),
    ("lost s", "lost_s", True),
    ("lost J", "lost_j", True),
    ("refused", "refused_windows", True),
)


@click.command()
@whom_to_ask
@with_token
@click.option(
    "--expected", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Server names, one a line."
)
@click.option("--json", "json_", is_flag=True, help="Print the answer as JSON.")
def agents(url: str, token_file: Path | None, expected: Path | None, json_: bool) -> None:
    """List the agents of the fleet."""
    names = _names(expected) if expected else []
    answer = decoded(url, ask(url, "/v1/agents", [("expected", name) for name in names], token_file))
    click.echo(json.dumps(answer, indent=2) if json_ else told(answer["agents"]))


def told(states: list[dict[str, Any]]) -> str:
    """The agents as a table, simulated ones marked."""
    if not states:
        return "No agent has reported yet."
    columns = [Column(head, _cell(name), right=right) for head, name, right in COLUMNS]
    if any(state["simulated"] for state in states):
        columns.insert(1, Column("source", lambda row: "SIMULATED" if row["simulated"] else "real", right=False))
    return table(states, columns, terminal_width())


def _cell(name: str) -> Any:
    def show(row: Any) -> str:
        value = row.get(name)
        if value is None or value == "":
            return "-"
        return f"{value:,.0f}" if isinstance(value, float) else str(value)

    return show


def _names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Mendable(f"{path} cannot be read: {error}") from error
    return [name for line in lines if (name := line.partition("#")[0].strip())]
