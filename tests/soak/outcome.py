"""What came of a soak, as a table and as JSON."""

from typing import Any

import msgspec

from joulefleet.units import ns_to_s
from soak.life import Kept
from soak.tally import OTHER, REFUSED, UNANSWERED, Tally


class Outcome(msgspec.Struct, kw_only=True):
    """Counts of windows are of hosted agents; real ones count nothing outside of their spools."""

    seed: int
    seconds: int
    made: int
    """Windows that the hosted agents had to make."""
    tallies: list[Tally]
    killed: dict[str, int]
    passed_over: int
    """Kills that the plan named and that were left out, since the process had not come back from the last one."""
    kept: list[Kept]
    faults: list[str]
    took_s: float = 0.0

    def counts(self) -> dict[str, int]:
        """Windows sent and what became of them, and batches that were not answered as they should be, by reason."""
        sent, kept = self._sum("sent"), self._sum("kept")
        counts = {"windows made": self.made, "windows sent": sent, "windows answered as kept": kept}
        counts |= {"windows sent again": sent - self.made, "batches sent": self._sum("batches")}
        counts |= {f"windows refused, {name}": self._sum(name) for name in REFUSED}
        return counts | {f"batches not taken, {name}": self._sum(name) for name in (*UNANSWERED, OTHER)}

    @property
    def longest_outage_s(self) -> float:
        """The longest time that a hosted agent went without an answer."""
        return ns_to_s(max((tally["longest_ns"] for tally in self.tallies), default=0))

    def as_json(self) -> dict[str, Any]:
        """The whole of it."""
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "took_s": self.took_s,
            "counts": self.counts(),
            "killed": self.killed,
            "passed_over": self.passed_over,
            "longest_outage_s": self.longest_outage_s,
            "processes": [_of(one) for one in self.kept],
            "faults": self.faults,
        }

    def _sum(self, name: str) -> int:
        return sum(tally[name] for tally in self.tallies)


def show(outcome: Outcome) -> None:
    """The table."""
    for name, number in outcome.counts().items():
        if number or "refused" not in name:
            print(f"{name:44} {number:>10,}")
    for kind, number in outcome.killed.items():
        print(f"{'kill -9 of a ' + kind:44} {number:>10,}")
    print(f"{'kills passed over: not back from the last':44} {outcome.passed_over:>10,}")
    print(f"{'longest time of an agent without an answer':44} {outcome.longest_outage_s:>8.1f} s")
    print(f"\n{'process':24} {'lives':>5} {'last':>8} {'MB at start':>12} {'at end':>8} {'most':>8} {'MB/min':>8}")
    for one in outcome.kept:
        print(_line(_of(one)))
    for fault in outcome.faults:
        print(f"OFF: {fault}")
    verdict = (
        f"{len(outcome.faults)} things are off" if outcome.faults else "every sum is exact, memory is within its bounds"
    )
    print(f"{verdict}: seed {outcome.seed}, {outcome.seconds} s, {outcome.took_s:.0f} s in all", flush=True)


def _of(one: Kept) -> dict[str, Any]:
    """Memory of its last life, and the most of all its lives."""
    life = one.lives[-1]
    resident = [mb for _, mb in life.started]
    return {
        "name": one.name,
        "kind": one.kind,
        "lives": len(one.lives),
        "ended_by_itself": len(one.by_itself),
        "last_life_s": life.length_s,
        "start_mb": resident[0] if resident else None,
        "end_mb": resident[-1] if resident else None,
        "most_mb": one.most_mb,
        "slope_mb_per_min": life.slope_mb_per_min,
    }


def _line(told: dict[str, Any]) -> str:
    numbers = [_number(told[name], places) for name, places in (("start_mb", 1), ("end_mb", 1), ("most_mb", 1))]
    slope = _number(told["slope_mb_per_min"], 2)
    start, end, most = numbers
    length = f"{told['last_life_s']:.0f} s"
    return f"{told['name']:24} {told['lives']:>5} {length:>8} {start:>12} {end:>8} {most:>8} {slope:>8}"


def _number(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"
