"""The few lines that `joulefleet up` prints of a collector's answer."""

from typing import Any

Answer = dict[str, Any]
PATIENCE_S = 30.0
"""Of uncovered time, before it is told: a first window may end before there are two readings."""


def lines_of(answer: Answer) -> list[str]:
    """One line for each server's widest boundary, and one for each model on it; empty with nothing to tell."""
    widest = [entry for entry in _widest(answer["ledger"]) if entry["covered_s"] or entry["window_s"] >= PATIENCE_S]
    return [line for entry in widest for line in (_server(entry), *_models(answer["rows"], entry))]


def _widest(ledger: list[Answer]) -> list[Answer]:
    order = ("accelerator", "compute", "server")
    best: dict[str, Answer] = {}
    for entry in ledger:
        known = best.get(entry["server"])
        if known is None or order.index(entry["boundary"]) > order.index(known["boundary"]):
            best[entry["server"]] = entry
    return [best[name] for name in sorted(best)]


def _server(entry: Answer) -> str:
    covered_s, metered_j = entry["covered_s"] or 0, entry["metered_j"] or 0
    if not covered_s:
        return f"{entry['server']}: no reading in {entry['window_s']:.0f} s, boundary {entry['boundary']}"
    return (
        f"{entry['server']}: {metered_j / covered_s:.1f} W, {metered_j:,.0f} J in {covered_s:.0f} s,"
        f" boundary {entry['boundary']}, {_grade(entry)}"
    )


def _models(rows: list[Answer], entry: Answer) -> list[str]:
    own = [row for row in rows if row["server"] == entry["server"] and row["boundary"] == entry["boundary"]]
    return [_model(row) for row in own]


def _model(row: Answer) -> str:
    figures = [
        f"{row[name]:.4g} {unit}"
        for name, unit in (("joules_per_output_token", "J/output token"), ("joules_per_request", "J/request"))
        if row[name] is not None
    ]
    if not figures:
        figures = [next(iter(row["reasons"].values()), "no figure yet")]
    name = " ".join(part for part in (row["model"] or "unknown model", row["version"]) if part)
    return f"  {name} on {row['hardware'] or 'unknown hardware'}: {', '.join(figures)}, {_grade(row)}"


def _grade(row: Answer) -> str:
    """How the joules are known, those of most weight first, and whether they are simulated."""
    grades = sorted(row["joules_by_grade"], key=lambda name: -row["joules_by_grade"][name])
    return " + ".join(grades or ["no energy"]) + (", SIMULATED" if row["simulated"] else "")
