"""Whether a soak came out right: what a store tells against the truth, and memory against its bounds."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from joulefleet.units import ns_to_s
from soak.fleet import STEP_NS, WORK, Place, Sums
from soak.life import Kept

CLOSE = 1e-9
"""Relative: sums of some hundred thousand floats."""
JUDGED = ("collector", "real agent")
"""Kinds of processes whose memory is judged; that of hosts, twenty agents with their threads in one, is told only."""
MOST_MB_PER_MIN = 4.0
"""Slope of memory; at 100 windows a second 0.7 kB of each, were they never let go."""
MOST_MB = 512.0
"""Of one process at any time: a collector holds 64 MiB of batches in hand, and the rows of a thousand windows."""
NAMED = 8
"""Differences that are told one by one."""
TRACEBACK = re.compile(r"^Traceback .*\n(?:[ \t].*\n)*([\w.]+)", re.MULTILINE)


def told_by(answer: Mapping[str, Any]) -> dict[Place, Sums]:
    """The sums of an answer to GET /v1/usage by server."""
    found = {}
    for entry in answer["ledger"]:
        windows = entry["window_s"] / ns_to_s(STEP_NS)
        found[entry["server"], entry["boundary"]] = Sums(windows, entry["metered_j"] + entry["late_j"])
    for row in answer["rows"]:
        sums = found[row["server"], row["boundary"]]
        for name in WORK:
            parts = (row[name], row[f"unmetered_{name}"], row[f"late_{name}"])
            setattr(sums, name, getattr(sums, name) + sum(part or 0 for part in parts))
    return found


def together(places: Mapping[Place, Sums]) -> dict[Place, Sums]:
    """The same of all servers together, by boundary."""
    fleet: dict[Place, Sums] = {}
    for (_, boundary), sums in places.items():
        whole = fleet.setdefault(("", boundary), Sums())
        for name in Sums.__struct_fields__:
            setattr(whole, name, getattr(whole, name) + getattr(sums, name))
    return fleet


def of_fleet(answer: Mapping[str, Any]) -> dict[Place, Sums]:
    """The sums of an answer that does not ask by server: a store adds these up apart."""
    named = {name: [{**row, "server": ""} for row in answer[name]] for name in ("ledger", "rows")}
    return told_by(named)


def differences(true: Mapping[Place, Sums], told: Mapping[Place, Sums], where: str) -> list[str]:
    """Each sum that is not what it has to be, in words."""
    found = []
    for server, boundary in sorted({*true, *told}):
        expected, got = true.get((server, boundary)), told.get((server, boundary))
        what = f"{where}: {server or 'the fleet'} at {boundary}"
        if expected is None or got is None:
            found.append(f"{what}: {'nothing is told' if got is None else 'told, and there is no such thing'}")
            continue
        for name, value in msgspec.structs.asdict(expected).items():
            if not math.isclose(value, getattr(got, name), rel_tol=CLOSE):
                found.append(f"{what}: {name} is {getattr(got, name)!r} and has to be {value!r}")
    return found


def residuals(answer: Mapping[str, Any], where: str) -> list[str]:
    """Ledgers that do not add up to the microjoule."""
    uneven = (entry for entry in answer["ledger"] if entry["residual_uj"] != 0)
    return [f"{where}: {one['server']} at {one['boundary']}: {one['residual_uj']} uJ are left over" for one in uneven]


def memory(kept: Iterable[Kept]) -> list[str]:
    """Processes of ours that grow or are too large."""
    found = []
    for one in (one for one in kept if one.kind in JUDGED):
        slope = one.lives[-1].slope_mb_per_min
        if one.most_mb > MOST_MB:
            found.append(f"{one.name}: {one.most_mb:.0f} MB of memory, more than {MOST_MB:.0f}")
        if slope is not None and slope > MOST_MB_PER_MIN:
            found.append(f"{one.name}: memory grows by {slope:.2f} MB a minute, more than {MOST_MB_PER_MIN}")
    return found


def shortened(found: list[str]) -> list[str]:
    """The first of them, and how many more there are."""
    more = len(found) - NAMED
    return found if more <= 0 else [*found[:NAMED], f"... and {more} more"]


def tracebacks(log: str) -> set[str]:
    """Faults that a process told of in its log, by the name of the exception."""
    return set(TRACEBACK.findall(log))
