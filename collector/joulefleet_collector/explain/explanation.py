"""The explanation of a figure, put together from the row of the report, the sums behind it, and their windows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec

from joulefleet.describe import GRADES
from joulefleet.grid import rfc3339
from joulefleet.units import ns_to_s, uj_to_j
from joulefleet_collector.account.layout import layout_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.split import BUCKETS
from joulefleet_collector.api import BadQuestion, UsageQuestion, instant
from joulefleet_collector.explain import caveats
from joulefleet_collector.explain.asked import Asked, Row, one_row, tags_of
from joulefleet_collector.explain.audit import Audit, audit, summed
from joulefleet_collector.explain.doubt import doubts, whole
from joulefleet_collector.explain.figure import Sums, equation
from joulefleet_collector.explain.seen import Wanted
from joulefleet_collector.explain.tally import MeterSums, Tally
from joulefleet_collector.rows import METHODS
from joulefleet_collector.store.store import STEP_NS, Question, Store, StoreUnavailable
from joulefleet_collector.usage import GAINS, nonzero

MAX_WINDOWS = 50_000
"""Windows that are gone through for one explanation."""
MAX_LISTED = 200
"""Meters, obstacles and left out meters that are told one by one."""
MAX_LAYOUTS = 2_048
_BY = {
    "method": tuple((name, f"by_{name}_j") for name in METHODS),
    "grade": tuple((name, f"{name}_j") for name in GRADES),
    "sensor_class": tuple((name, f"class_{name}_j") for name in GAINS),
}

Answer = dict[str, Any]
AnswerUsage = Callable[[UsageQuestion], dict[str, Any]]


def explain(store: Store, policy: Policy, answer_usage: AnswerUsage, asked: Asked, now_ns: int) -> Answer:
    """All that is behind a figure, as one table for JSON. Raises BadQuestion or StoreUnavailable.

    `answer_usage` gives the report that the figure is in, and `policy` is the one under which windows are accounted.
    """
    report = answer_usage(asked.usage)
    row = one_row(report["rows"], asked.usage)
    time_ns = _time_ns(report, row, asked.usage, now_ns)
    wanted = Wanted(row["boundary"], tags_of(row, asked.usage))
    by_hour = _by_hour(store, wanted, time_ns)
    tally, kept = _gone_through(store, policy, wanted, time_ns, asked.windows)
    return {
        **_head(asked, time_ns, row, wanted),
        **_made_of(asked, row, summed(by_hour.values()), tally),
        **_windows(tally, kept),
        **_checked(asked, row, by_hour, tally),
        "policy": msgspec.to_builtins(policy),
        "versions": tally.versions.listed(),
        "listed": tally.stories(),
    }


def _time_ns(report: Mapping[str, Any], row: Row, asked: UsageQuestion, now_ns: int) -> tuple[int, int]:
    """The time of the row: that of the report, or its step of it."""
    since_ns, until_ns = instant(report["since"], now_ns), instant(report["until"], now_ns)
    if "start" not in row:
        return since_ns, until_ns
    start_ns = instant(row["start"], now_ns)
    return max(since_ns, start_ns), min(until_ns, start_ns + STEP_NS[asked.step])


def _by_hour(store: Store, wanted: Wanted, time_ns: tuple[int, int]) -> dict[int, Sums]:
    """The sums of the report by start of the hour."""
    asked = Question(kind="usage", since_ns=time_ns[0], until_ns=time_ns[1], step="hour", where=wanted.where)
    return {total.start_ns or 0: total.fields for total in store.ask(asked)}


def _gone_through(
    store: Store, policy: Policy, wanted: Wanted, time_ns: tuple[int, int], listed: int
) -> tuple[Tally, str]:
    """The windows added up, and why there is none; empty where the store keeps windows."""
    tally = Tally(wanted, policy, lru_cache(MAX_LAYOUTS)(layout_of), listed)
    asked = Question(
        kind="usage", since_ns=time_ns[0], until_ns=time_ns[1], by=("server",), where=wanted.where, fields=("window_s",)
    )
    servers = sorted({total.tags["server"] for total in store.ask(asked)})
    try:
        # A store that keeps no windows says so at once; one that fails later fails as a whole.
        windows = chain.from_iterable([store.windows(server, *time_ns) for server in servers])
    except StoreUnavailable as none:
        return tally, f"{none.where} keeps no windows, only their sums"
    for number, window in enumerate(windows):
        _check_number(number, servers)
        tally.add(window)
    return tally, ""


def _check_number(number: int, servers: Sequence[str]) -> None:
    if number >= MAX_WINDOWS:
        raise BadQuestion(
            f"more than {MAX_WINDOWS:,} windows of {len(servers):,} servers lie in this time: narrow it by since and"
            " until, or by server"
        )


def _head(asked: Asked, time_ns: tuple[int, int], row: Row, wanted: Wanted) -> Answer:
    figure = asked.figure
    return {
        "figure": figure.name,
        "unit": figure.unit,
        "value": row.get(figure.name),
        "reason": row["reasons"].get(figure.name, ""),
        "since": rfc3339(time_ns[0]),
        "until": rfc3339(time_ns[1]),
        "tags": {name: values[0] for name, values in wanted.where.items() if len(values) == 1},
        "where": wanted.where,
        "status": row["status"],
        "coverage": row["coverage"],
        "row": row,
    }


def _made_of(asked: Asked, row: Row, sums: Sums, tally: Tally) -> Answer:
    figure = asked.figure
    reason = row["reasons"].get(figure.name, "")
    metered_uj = sum(tally.buckets_uj.values())
    return {
        "equation": equation(figure, sums, row.get(figure.name), reason, caveats.basis(tally)),
        "joules": {
            "bucket": nonzero(sums, (("active", "active_j"), ("idle", "idle_j"))),
            **{name: nonzero(sums, fields) for name, fields in _BY.items()},
        },
        "boundary": {
            "metered_j": uj_to_j(metered_uj),
            "figure_j": uj_to_j(tally.energy_uj),
            **{f"{bucket}_j": uj_to_j(tally.buckets_uj[bucket]) for bucket in BUCKETS},
        },
        "sums": dict(sums),
    }


def _windows(tally: Tally, none_kept: str) -> Answer:
    meters = sorted(tally.meters.values(), key=lambda one: (-one.charged_uj, one.server, one.meter))
    return {
        "windows": {
            "counted": tally.windows,
            "servers": len(tally.servers),
            "steps_s": sorted(map(ns_to_s, tally.steps_ns)),
            "unpaired": tally.unpaired,
            "of_other_boundaries": sum(tally.elsewhere.values()),
            "none_kept": none_kept,
        },
        "meters": [_meter(one) for one in meters[:MAX_LISTED]],
        "meters_counted": len(meters),
        "left_out": sorted(tally.left_out)[:MAX_LISTED],
        "left_out_counted": len(tally.left_out),
        "obstacles": [
            {**msgspec.structs.asdict(one), "windows": windows}
            for one, windows in tally.hindrances.most_common(MAX_LISTED)
        ],
    }


def _meter(one: MeterSums) -> Answer:
    return {
        **{name: getattr(one, name) for name in ("server", "timeline", "meter", "role", "kind", "grade")},
        **{name: getattr(one, name) for name in ("sensor_class", "basis", "calibration", "gain_ppm", "jumps")},
        "first_uj": str(one.first_uj),
        "last_uj": str(one.last_uj),
        "energy_j": uj_to_j(one.energy_uj),
        "charged_j": uj_to_j(one.charged_uj),
        "late_j": uj_to_j(one.late_uj),
        "rejected_j": uj_to_j(one.rejected_uj),
        "counter_residual_uj": one.last_uj - one.first_uj - one.energy_uj - one.late_uj,
        "coverage": one.covered_ns / one.window_ns,
        "gaps_s": {code: ns_to_s(gap_ns) for code, gap_ns in one.gaps_ns.items()},
        "states": sorted(one.states),
    }


def _checked(asked: Asked, row: Row, by_hour: Mapping[int, Sums], tally: Tally) -> Answer:
    sums, found = summed(by_hour.values()), audit(tally.by_hour, by_hour, asked.figure)
    all_there = not found.sums_only and not found.windows_only
    return {
        "uncertainty": {
            "relative": whole(sums),
            "terms": doubts(sums, tally.spread if all_there else None),
        },
        "doubtful": list(_doubtful(row, sums, tally, found)),
        "check": found,
    }


def _doubtful(row: Row, sums: Sums, tally: Tally, found: Audit) -> Iterator[str]:
    yield from caveats.of_audit(found)
    yield from caveats.of_sums(sums, row)
    yield from caveats.of_windows(tally)
