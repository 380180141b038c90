"""What is doubtful about a figure, in sentences, the gravest first."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from joulefleet.units import ns_to_s, uj_to_j
from joulefleet_collector.explain.audit import Audit, Span
from joulefleet_collector.explain.tally import Hindrance, Tally
from joulefleet_collector.usage import share

NAMED = 3
"""So many servers, obstacles or sensors are named in a sentence."""
ROUNDED_J = 0.001
"""Parts of hours are whole microjoules, rounded one way or the other."""
NOTED = 0.005
"""Shares below this are not worth a sentence."""
MOVED = 0.02
"""Part of the energy from which it is said that other methods would move it."""
GUESSED = ("work", "running", "equal")
"""Methods that do not follow the time for which engines kept a device busy."""
IN_WORDS = {
    "unplaced": "nobody has told on which devices {} runs",
    "unmetered_device": "{} runs on a device that no meter of this boundary measures",
    "engine": "engine {} was covered too little",
    "neighbour": "engine {}, which shares a device with it, was covered too little",
    "meter": "meter {} was covered too little",
}
STATES = {
    "unvalidated": "a counter that has not yet agreed with its power gauge",
    "sensor_disagreement": "a sensor that disagrees with another one",
    "stuck": "a counter that stands still, whose gauge is told instead",
}


def of_windows(tally: Tally) -> Iterator[str]:
    """What the windows tell: time that does not pair, servers without the boundary, sensors, late joules."""
    if tally.unpaired:
        told = "; ".join(_hindered(one, windows) for one, windows in tally.hindrances.most_common(NAMED))
        more = len(tally.hindrances) - NAMED
        others = f"; and {more:,} other reasons" if more > 0 else ""
        of = f"{tally.unpaired:,} of {tally.windows:,} windows"
        yield f"{of} do not pair, and add neither joules nor work: {told}{others}"
    if tally.elsewhere:
        named = ", ".join(f"'{server}'" for server, _ in tally.elsewhere.most_common(NAMED))
        yield (
            f"{sum(tally.elsewhere.values()):,} windows of {len(tally.elsewhere):,} servers ({named}) are not in it:"
            " their meters do not tell this boundary"
        )
    yield from _of_sensors(tally)
    late_uj = sum(one.late_uj for one in tally.meters.values() if one.role == "sum")
    if late_uj:
        yield f"{uj_to_j(late_uj):,.1f} J of these meters came after their windows had been sent: they are in no figure"
    rejected_uj = sum(one.rejected_uj for one in tally.meters.values() if one.role == "sum")
    if rejected_uj:
        yield f"{uj_to_j(rejected_uj):,.1f} J of readings were refused as implausible, and are in no figure"


def _hindered(one: Hindrance, windows: int) -> str:
    reasons = f" ({one.reasons})" if one.reasons else ""
    return f"{IN_WORDS[one.code].format(repr(one.subject))}{reasons} on '{one.server}' in {windows:,}"


def _of_sensors(tally: Tally) -> Iterator[str]:
    for state, words in STATES.items():
        those = [one for one in tally.meters.values() if state in one.states]
        if those:
            named = ", ".join(f"'{one.meter}' of '{one.server}'" for one in those[:NAMED])
            more = f" and {len(those) - NAMED:,} more" if len(those) > NAMED else ""
            yield f"{words}: {named}{more} (state {state})"


def of_sums(sums: Mapping[str, float], row: Mapping[str, Any]) -> Iterator[str]:
    """What the sums of the report tell: coverage, models, methods, unmetered work, restarts, and the row's notes."""
    energy_j = row["energy_j"] or 0.0
    if row["simulated"]:
        yield "simulated: no joule of it was ever used"
    if (row["coverage"] or 0.0) < 1 - NOTED:
        yield f"coverage {row['coverage'] or 0.0:.1%}: the rest of the time is in neither joules nor work"
    for name, words in (
        ("modelled_j", "is modelled, not measured"),
        ("percent_j", "is a share of a rated power"),
        ("residual_j", "is a difference of meters"),
        ("idle_default_j", "is idle energy by a catalogue's idle power"),
    ):
        if (part := share(sums.get(name), energy_j) or 0.0) > NOTED:
            yield f"{part:.1%} of the energy {words}"
    guessed = {method: part for method, part in row["joules_by_method"].items() if method in GUESSED}
    if (part := share(sum(guessed.values()), energy_j) or 0.0) > NOTED:
        yield (
            f"{part:.1%} of the energy was split by {' and '.join(guessed)}: engines share a device or server, and"
            " nothing told how long each kept it busy"
        )
    if (part := share(sums.get("allocation_j"), energy_j) or 0.0) > MOVED:
        yield (
            "splits that are not measured (shared devices, prompts and answers) matter: other methods and weights would"
            f" move it by {part:.1%}"
        )
    if row["unmetered_output_tokens"] or row["unmetered_requests_ok"]:
        requests, tokens = row["unmetered_requests_ok"] or 0, row["unmetered_output_tokens"] or 0
        yield f"{requests:,.0f} requests with {tokens:,.0f} output tokens have no joules beside them, and are left out"
    if row["restarts"]:
        yield f"{row['restarts']:,.0f} restarts of engines: what they counted just before is not known"
    yield from row["notes"]


def of_audit(found: Audit) -> Iterator[str]:
    """Where windows and sums do not tell the same."""
    if abs(found.row_residual_j) > ROUNDED_J:
        yield (
            f"the row is {found.row_residual_j:,.1f} J off the hours it was made of: windows came while this was made;"
            " ask for a time that is over"
        )
    if found.differ:
        yield (
            f"the sums of {_spans(found.differ)} are not what their windows make under this policy:"
            " 'joulefleet store recount' makes them anew"
        )
    if found.sums_only:
        yield f"not all windows of {_spans(found.sums_only)} are kept: that part rests on sums alone"
    if found.windows_only:
        yield f"windows of {_spans(found.windows_only)} came while this was made: ask for a time that is over"


def _spans(spans: Sequence[Span]) -> str:
    named = ", ".join(f"{one.since} to {one.until}" for one in spans[:NAMED])
    return named + (f" and {len(spans) - NAMED:,} other times" if len(spans) > NAMED else "")


def basis(tally: Tally | None) -> str:
    """Of how many windows and servers a figure is, in words."""
    if tally is None or not tally.windows:
        return "from sums, no window of it is kept"
    steps = " and ".join(f"{ns_to_s(step_ns):g} s" for step_ns in sorted(tally.steps_ns))
    servers = f"{len(tally.servers):,} server{'s' if len(tally.servers) > 1 else ''}"
    return f"{tally.windows:,} window{'s' if tally.windows > 1 else ''} of {steps}, {servers}"
