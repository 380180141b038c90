"""What a reader of figures must be warned of: clashing agents, clocks, losses, joules without work, models."""

from collections.abc import Callable, Iterable, Sequence

from joulefleet_collector.agents import newest
from joulefleet_collector.answer.groups import LEFT_OUT_J
from joulefleet_collector.report_table import energy
from joulefleet_collector.rows import WIDER_BOUNDARIES, Row
from joulefleet_collector.store.overlap import Gap
from joulefleet_collector.store.store import Overlap, Total

Notice = dict[str, object]
Told = Callable[[int], str]
"""An instant in words."""

CLOCK_S = 2.0
"""How far an agent's clock may surely be off: by more, its windows clearly tell of another time than they name."""
ROUNDED_FROM = 100.0
"""A number in a sentence has three digits, or all before the point where these are more."""
LEDGER_IS_WIDER: Notice = {
    "code": "ledger_of_whole_servers",
    "message": "the ledger and its warnings tell of whole servers, not only of the work that was asked for",
}
"""Said where a filter names tags that only engines have."""

SENSOR_TAGS = ("server", "meter", "simulated")
"""Tags by which the rows of meters are asked for."""
SENSORS: tuple[tuple[str, str, Notice], ...] = (
    (
        "disagreeing_j",
        "J were told by {} that disagree with another sensor: {}",
        {
            "code": "sensor_disagreement",
            "mend": "counter and gauge, or two sources of one thing, are more than 5 % apart, or parts exceed their"
            " whole; 'joulefleet doctor' on that server lists the sources, and the agent's config can leave one out",
        },
    ),
    (
        "stuck_s",
        "s passed while the counters of {} stood still: {}",
        {
            "code": "stuck",
            "mend": "after ten minutes the power gauge is told instead, as grade integrated; a reload of the driver, or"
            " a newer one, may let the counter go on",
        },
    ),
    (
        "implausible_s",
        "s were refused of {} whose readings no such device can give: {}",
        {"code": "implausible", "mend": "look at the unit and the rated maximum that its source declares"},
    ),
    (
        "hung_s",
        "s are missing of {} that did not answer in time: {}",
        {"code": "hung", "mend": "look at that device, its driver or its BMC"},
    ),
    (
        "stale_s",
        "s are missing of {} that made no new value: {}",
        {"code": "stale", "mend": "look at what makes the value: a BMC, an exporter or its sensor"},
    ),
    (
        "unvalidated_j",
        "J were told by {} not yet seen to agree with the power gauge beside them: {}",
        {
            "code": "unvalidated",
            "mend": "a minute above 1.5 times idle power proves them; where they stay so under such load, counter and"
            " gauge are a factor of two apart, and one of them is wrong",
        },
    ),
)
"""What may be wrong with sensors: the field of their rows that tells it, and the notice."""
SENSOR_FIELDS = ("energy_j", *(field for field, _, _ in SENSORS))
"""What is asked of these rows."""
NAMED_SENSORS = 3
"""So many are named in a sentence; up to ten times as many in JSON."""


def warnings(
    usage: Sequence[Total],
    ledger: Sequence[Total],
    agents: Sequence[Row],
    timelines: Sequence[Overlap | Gap],
    told: Told,
) -> list[Notice]:
    """All warnings about these sums, the gravest first."""
    return [
        *(_overlap(one, told) for one in timelines if isinstance(one, Overlap)),
        *clocks(agents),
        *_losses(agents),
        *(_gap(one, told) for one in timelines if isinstance(one, Gap)),
        *_unmatched(usage, ledger),
        *_left_out(usage),
        *_restarts(usage),
        *_modelled(ledger),
        *_catalogue(usage),
    ]


def _overlap(one: Overlap, told: Told) -> Notice:
    since, until = told(one.from_ns), told(one.to_ns)
    return {
        "code": "two_agents_or_clock",
        "server": one.server,
        "since": since,
        "until": until,
        "timelines": [f"{timeline:08x}" for timeline in one.timelines],
        "message": f"server '{one.server}' sent two accounts of the time from {since} to {until}: two agents bear this"
        " name, or its clock stepped back; joules of that time may be counted twice",
    }


def _gap(one: Gap, told: Told) -> Notice:
    since, until = told(one.from_ns), told(one.to_ns)
    return {
        "code": "spool_lost",
        "server": one.server,
        "since": since,
        "until": until,
        "message": f"no window of server '{one.server}' tells of the time from {since} to {until}: its agent began anew"
        " then, without the spool it had; what waited there is lost, unless a late window still tells of that time",
    }


def clocks(agents: Iterable[Row]) -> list[Notice]:
    """One per server whose clock is surely off by more than CLOCK_S, as its newest row tells."""
    return [_clock(server, row) for server, row in sorted(newest(agents).items()) if _surely_off_s(row) > CLOCK_S]


def _surely_off_s(row: Row) -> float:
    return abs(row.fields.get("clock_ahead_s", 0.0)) - row.fields.get("clock_error_s", 0.0)


def _clock(server: str, row: Row) -> Notice:
    ahead_s, error_s = row.fields["clock_ahead_s"], row.fields.get("clock_error_s", 0.0)
    return {
        "code": "agent_clock",
        "server": server,
        "clock_ahead_s": ahead_s,
        "clock_error_s": error_s,
        "message": f"the clock of '{server}' is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the"
        f" collector's (to within {error_s:.2f} s), and its figures stand at other times than they should: keep the"
        " clocks of both by NTP",
    }


def _losses(agents: Sequence[Row]) -> list[Notice]:
    return [_loss(row) for row in agents if row.fields.get("lost_windows") or row.fields.get("refused_windows")]


def _loss(row: Row) -> Notice:
    names = ("lost_windows", "lost_s", "lost_j", "refused_windows")
    lost = {name: row.fields.get(name, 0.0) for name in names}
    server = row.tags.get("server", "")
    return {
        "code": "agent_losses",
        "server": server,
        "timeline": row.tags.get("timeline", ""),
        **lost,
        "message": f"the agent of '{server}' has lost {lost['lost_windows']:,.0f} windows"
        f" ({_rounded(lost['lost_s'])} s, {_rounded(lost['lost_j'])} J)"
        f" and holds {lost['refused_windows']:,.0f} that the collector refused",
    }


def of_sensors(sensors: Sequence[Total]) -> list[Notice]:
    """One per fault that meters' rows tell, by SENSOR_TAGS; simulated and real ones apart."""
    found = []
    for field, sentence, notice in SENSORS:
        for simulated in sorted({total.tags.get("simulated", "") for total in sensors}):
            of_kind = [one for one in sensors if one.tags.get("simulated", "") == simulated]
            those = [one for one in of_kind if one.fields.get(field, 0.0) > _unnoticed(one, field)]
            if those:
                found.append(_sensor(sorted(those, key=lambda one: -one.fields[field]), field, sentence, notice))
    return found


def _unnoticed(one: Total, field: str) -> float:
    """Up to so much nobody need be told: each new counter has a first minute."""
    return one.fields.get("energy_j", 0.0) / 20 if field == "unvalidated_j" else 0.0


def _sensor(worst: Sequence[Total], field: str, sentence: str, notice: Notice) -> Notice:
    total = _summed(worst, field)
    named = ", ".join(f"'{one.tags.get('meter')}' of '{one.tags.get('server')}'" for one in worst[:NAMED_SENSORS])
    more = f" and {len(worst) - NAMED_SENSORS:,} more" if len(worst) > NAMED_SENSORS else ""
    several = f"{len(worst):,} sensor{'s' if len(worst) > 1 else ''}"
    return {
        "code": notice["code"],
        "simulated": worst[0].tags.get("simulated") == "true",
        field: total,
        "sensors": len(worst),
        "worst": [
            {"server": one.tags.get("server", ""), "meter": one.tags.get("meter", ""), field: one.fields[field]}
            for one in worst[: 10 * NAMED_SENSORS]
        ],
        "message": f"{_rounded(total)} {sentence.format(several, named + more)}; {notice['mend']}",
    }


def _unmatched(usage: Sequence[Total], ledger: Sequence[Total]) -> list[Notice]:
    """One per boundary, simulated and real apart; what is missing at wider ones is missing for other reasons too."""
    found = []
    measured = [total for total in usage if total.tags.get("boundary") not in WIDER_BOUNDARIES]
    of_usage, of_ledger = _by_boundary(measured), _by_boundary(ledger)
    for key in sorted(of_usage.keys() | of_ledger.keys()):
        used = of_usage.get(key, [])
        joules = _summed(of_ledger.get(key, []), "unmatched_j")
        requests, tokens = _summed(used, "unmetered_requests_ok"), _summed(used, "unmetered_output_tokens")
        if not (joules or requests or tokens):
            continue
        unpaired_s = _summed(used, "window_s") - _summed(used, "paired_s")
        found.append(
            {
                "code": "unmatched",
                **_named(key),
                "unmatched_j": joules,
                "unpaired_s": unpaired_s,
                "unmetered_requests_ok": requests,
                "unmetered_output_tokens": tokens,
                "message": f"boundary {key[0]}: {_apart(joules, requests, tokens, unpaired_s)};"
                " no figure contains them",
            }
        )
    return found


def _left_out(usage: Sequence[Total]) -> list[Notice]:
    """One per boundary, simulated and real apart."""
    by_boundary = {key: _summed(used, LEFT_OUT_J) for key, used in sorted(_by_boundary(usage).items())}
    return [
        {
            "code": "group_incomplete",
            **_named(key),
            LEFT_OUT_J: joules,
            "message": f"boundary {key[0]}: {energy(joules)} of replica groups are left out, of hours in which"
            " one of their members was not covered; a report by group, step hour, tells which",
        }
        for key, joules in by_boundary.items()
        if joules
    ]


def _apart(joules: float, requests: float, tokens: float, unpaired_s: float) -> str:
    """What has no counterpart, in words; nothing of what is not there."""
    without_work = [f"{energy(joules)} have no work beside them"] if joules else []
    work = f"{requests:,.0f} requests with {tokens:,.0f} output tokens have no energy"
    since = f", since in {_rounded(unpaired_s)} s a meter or an engine was not covered" if unpaired_s else ""
    return " and ".join([*without_work, *([work] if requests or tokens else [])]) + since


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= ROUNDED_FROM else f"{value:.3g}"


def _restarts(usage: Sequence[Total]) -> list[Notice]:
    """One per combination of tags; each boundary repeats the same restarts."""
    most: dict[tuple[tuple[str, str], ...], float] = {}
    for total in usage:
        if not total.fields.get("restarts"):
            continue
        key = tuple(sorted((name, value) for name, value in total.tags.items() if name != "boundary"))
        step = (("start", str(total.start_ns)),)
        most[key + step] = max(most.get(key + step, 0.0), total.fields["restarts"])
    counts: dict[tuple[tuple[str, str], ...], float] = {}
    for key, restarts in most.items():
        counts[key[:-1]] = counts.get(key[:-1], 0.0) + restarts
    return [_restart(dict(key), restarts) for key, restarts in sorted(counts.items())]


def _restart(tags: dict[str, str], restarts: float) -> Notice:
    of = ", ".join(f"{name} {value}" for name, value in tags.items() if name != "simulated" and value)
    return {
        "code": "engine_restarted",
        **tags,
        "simulated": tags.get("simulated") == "true",
        "restarts": restarts,
        "message": f"{restarts:g} restarts of an engine{f' ({of})' if of else ''}: what it counted between its last"
        " reading and the restart is not known, so joules per request and token may be too high",
    }


def _modelled(ledger: Sequence[Total]) -> list[Notice]:
    found = []
    for key, totals in sorted(_by_boundary(ledger).items()):
        joules, metered = _summed(totals, "modelled_j"), _summed(totals, "metered_j")
        if joules and metered:
            found.append(
                {
                    "code": "modelled",
                    **_named(key),
                    "modelled_j": joules,
                    "modelled_share": joules / metered,
                    "message": f"boundary {key[0]}: {joules / metered:.0%} of the joules are modelled, not measured; to"
                    " measure them, let the agent read RAPL (CPU), the BMC (server) or the GPU's own counter:"
                    " 'joulefleet doctor' says what is missing",
                }
            )
    return found


def _catalogue(usage: Sequence[Total]) -> list[Notice]:
    found = []
    for key, totals in sorted(_by_boundary(usage).items()):
        joules = _summed(totals, "idle_default_j")
        if joules:
            found.append(
                {
                    "code": "idle_from_catalogue",
                    **_named(key),
                    "idle_default_j": joules,
                    "message": f"boundary {key[0]}: {energy(joules)} of idle energy rest on a catalogue's idle"
                    " power, until the agent has learnt it from idle minutes",
                }
            )
    return found


def _by_boundary(totals: Sequence[Total]) -> dict[tuple[str, str], list[Total]]:
    """By boundary, simulated and real apart."""
    found: dict[tuple[str, str], list[Total]] = {}
    for total in totals:
        found.setdefault((total.tags.get("boundary", ""), total.tags.get("simulated", "")), []).append(total)
    return found


def _named(key: tuple[str, str]) -> Notice:
    return {"boundary": key[0], "simulated": key[1] == "true"}


def _summed(totals: Sequence[Total], field: str) -> float:
    return sum(total.fields.get(field, 0.0) for total in totals)
