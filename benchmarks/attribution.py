"""How far accounting is from the truth on boards whose law it does not know, by model and by method.

Servers are drawn by chance, each with its own watts, demand and gains; what real sources would tell of them goes
through the agent's cutter and is accounted. A method is forced by leaving out what the better ones need. Errors are
relative, of three models on one board, over a day's course squeezed into three hours; idle power is learnt in an hour
before. Writes a table and a JSON file.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fixtures.attributed import WAYS, Found, coverage, found, rms
from fixtures.laws.drawn import Lawful, apart, concave, mig, time_sliced, truth
from fixtures.laws.telling import Gains, Speech, drawn_gains, windows
from joulefleet.units import ns_to_s, uj_to_j
from joulefleet.window import Window
from joulefleet_collector.account.split import pot_of
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
    "rms_active": "rms",
    "worst_active": "worst",
    "rms_active_gains": "w. gains",
    "rms": "rms",
    "rms_gains": "w. gains",
    "covered_k1": "k=1",
    "covered_k2": "k=2",
    "width": "+-",
    "beside_gain_k1": "k=1",
    "beside_gain_k2": "k=2",
    "beside_gain_width": "+-",
}


Floats = NDArray[np.float64]
Weigh = Callable[[Floats, Floats, Lawful], Floats]
"""Weights by window and model, from busy seconds by window, model and phase, joules above idle, and the server."""


def measured(law: str, case: Case, seeds: Sequence[int]) -> list[Row]:
    """All methods of one law at each boundary, and what busy seconds could do if they were weighed."""
    exact: dict[str, list[Found]] = {way: [] for way in case.ways}
    drawn: dict[str, list[Found]] = {way: [] for way in case.ways}
    beyond: dict[str, list[float]] = {name: [] for name in BEYOND.get(law, {})}
    for seed in seeds:
        server = case.make(seed)
        for way in case.ways:
            exact[way] += found(server, WAYS[way], gains_of(server, seed, 0.0))
            drawn[way] += found(server, WAYS[way], gains_of(server, seed, 1.0))
        for name in beyond:
            beyond[name] += beyond_errors(server, gains_of(server, seed, 0.0), BEYOND[law][name])
    return [
        {"law": law, "method": way, "boundary": boundary, **figures(at(exact[way], boundary), at(drawn[way], boundary))}
        for boundary in ("accelerator", "server")
        for way in case.ways
    ] + [
        {"law": law, "method": name, "boundary": "accelerator", **_spread(errors, "active")}
        for name, errors in beyond.items()
    ]


def gains_of(server: Lawful, seed: int, times: float) -> Gains:
    """Gains drawn from so many times the declared classes'; idle power of a catalogue is off in any case."""
    return drawn_gains(seed, len(server.boards), times * GAINS["onboard"], times * GAINS["platform"], CATALOGUE)


def at(several: Sequence[Found], boundary: str) -> list[Found]:
    """Those of one boundary."""
    return [one for one in several if one.boundary == boundary]


def figures(exact: Sequence[Found], drawn: Sequence[Found]) -> dict[str, float]:
    """Errors with exact meters and with drawn gains, and how often what was stated covers them."""
    errors, beside = [one.error for one in exact], [one.stated_beside_gain for one in exact]
    with_gains, stated = [one.error for one in drawn], [one.stated for one in drawn]
    return {
        **_spread([one.active_error for one in exact], "active"),
        "rms_active_gains": rms([one.active_error for one in drawn]),
        "rms": rms(errors),
        "rms_gains": rms(with_gains),
        "covered_k1": coverage(with_gains, stated, 1),
        "covered_k2": coverage(with_gains, stated, 2),
        "width": sum(stated) / len(stated),
        "beside_gain_k1": coverage(errors, beside, 1),
        "beside_gain_k2": coverage(errors, beside, 2),
        "beside_gain_width": sum(beside) / len(beside),
        "by_method": sum(one.by_way for one in exact) / len(exact),
    }


def _spread(errors: Sequence[float], of: str) -> dict[str, float]:
    return {f"rms_{of}": rms(errors), f"worst_{of}": max(map(abs, errors)), "figures": len(errors)}


def beyond_errors(server: Lawful, gains: Gains, weigh: Weigh) -> list[float]:
    """Errors by model that busy seconds would have if they were weighed so, which accounting does not do."""
    told, true = windows(server, Speech(busy_by_phase=True), gains), truth(server)
    names = [engine.engine.id for engine in told[0].engines]
    joules = np.array([uj_to_j(pot_of(window.meters[0]).dynamic_uj) for window in told])
    busy_s = np.array([[_busy_s(window, place) for place in range(len(names))] for window in told])
    parts = weigh(busy_s, joules, server)
    whole = parts.sum(axis=1)
    some = whole > 0
    shared = (joules[some, None] * parts[some] / whole[some, None]).sum(axis=0).tolist()
    return [one_j / true[name].active_j - 1 for name, one_j in zip(names, shared, strict=True)]


def _busy_s(window: Window, place: int) -> tuple[float, float]:
    """Seconds of prompts and of tokens."""
    counts = window.engines[place].work[0].counts
    prompts_ns = counts.prefill_busy_ns or 0
    return ns_to_s(prompts_ns), ns_to_s((counts.busy_ns or 0) - prompts_ns)


def by_watts_of_models(busy_s: Floats, joules: Floats, server: Lawful) -> Floats:
    """Times the watts of each model, by least squares over the same windows."""
    return by_watts_of_phases(busy_s.sum(axis=2, keepdims=True), joules, server)


def by_watts_of_phases(busy_s: Floats, joules: Floats, server: Lawful) -> Floats:
    """Times the watts of each model in each phase."""
    flat = busy_s.reshape(len(joules), -1)
    watts = np.linalg.lstsq(flat, joules, rcond=None)[0]
    parts: Floats = (flat * watts).reshape(busy_s.shape).sum(axis=2)
    return parts


def by_slots(busy_s: Floats, joules: Floats, server: Lawful) -> Floats:
    """Times the size of the slice."""
    weighed: Floats = busy_s.sum(axis=2) * np.array([server.slots[engine.model.name] for engine in server.engines[0]])
    return weighed


BEYOND: dict[str, dict[str, Weigh]] = {
    "time sliced": {"(busy x fitted W)": by_watts_of_models, "(busy x fitted W by phase)": by_watts_of_phases},
    "mig": {"(busy x slots)": by_slots},
}
"""What accounting does not do, in brackets."""


def show(rows: Sequence[Row]) -> None:
    """One table for each boundary, in percent."""
    for boundary in ("accelerator", "server"):
        print(f"\n{boundary + ', %':50}{'above idle':30}{'all joules':20}{'stated covers':30}beside gains")
        print(f"{'law':22}{'method':28}" + "".join(f"{name:10}" for name in COLUMNS.values()))
        for row in rows:
            if row["boundary"] == boundary:
                cells = (f"{100 * float(row[name]):<10.1f}" if name in row else f"{'':10}" for name in COLUMNS)
                print(f"{row['law']:22}{row['method']:28}" + "".join(cells))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=20, help="drawn for each law")
    parser.add_argument("--seed", type=int, default=1, help="of the first one")
    parser.add_argument("--json", type=Path, default=Path("bench-attribution.json"))
    asked = parser.parse_args()
    seeds = range(asked.seed, asked.seed + asked.servers)
    rows = [row for law, case in CASES.items() for row in measured(law, case, seeds)]
    show(rows)
    machine = {"python": platform.python_version(), "numpy": version("numpy")}
    asked.json.write_text(json.dumps({"machine": machine, **vars(asked), "json": None, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
