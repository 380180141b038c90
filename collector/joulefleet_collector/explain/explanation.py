"""The explanation of a figure, put together from the row of the report, the sums behind it, and their windows."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from joulefleet.describe import GRADES
from joulefleet.grid import rfc3339
from joulefleet.units import ns_to_s, uj_to_j
from joulefleet_collector.account.layout import layout_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.split import BUCKETS
from joulefleet_collector.answer.pipeline import answer_usage
from joulefleet_collector.answer.totals import Rules
from joulefleet_collector.api import BadQuestion, UsageQuestion, instant
from joulefleet_collector.explain import caveats
from joulefleet_collector.explain.asked import Asked, Row, one_row, tags_of
from joulefleet_collector.explain.audit import Audit, audit, summed
from joulefleet_collector.explain.division import Division, division, is_made
from joulefleet_collector.explain.doubt import doubts, whole
from joulefleet_collector.explain.figure import Figure, Sums, equation
from joulefleet_collector.explain.scope import Wanted, hours_of, servers_of, stored_by_hour, wanted_of
from joulefleet_collector.explain.tally import MeterSums, Tally
from joulefleet_collector.rows import METHODS
from joulefleet_collector.store.store import STEP_NS, Store, StoreUnavailable
from joulefleet_collector.usage import GAINS, known_sum, nonzero

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


class Told(NamedTuple):
    """What was found out about a figure."""

    figure: Figure
    row: Row
    sums: Sums
    tally: Tally
    audit: Audit

    @property
    def reason(self) -> str:
        """Why there is no figure; empty where there is one."""
        if self.row.get(self.figure.name) is not None:
            return ""
        return str(self.row["reasons"].get(self.figure.name, "no energy is known"))


def explain(store: Store, rules: Rules, asked: Asked, now_ns: int) -> Answer:
    """All that is behind a figure, as one table for JSON. Raises BadQuestion or StoreUnavailable."""
    report: Answer = answer_usage(store, asked.usage, rules)
    row = one_row(report["rows"], asked)
    report_asked = _of_report(report, asked.usage, now_ns)
    narrowed = _narrowed(report_asked, row, now_ns)
    hours = hours_of(store, report_asked, row, narrowed, rules)
    wanted = wanted_of(narrowed, hours.groups, joins=asked.usage.step != "minute")
    wholes = stored_by_hour(store, wanted, (narrowed.since_ns, narrowed.until_ns))
    tally, kept = _gone_through(store, rules.policy, wanted, (narrowed.since_ns, narrowed.until_ns), asked.windows)
    figure = msgspec.structs.replace(
        asked.figure, unit=asked.figure.unit.format(currency=row.get("currency") or "money")
    )
    sums = summed(hours.sums.values())
    residual_j = (row["energy_j"] or 0.0) - (known_sum(sums, ("active_j", "idle_j")) or 0.0)
    told = Told(figure, row, sums, tally, audit(tally.by_hour, wholes, figure, residual_j))
    divided = division(store, narrowed, wanted, hours, wholes) if is_made(narrowed, hours.groups) else None
    return {
        **_head(told, narrowed),
        **_made_of(told, divided),
        **_windows(tally, kept),
        **_checked(told, divided),
        "policy": msgspec.to_builtins(rules.policy),
        "versions": tally.versions.listed(),
        "listed": tally.stories(),
    }


def _of_report(report: Answer, asked: UsageQuestion, now_ns: int) -> UsageQuestion:
    """The question as it was answered: perhaps of a longer time, in whole hours."""
    since_ns, until_ns = instant(report["since"], now_ns), instant(report["until"], now_ns)
    return msgspec.structs.replace(asked, since_ns=since_ns, until_ns=until_ns)


def _narrowed(asked: UsageQuestion, row: Row, now_ns: int) -> UsageQuestion:
    """The question that has this row alone as its answer, of the report's time, or of the row's step of it."""
    since_ns, until_ns = asked.since_ns, asked.until_ns
    if "start" in row:
        start_ns = instant(row["start"], now_ns)
        since_ns, until_ns = max(since_ns, start_ns), min(until_ns, start_ns + STEP_NS[asked.step])
    return msgspec.structs.replace(asked, since_ns=since_ns, until_ns=until_ns, where=tags_of(row, asked))


def _gone_through(
    store: Store, policy: Policy, wanted: Wanted, time_ns: tuple[int, int], listed: int
) -> tuple[Tally, str]:
    """The windows added up, and why there is none; empty where the store keeps windows."""
    tally = Tally(wanted, policy, lru_cache(MAX_LAYOUTS)(layout_of), listed)
    servers = servers_of(store, wanted, time_ns)
    try:
        # A store that keeps no windows says so at once; one that fails later fails as a whole.
        windows = chain.from_iterable([store.windows(server, *time_ns) for server in servers])
    except StoreUnavailable as none:
        tally.versions.remember(store.latest("facts"), servers, time_ns[1])
        return tally, f"{none.where} keeps no windows, only their sums"
    for number, window in enumerate(windows):
        _check_number(number, servers)
        tally.add(window)
    tally.versions.remember(store.latest("facts"), servers, time_ns[1])
    return tally, ""


def _check_number(number: int, servers: Sequence[str]) -> None:
    if number >= MAX_WINDOWS:
        raise BadQuestion(
            f"more than {MAX_WINDOWS:,} windows of {len(servers):,} servers lie in this time: narrow it by since and"
            " until, or by server"
        )


def _head(told: Told, narrowed: UsageQuestion) -> Answer:
    figure, row = told.figure, told.row
    return {
        "figure": figure.name,
        "unit": figure.unit,
        "value": row.get(figure.name),
        "reason": told.reason,
        "since": rfc3339(narrowed.since_ns),
        "until": rfc3339(narrowed.until_ns),
        "where": narrowed.where,
        "status": row["status"],
        "coverage": row["coverage"],
        "row": row,
    }


def _made_of(told: Told, divided: Division | None) -> Answer:
    figure, sums, tally = told.figure, told.sums, told.tally
    basis = f"{'made by the hour of ' if divided else ''}{caveats.basis(tally)}"
    return {
        "equation": equation(figure, sums, told.row.get(figure.name), told.reason, basis),
        "division": divided,
        "joules": {
            "bucket": nonzero(sums, (("active", "active_j"), ("idle", "idle_j"))),
            **{name: nonzero(sums, fields) for name, fields in _BY.items()},
        },
        "boundary": {
            "metered_j": uj_to_j(sum(tally.buckets_uj.values())),
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


def _checked(told: Told, divided: Division | None) -> Answer:
    found = told.audit
    # The windows tell the terms apart of the whole that they make, and of no part of it.
    is_whole = divided is None and not found.sums_only and not found.windows_only
    return {
        "uncertainty": {
            "relative": whole(told.sums),
            "terms": doubts(told.sums, told.tally.spread if is_whole else None),
        },
        "doubtful": [
            *caveats.of_audit(found),
            *caveats.of_sums(told.sums, told.row),
            *caveats.of_windows(told.tally),
        ],
        "check": found,
    }
