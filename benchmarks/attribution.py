"""How far accounting is from the truth on boards whose law it does not know, by model, tenant, phase and method.

Servers are drawn by chance, each with its own watts, demand and gains; what real sources would tell of them goes
through the agent's cutter and is accounted. A method is forced by leaving out what the better ones need. Errors are
relative, of three models on one board, over a day's course squeezed into three hours; idle power is learnt in an hour
before. Watts are fitted as `joulefleet store fit-watts` does, to windows of 20 s, of which there are enough.
Writes a table and a JSON file.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fixtures.attributed import (
    BOARDS,
    SERVER,
    WAYS,
    Found,
    OfTenant,
    Prefill,
    Way,
    accounted,
    by_tenant,
    coverage,
    judged,
    prefills,
    rms,
)
from fixtures.laws.drawn import Lawful, apart, concave, mig, time_sliced, truth
from fixtures.laws.telling import Gains, drawn_gains
from joulefleet_collector.usage import GAINS

CATALOGUE = 0.25
"""Standard deviation of a catalogue's idle power."""
SHARED = tuple(name for name in WAYS if name != "exclusive")


class Case(NamedTuple):
    """A law and the methods that its boards allow."""

    make: Callable[[int], Lawful]
    ways: Sequence[str]


CASES = {
    "board of its own": Case(apart, ("exclusive",)),
    "time sliced": Case(time_sliced, SHARED),
    "the same, even watts": Case(lambda seed: time_sliced(seed, even=True), ("busy",)),
    "concave": Case(concave, SHARED),
    # A driver tells of no processes on a board that is cut into slices.
    "mig": Case(mig, tuple(name for name in SHARED if name != "activity")),
}
Row = dict[str, str | int | float]
COLUMNS = {
    "rms_active": ("rms", 0),
    "worst_active": ("worst", 0),
    "rms_active_gains": ("gains", 1),
    "rms_tenants": ("rms", 0),
    "worst_tenants": ("worst", 0),
    "tenants_covered_k2": ("k=2", 0),
    "tenants_width": ("+-", 1),
    "rms": ("rms", 0),
    "rms_gains": ("gains", 1),
    "covered_k1": ("k=1", 0),
    "covered_k2": ("k=2", 0),
    "width": ("+-", 1),
    "beside_gain_k1": ("k=1", 0),
    "beside_gain_k2": ("k=2", 0),
    "beside_gain_width": ("+-", 0),
}
"""Heading of each figure, and the space behind it."""
SHARES = ("true", "told", "low", "high", "rms", "covered")
TOLD_APART = ("exclusive", "busy", "busy, told by phase")
"""Methods whose phases are shown: between models nothing else changes them."""
BATCHES = (1, 4, 10, 32)
"""Bounds of the mean batch, by which phases are told apart."""


class Judged(NamedTuple):
    """All that one method makes of the servers of one law."""

    exact: list[Found]
    """With meters that are not off."""
    drawn: list[Found]
    tenants: list[OfTenant]
    """With gains drawn, too."""
    prefills: list[Prefill]


def measured(law: str, case: Case, seeds: Sequence[int]) -> tuple[list[Row], list[Row]]:
    """All methods of one law at each boundary, and how each tells prompts from tokens."""
    by_way = {way: Judged([], [], [], []) for way in case.ways}
    for seed in seeds:
        server = case.make(seed)
        for way, judged_ in by_way.items():
            add(judged_, server, WAYS[way], seed)
    rows: list[Row] = [
        {"law": law, "method": way, "boundary": boundary, **figures(its, boundary)}
        for boundary in (BOARDS, SERVER)
        for way, its in by_way.items()
    ]
    return rows, [row for way in TOLD_APART if way in by_way for row in phases(law, way, by_way[way].prefills)]


def add(judged_: Judged, server: Lawful, way: Way, seed: int) -> None:
    """One more server."""
    true = truth(server)
    exact, drawn = (accounted(server, way, gains_of(server, seed, times)) for times in (0.0, 1.0))
    judged_.exact.extend(judged(exact, way.method, true))
    judged_.drawn.extend(judged(drawn, way.method, true))
    judged_.tenants.extend(by_tenant(drawn, true, way.policy))
    if way.speech.tokens == "step":
        judged_.prefills.extend(prefills(exact, true))


def gains_of(server: Lawful, seed: int, times: float) -> Gains:
    """Gains drawn from so many times the declared classes'; idle power of a catalogue is off in any case."""
    return drawn_gains(seed, len(server.boards), times * GAINS["onboard"], times * GAINS["platform"], CATALOGUE)


def figures(its: Judged, boundary: str) -> dict[str, float]:
    """Errors with exact meters and with drawn gains, and how often what was stated covers them."""
    exact = [one for one in its.exact if one.boundary == boundary]
    drawn = [one for one in its.drawn if one.boundary == boundary]
    errors, beside = [one.error for one in exact], [one.stated_beside_gain for one in exact]
    with_gains, stated = [one.error for one in drawn], [one.stated for one in drawn]
    return {
        **_spread([one.active_error for one in exact], "active"),
        "rms_active_gains": rms([one.active_error for one in drawn]),
        **(of_tenants(its.tenants) if boundary == BOARDS else {}),
        "rms": rms(errors),
        "rms_gains": rms(with_gains),
        "covered_k1": coverage(with_gains, stated, 1),
        "covered_k2": coverage(with_gains, stated, 2),
        "width": fmean(stated),
        "beside_gain_k1": coverage(errors, beside, 1),
        "beside_gain_k2": coverage(errors, beside, 2),
        "beside_gain_width": fmean(beside),
        "by_method": fmean(one.by_way for one in exact),
    }


def of_tenants(several: Sequence[OfTenant]) -> dict[str, float]:
    """Errors of what tenants are charged, and how often what was stated covers them."""
    errors, stated = [one.error for one in several], [one.stated for one in several]
    return {
        **_spread(errors, "tenants"),
        "tenants_covered_k2": coverage(errors, stated, 2),
        "tenants_width": fmean(stated),
    }


def _spread(errors: Sequence[float], of: str) -> dict[str, float]:
    return {f"rms_{of}": rms(errors), f"worst_{of}": max(map(abs, errors))}


def phases(law: str, way: str, several: Sequence[Prefill]) -> Iterator[Row]:
    """The share of prompts as it is told and as it is, by how large batches are."""
    for least, most in pairwise(BATCHES):
        some = [one for one in several if least <= one.batch < most]
        if some:
            yield {
                "law": law,
                "method": way,
                "batch": f"{least:g} to {most:g}",
                "models": len(some),
                "true": fmean(one.true for one in some),
                "told": fmean(one.told for one in some),
                "low": fmean(one.low for one in some),
                "high": fmean(one.high for one in some),
                "rms": rms([one.told - one.true for one in some]),
                "covered": fmean(one.low <= one.true <= one.high for one in some),
            }


def show(rows: Sequence[Row], of_phases: Sequence[Row]) -> None:
    """One table for each boundary and one of phases, in percent."""
    for boundary in (BOARDS, SERVER):
        print(
            f"\n{boundary + ', %':48}{'above idle':25}{'tenants':33}{'all joules':17}{'stated covers':25}beside gains"
        )
        print(f"{'law':22}{'method':26}" + "".join(f"{name:{8 + gap}}" for name, gap in COLUMNS.values()))
        for row in rows:
            if row["boundary"] == boundary:
                cells = (
                    f"{100 * float(row[name]):<{8 + gap}.1f}" if name in row else f"{'':{8 + gap}}"
                    for name, (_, gap) in COLUMNS.items()
                )
                print(f"{row['law']:22}{row['method']:26}" + "".join(cells))
    print("\nprompts' share of joules above idle, %")
    print(f"{'law':22}{'method':26}{'batch':12}{'models':8}" + "".join(f"{name:9}" for name in SHARES))
    for row in of_phases:
        cells = (f"{100 * float(row[name]):<9.1f}" for name in SHARES)
        print(f"{row['law']:22}{row['method']:26}{row['batch']:12}{row['models']:<8}" + "".join(cells))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=20, help="drawn for each law")
    parser.add_argument("--seed", type=int, default=1, help="of the first one")
    parser.add_argument("--json", type=Path, default=Path("bench-attribution.json"))
    asked = parser.parse_args()
    seeds = range(asked.seed, asked.seed + asked.servers)
    rows: list[Row] = []
    of_phases: list[Row] = []
    for law, case in CASES.items():
        of_models, of_law = measured(law, case, seeds)
        rows += of_models
        of_phases += of_law
    show(rows, of_phases)
    machine = {"python": platform.python_version(), "numpy": version("numpy")}
    told = {"machine": machine, "servers": asked.servers, "seed": asked.seed, "rows": rows, "phases": of_phases}
    asked.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
