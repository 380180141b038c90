"""The usage answer as text that a person likes to read: a table, the reasons, the ledger and the warnings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from joulefleet.units import j_to_kwh, j_to_wh
from joulefleet_collector.answer.phases import TAG as PHASE

Row = Mapping[str, Any]
BEGINNING = "1970-01-01T00:00:00Z"
"""What a collector answers where everything was asked for."""
GAP = "  "
SHORTEST = len("SIMULATED")
"""Width below which a text column is not cut: this word stays whole on every row."""
_SHOWN = {
    "joules_per_request": "J/request",
    "joules_per_output_token": "J/output token",
    "cost": "cost",
    "co2_kg": "CO2",
    "sci_g_per_request": "SCI",
}
"""Figures of the table whose reasons stand below it; the others follow from them."""


class Column(msgspec.Struct, frozen=True):
    """One column: its head with the unit, what it shows, and when it may go where the line is narrow."""

    head: str
    show: Callable[[Row], str]
    right: bool = True
    drop: int = 0
    """Columns with higher numbers are left out first; 0 stays."""


def report(answer: Row, width: int | None) -> str:
    """The whole answer as text, in lines of at most this many characters where that can be; None knows no limit."""
    everything = answer["since"] == BEGINNING
    parts = [
        f"All energy until {answer['until']}" if everything else f"Energy from {answer['since']} to {answer['until']}"
    ]
    parts.append(_usage(answer, width) if answer["rows"] else "No engine of this question reported in this time.")
    tables = (_costs(answer, width), _reasons(answer["rows"]), _ledger(answer, width), _fleet(answer, width))
    parts += filter(None, (*tables, _warnings(answer["warnings"])))
    return "\n\n".join(parts)


def _usage(answer: Row, width: int | None) -> str:
    prompts = [_PROMPTS] if PHASE in answer["by"] else []
    figures = [*_FIGURES[:1], *prompts, *_FIGURES[1:]]
    return table(answer["rows"], [*_key_columns(answer), *_marks(answer["rows"]), *figures], width)


def _key_columns(answer: Row) -> list[Column]:
    steps = [] if answer["step"] == "none" else ["start"]
    tags = [tag for tag in answer["by"] if tag not in ("boundary", "simulated")]
    return [Column(name, _text(name), right=False) for name in (*steps, *tags)]


def _text(name: str) -> Callable[[Row], str]:
    return lambda row: str(row.get(name) or "-")


def _ledger(answer: Row, width: int | None) -> str:
    entries = answer["ledger"]
    if not entries:
        return ""
    tags = [tag for tag in answer["by"] if tag not in ("boundary", "simulated") and tag in entries[0]]
    keys = [Column(name, _text(name), right=False) for name in tags]
    return "Where the metered energy went\n" + table(entries, [*keys, *_marks(entries), *_LEDGER], width)


def _costs(answer: Row, width: int | None) -> str:
    """The rows that tell what they cost, where any does."""
    rows = [row for row in answer["rows"] if any(row.get(name) is not None for name in _COST_NAMES)]
    return "Cost and CO2\n" + table(rows, [*_key_columns(answer), *_marks(rows), *_COSTS], width) if rows else ""


def _fleet(answer: Row, width: int | None) -> str:
    """What the pools of a fleet have beside their engines, who of them was silent, and what no figure contains."""
    fleet = answer.get("fleet")
    if not fleet:
        return ""
    parts = []
    if fleet["pools"]:
        marks = [Column("source", _source, right=False)] if any(pool["simulated"] for pool in fleet["pools"]) else []
        parts.append("What pools use beside their engines\n" + table(fleet["pools"], [*_PLACE, *marks, *_POOLS], width))
    if fleet["inventory"]:
        parts.append("What the inventory expects\n" + table(fleet["inventory"], _INVENTORY, width))
    parts.append("\n".join(f"not in these figures: {what}" for what in fleet["leaves_out"]))
    return "\n\n".join(parts)


def _marks(rows: Sequence[Row]) -> list[Column]:
    """The boundary, and whether a row is simulated where any is."""
    boundary = Column("boundary", _text("boundary"), right=False)
    return [boundary, Column("source", _source, right=False)] if any(row["simulated"] for row in rows) else [boundary]


def _reasons(rows: Sequence[Row]) -> str:
    """Each reason and note once, with the rows that it is about."""
    about: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=1):
        refused: dict[str, list[str]] = {}
        for figure, head in _SHOWN.items():
            if reason := row["reasons"].get(figure):
                refused.setdefault(reason, []).append(head)
        for text in (*(f"no {' and no '.join(heads)}: {reason}" for reason, heads in refused.items()), *row["notes"]):
            about.setdefault(text, []).append(str(number))
    lines = [f"{_rows(numbers, len(rows))}: {text}" for text, numbers in about.items()]
    return "\n".join(lines)


def _rows(numbers: Sequence[str], total: int) -> str:
    if len(numbers) == total:
        return "all rows" if total > 1 else "row 1"
    return f"row{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"


def _warnings(warnings: Sequence[Row]) -> str:
    return "\n".join(f"warning {one['code']}: {one['message']}" for one in warnings)


def table(rows: Sequence[Row], columns: Sequence[Column], width: int | None) -> str:
    """Rows under heads, numbers to the right; what is too wide loses its optional columns, then cuts its texts."""
    shown = list(columns)
    while width and _width(rows, shown) > width and any(column.drop for column in shown):
        shown.remove(max(shown, key=lambda column: column.drop))
    cells = [[column.head for column in shown], *([column.show(row) for column in shown] for row in rows)]
    widths = _fit([max(map(len, texts)) for texts in zip(*cells, strict=True)], shown, width)
    return "\n".join(_line(line, shown, widths) for line in cells)


def _width(rows: Sequence[Row], columns: Sequence[Column]) -> int:
    widest = [max(len(column.head), *(len(column.show(row)) for row in rows)) for column in columns]
    return sum(widest) + len(GAP) * (len(columns) - 1)


def _fit(widths: list[int], columns: Sequence[Column], width: int | None) -> list[int]:
    """Cut the widest text columns until the line fits or none can be cut further."""
    texts = [number for number, column in enumerate(columns) if not column.right]
    while width and sum(widths) + len(GAP) * (len(widths) - 1) > width and texts:
        widest = max(texts, key=lambda number: widths[number])
        if widths[widest] <= SHORTEST:
            break
        widths[widest] -= 1
    return widths


def _line(texts: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    cells = []
    for text, column, wide in zip(texts, columns, widths, strict=True):
        cut = text if len(text) <= wide else text[: wide - 1] + "…"
        cells.append(cut.rjust(wide) if column.right else cut.ljust(wide))
    return GAP.join(cells).rstrip()


def number(value: float | None, digits: int = 4) -> str:
    """A number to so many significant digits, without an exponent where it can be; `-` for none."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def count(value: float | None) -> str:
    """A whole number; `-` for none."""
    return "-" if value is None else f"{value:,.0f}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share in per cent; `-` for none."""
    return "-" if value is None else f"{value:.{digits}%}"


def energy(joules: float | None) -> str:
    """Joules with the unit that keeps them short."""
    if joules is None:
        return "-"
    if abs(joules) < 10_000:
        return f"{number(joules)} J"
    if abs(kwh := j_to_kwh(joules)) < 1:
        return f"{number(j_to_wh(joules))} Wh"
    return f"{number(kwh)} kWh"


def grades(row: Row) -> str:
    """How the joules are known: one grade, or several with their shares, the largest first."""
    by_grade: Mapping[str, float] = row["joules_by_grade"]
    total = sum(by_grade.values())
    if not total:
        return "-"
    if len(by_grade) == 1:
        return next(iter(by_grade))
    largest_first = sorted(by_grade.items(), key=lambda item: -item[1])
    return "+".join(f"{grade} {joules / total:.0%}" for grade, joules in largest_first)


def _source(row: Row) -> str:
    return "SIMULATED" if row["simulated"] else "real"


def _coverage(row: Row) -> str:
    mark = "" if row["status"] == "ok" else f" {row['status']}"
    return percent(row["coverage"]) + mark


def _uncertainty(row: Row) -> str:
    share = row["relative_uncertainty"]
    return "-" if share is None else f"±{percent(share, 1)}"


_PROMPTS = Column("J/prompt token", lambda row: number(row["joules_per_prompt_token"]))
"""Of a phase alone: elsewhere prompts share their energy with the answers."""


def _money(row: Row, name: str) -> str:
    value = row.get(name)
    return "-" if value is None else f"{number(value)} {row['currency']}"


_FIGURES = (
    Column("J/request", lambda row: number(row["joules_per_request"])),
    Column("Wh/1k requests", lambda row: number(row["wh_per_1k_requests"]), drop=6),
    Column("J/output token", lambda row: number(row["joules_per_output_token"])),
    Column("active only", lambda row: number(row["joules_per_output_token_active"]), drop=5),
    Column("tokens/J", lambda row: number(row["output_tokens_per_joule"]), drop=7),
    Column("±k=1", _uncertainty),
    Column("energy", lambda row: energy(row["energy_j"])),
    Column("requests", lambda row: count(row["requests_ok"]), drop=3),
    Column("output tokens", lambda row: count(row["output_tokens"]), drop=4),
    Column("coverage", _coverage),
    Column("grade", grades, right=False),
)
_LEDGER = (
    Column("metered", lambda row: energy(row["metered_j"])),
    Column("active", lambda row: energy(row["active_j"])),
    Column("idle", lambda row: energy(row["idle_j"])),
    Column("unallocated", lambda row: energy(row["idle_unallocated_j"])),
    Column("unattributed", lambda row: energy(row["unattributed_j"])),
    Column("unmatched", lambda row: energy(row["unmatched_j"])),
    Column("late", lambda row: energy(row["late_j"]), drop=2),
    Column("rejected", lambda row: energy(row["rejected_j"]), drop=3),
    Column("residual µJ", lambda row: number(row["residual_uj"]), drop=4),
    Column("mean W", lambda row: number(row["mean_power_w"]), drop=1),
    Column("coverage", lambda row: percent(row["coverage"])),
)
_COSTS = (
    Column("cost", lambda row: _money(row, "cost")),
    Column("cost/M output tokens", lambda row: _money(row, "cost_per_million_output_tokens")),
    Column("kg CO2e", lambda row: number(row.get("co2_kg"))),
    Column("kg CO2e/M output tokens", lambda row: number(row.get("co2_kg_per_million_output_tokens"))),
    Column("g CO2e/request", lambda row: number(row.get("co2_g_per_request"))),
    Column("SCI g/request", lambda row: number(row.get("sci_g_per_request")), drop=1),
)
_COST_NAMES = (
    "cost",
    "cost_per_million_output_tokens",
    "co2_kg",
    "co2_g_per_request",
    "co2_kg_per_million_output_tokens",
)
_PLACE = tuple(Column(name, _text(name), right=False) for name in ("pool", "site"))
_POOLS = (
    Column("shared", lambda row: energy(row["shared_j"])),
    Column("overhead", lambda row: energy(row["overhead_j"])),
    Column("nobody's", lambda row: energy(row["unshared_j"])),
    Column("unattributed", lambda row: energy(row["unattributed_j"]), drop=1),
    Column("unmatched", lambda row: energy(row["unmatched_j"]), drop=2),
)
_INVENTORY = (
    Column("pool", _text("pool"), right=False),
    Column("coverage", lambda row: percent(row["coverage"], 1)),
    Column("silent servers", lambda row: count(row["silent_servers"])),
)
