"""What an answer at `fleet` tells of its pools: how much of each reported, what nobody paid for, what is left out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from joulefleet.grid import floor_to
from joulefleet.units import uj_to_j
from joulefleet_collector.answer.fleet import Pools, has_engine
from joulefleet_collector.answer.hours import JOINT
from joulefleet_collector.answer.inventory import Presence, Stay, presence
from joulefleet_collector.answer.overhead import Overhead
from joulefleet_collector.report_table import energy
from joulefleet_collector.store.store import STEP_NS, Step, Total

NAMED = 30
"""So many silent servers are named in JSON."""
Table = list[dict[str, Any]]


class Span(NamedTuple):
    """The time that an answer is about, and its steps."""

    since_ns: int
    """0 where everything is asked about."""
    until_ns: int
    """At most the end of the newest window: what cannot have come yet is not missed."""
    step: Step

    def step_of(self, at_ns: int) -> int:
        """Start of the step in which an instant lies."""
        step_ns = STEP_NS[self.step]
        return floor_to(at_ns, step_ns) if step_ns else self.since_ns

    def end_of(self, step_start_ns: int) -> int:
        """End of the step that starts then, as far as it lies in the time."""
        step_ns = STEP_NS[self.step]
        return min(step_start_ns + step_ns, self.until_ns) if step_ns else self.until_ns


class Attendance(NamedTuple):
    """How much of the expected time was told of, by pool."""

    whole: dict[str, Presence]
    """Over all of the time."""
    steps: dict[int, dict[str, Presence]]
    """In each step of which anything was told, by its start."""
    strangers: tuple[str, ...]
    """Servers that report and stand in no inventory."""


def attendance(ledger: Iterable[Total], stays: Sequence[Stay], span: Span) -> Attendance:
    """Of all servers, from hours of the ledger by server.

    A server with engines tells by its windows, in which its work pairs or not; one without engines by its meters.
    """
    hours: dict[str, dict[int, float]] = {}
    for total in ledger:
        told_s = total.fields.get("window_s" if has_engine(total.fields) else "covered_s", 0.0)
        of_server, start_ns = hours.setdefault(total.tags.get("server", ""), {}), total.start_ns or 0
        of_server[start_ns] = of_server.get(start_ns, 0.0) + told_s
    first_ns = span.since_ns or min((start_ns for told in hours.values() for start_ns in told), default=0)
    whole = presence(stays, hours, first_ns, span.until_ns)
    strangers = tuple(sorted(hours.keys() - {stay.server for stay in stays}))
    if span.step == "none":
        return Attendance(whole, {span.since_ns: whole}, strangers)
    steps: dict[int, dict[str, dict[int, float]]] = {}
    for server, told in hours.items():
        for start_ns, told_s in told.items():
            steps.setdefault(span.step_of(start_ns), {}).setdefault(server, {})[start_ns] = told_s
    told_of = {at: presence(stays, told, max(at, first_ns), span.end_of(at)) for at, told in steps.items()}
    return Attendance(whole, told_of, strangers)


def attended(usage: Iterable[Total], there: Attendance, span: Span) -> list[Total]:
    """Hours of usage with coverage as low as the silent servers of their pool make it.

    Of the time in which an engine pairs, that part counts in which the servers of its pool told of themselves, in the
    mean over the step: an hour in which nobody of a pool did lowers the others.
    """
    return [_attended(total, there.steps.get(span.step_of(total.start_ns or 0), {})) for total in usage]


def _attended(total: Total, pools: Mapping[str, Presence]) -> Total:
    # A replica group may be in several pools, and misses what any of them misses.
    shares = [pools[pool].share for pool in total.tags.get("pool", "").split(JOINT) if pool in pools]
    if not shares or "paired_s" not in total.fields:
        return total
    part = {"paired_s": total.fields["paired_s"] * min(shares)}
    return Total(total.start_ns, total.tags, {**total.fields, **part})


def pool_table(pools: Pools) -> Table:
    """What each pool has beside what its engines are charged with at `server`, in joules over all hours."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for place, pool in pools.items():
        charged_uj = {
            "shared_j": pool.spare_uj if pool.is_held else 0,
            "overhead_j": pool.overhead_uj if pool.factor > 1 else 0,
        }
        told_uj = {
            **charged_uj,
            "unshared_j": pool.spare_uj + pool.overhead_uj - sum(charged_uj.values()),
            "unattributed_j": pool.unattributed_uj,
            "unmatched_j": pool.unmatched_uj,
        }
        sums = found.setdefault(place[1:], dict.fromkeys(told_uj, 0.0))
        for name, each_uj in told_uj.items():
            sums[name] += uj_to_j(each_uj)
    return [
        {"pool": pool, "site": site, "simulated": simulated == "true", **sums}
        for (pool, site, simulated), sums in sorted(found.items())
    ]


def inventory_table(there: Attendance) -> Table:
    """Coverage of each pool of the inventory, and who of it was silent."""
    return [
        {
            "pool": pool,
            "expected_s": one.expected_s,
            "reported_s": one.reported_s,
            "coverage": one.share,
            "silent_servers": len(one.silent),
            "silent": list(one.silent[:NAMED]),
        }
        for pool, one in sorted(there.whole.items())
    ]


def leaves_out(overheads: Sequence[Overhead], has_inventory: bool, pools: Pools) -> list[str]:
    """What the figures of these pools at `fleet` do not contain, each in a few words."""
    declared = sorted({one.what for one in overheads})
    besides = f", beside what is declared: {', '.join(declared)}" if declared else ""
    out = [f"network, storage and other equipment without an agent{besides}"]
    out.append("servers without an agent" + ("; those of the inventory lower the coverage" if has_inventory else ""))
    for what, field in (
        ("energy above idle that no engine explains, on servers with engines", "unattributed_uj"),
        ("energy of windows that do not pair", "unmatched_uj"),
    ):
        if joules := uj_to_j(sum(getattr(pool, field) for pool in pools.values())):
            out.append(f"{what}: {energy(joules)}")
    return out
