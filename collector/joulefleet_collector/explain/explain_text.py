"""An explanation as text for a person: the equation, where the joules come from, what is doubtful; then the windows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from joulefleet.units import uj_to_j
from joulefleet_collector.explain.caveats import IN_WORDS
from joulefleet_collector.report_table import BEGINNING, Column, Row, count, energy, number, percent, table

INDENT = "  "
MOST_LINES = 5
"""Meters, hours and sites in the short form."""
NAMED = 3
"""Meters that are named in a line."""
BY = (("bucket", "bucket"), ("method", "method"), ("grade", "grade"), ("sensor_class", "class"))


def explained(told: Row, width: int | None, windows: bool) -> str:
    """The explanation in lines of at most this many characters where that can be; with `windows` the listed ones."""
    parts = [
        "\n".join(_head(told)),
        _section("How it was made of hours", _division(told["division"], width)),
        _section("Where the joules come from", _joules(told, width)),
        _section("Meters", _meters(told, width)),
        _section("How sure it is", _uncertainty(told, width)),
        _section("What is doubtful", "\n".join(f"- {one}" for one in told["doubtful"]) or "nothing that is known"),
        _section("Check", "\n".join(_check(told))),
        _section("Made with", "\n".join((*_versions(told), _policy(told["policy"])))),
        *(("\n\n".join(_story(one, width) for one in told["listed"]),) if windows else ()),
        "" if windows else "Windows in full: --windows 3. Everything: --json.",
    ]
    return "\n\n".join(part for part in parts if part)


def _section(head: str, body: str) -> str:
    return f"{head}\n{body}" if body else ""


def _head(told: Row) -> Iterator[str]:
    tags = ", ".join(
        f"{name} {' or '.join(values)}" for name, values in told["where"].items() if any(values) and name != "simulated"
    )
    mark = " (SIMULATED)" if told["row"]["simulated"] else ""
    time = f"all until {told['until']}" if told["since"] == BEGINNING else f"{told['since']} to {told['until']}"
    yield f"{told['figure']}{mark}: {tags}; {time}"
    yield ""
    yield f"{INDENT}{told['equation']}"
    yield ""
    uncertainty = told["uncertainty"]["relative"]
    sure = "" if uncertainty is None or told["value"] is None else f", ±{percent(uncertainty, 1)} (k=1)"
    yield f"{INDENT}coverage {percent(told['coverage'], 1)}: {told['status']}{sure}"


def _division(divided: Row | None, width: int | None) -> str:
    if not divided:
        return ""
    share = divided["figure_j"] / divided["whole_j"] if divided["whole_j"] else None
    lines = [f"{energy(divided['figure_j'])} from {energy(divided['whole_j'])} of its engines: {percent(share, 1)}"]
    lines += [f"- {way}" for way in divided["ways"]]
    columns = [
        Column("hour", lambda row: str(row["start"]), right=False),
        _number("figure", "figure_j", energy),
        _number("engines", "whole_j", energy),
        Column("share", lambda row: percent(row["share"], 1)),
    ]
    lines.append(table(divided["hours"][:MOST_LINES], columns, width))
    if (more := divided["hours_counted"] - MOST_LINES) > 0:
        lines.append(f"and {more:,} more hours")
    lines += map(_rate, divided["rates"][:MOST_LINES])
    lines += [f"not in it: {what}" for what in divided["fleet"].get("leaves_out", ())]
    lines += [
        f"hour {one['start']} of group {one['group']} is refused: {one['server']} pairs for {one['paired_s']:,.0f} s"
        for one in divided["missing"][:MOST_LINES]
    ]
    if (more := divided["missing_counted"] - MOST_LINES) > 0:
        lines.append(f"and {more:,} more")
    return "\n".join(lines)


def _rate(one: Row) -> str:
    rates = one["rates"]
    known = (
        ("pue", "PUE {}"),
        ("price_per_kwh", f"{{}} {rates.get('currency', '')}/kWh"),
        ("carbon_g_per_kwh", "{} g CO2e/kWh"),
    )
    told = [words.format(number(rates[name])) for name, words in known if rates.get(name) is not None]
    return f"{one['start']} at {one['site'] or 'a site without a name'}: {', '.join(told) or 'nothing is known'}"


def _joules(told: Row, width: int | None) -> str:
    total = sum(told["joules"]["bucket"].values())
    rows = [
        {"by": head, "name": name, "j": joules, "share": joules / total if total else None}
        for key, head in BY
        for name, joules in sorted(told["joules"][key].items(), key=lambda one: -one[1])
    ]
    if not rows:
        return ""
    columns = [_text("by"), _text("name"), _number("energy", "j", energy), _number("share", "share", percent)]
    what = "its engines" if told["division"] else "this figure"
    return "\n".join(filter(None, (table(rows, columns, width), _boundary(told["boundary"], what))))


def _boundary(sums: Mapping[str, float], what: str) -> str:
    others_j = sums["active_j"] + sums["idle_j"] - sums["figure_j"]
    parts = (
        (what, sums["figure_j"]),
        ("other engines and models", others_j),
        ("idle of devices that nobody holds", sums["idle_unallocated_j"]),
        ("unattributed", sums["unattributed_j"]),
        ("unmatched", sums["unmatched_j"]),
    )
    told = " + ".join(f"{energy(joules)} {name}" for name, joules in parts if abs(joules) > 1e-6)
    return f"in the same windows: {energy(sums['metered_j'])} metered = {told}" if told else ""


def _meters(told: Row, width: int | None) -> str:
    rows = told["meters"]
    if not rows:
        return ""
    columns = [
        _text("server"),
        _text("meter"),
        _text("kind"),
        _text("grade"),
        Column("class", lambda row: str(row["sensor_class"]), right=False, drop=3),
        _number("measured", "energy_j", energy),
        _number("in the figure", "charged_j", energy),
        _number("coverage", "coverage", percent),
        Column("counter, uJ", _counter, right=False, drop=4),
    ]
    summed = [row for row in rows if row["role"] == "sum"]
    lines = [table(summed[:MOST_LINES] or rows[:MOST_LINES], columns, width)]
    if (more := told["meters_counted"] - min(len(summed), MOST_LINES)) > 0:
        lines.append(f"and {more:,} more that are in the sum or tell who used it")
    if told["left_out"]:
        named = ", ".join(map(_left_out, told["left_out"][:NAMED]))
        more = told["left_out_counted"] - NAMED
        lines.append(f"not in the sum: {named}{f' and {more:,} more' if more > 0 else ''}")
    return "\n".join(lines)


def _counter(row: Row) -> str:
    jumps = f", {row['jumps']:,} jumps" if row["jumps"] else ""
    return f"{int(row['first_uj']):,} to {int(row['last_uj']):,}{jumps}"


def _left_out(one: Row) -> str:
    server = f" of {one['server']}" if "server" in one else ""
    return f"{one['meter']}{server} ({' '.join(filter(None, (one['code'], one['of'])))})"


def _uncertainty(told: Row, width: int | None) -> str:
    columns = [
        _text("term"),
        Column("±k=1", lambda row: f"±{percent(row['relative'], 2)}"),
        Column("what it is", lambda row: str(row["means"]), right=False),
    ]
    terms = told["uncertainty"]["terms"]
    return table(terms, columns, width) if terms else ""


def _check(told: Row) -> Iterator[str]:
    check, windows = told["check"], told["windows"]
    if windows["none_kept"]:
        yield f"none: {windows['none_kept']}"
        return
    if not windows["counted"]:
        yield "none: no window of this figure is kept any more; it rests on sums alone"
        return
    worst = max((abs(one["residual"]) for one in check["fields"]), default=0.0)
    same = "the windows make the same sums as the store has" if check["agrees"] else "the windows make OTHER sums"
    yield f"{same}: largest residual of {len(check['fields'])} fields {worst:.3g}"
    for one in check["fields"] if not check["agrees"] else ():
        yield f"{INDENT}{one['field']}: windows {number(one['windows'])}, report {number(one['sums'])}"


def _versions(told: Row) -> Iterator[str]:
    by_what: dict[str, list[Row]] = {}
    for one in told["versions"]:
        by_what.setdefault(one["what"], []).append(one)
    for what, several in by_what.items():
        values = [f"{one['value']} ({one['since']} to {one['until']})" for one in several[:3]]
        more = f" and {len(several) - 3} more" if len(several) > 3 else ""
        yield f"{what}: {', '.join(values) if len(several) > 1 else several[0]['value']}{more}"


def _policy(policy: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{name} {_plain(value)}" for name, value in policy.items() if name != "version")
    return f"policy version {policy['version']}: {rest}"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_plain(one)}" for name, one in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        tables = any(isinstance(one, Mapping) for one in value)
        return ("; " if tables else " to ").join(map(_plain, value)) or "none"
    return str(value)


def _story(one: Row, width: int | None) -> str:
    head = (
        f"Window {one['start']} of {one['server']}, {one['step_s']:g} s, timeline {one['timeline']}:"
        f" {number(uj_to_j(one['energy_uj']), 6)} J of the figure; listed as {', '.join(one['listed_as'])}"
    )
    parts = [head, *_engines(one["engines"]), _read(one["meters"], width), _charges(one["charges"], width)]
    parts += [f"not in the sum: {_left_out(each)}" for each in one["left_out"]]
    return "\n".join(part for part in parts if part)


def _engines(engines: Sequence[Row]) -> Iterator[str]:
    for one in engines:
        on = ", ".join(map(_held, one["devices"].items())) or "the whole server"
        yield f"engine {one['engine']} on {on}: covered {one['covered_s']:g} s{_gaps(one['gaps_s'])}, {_pairs(one)}"
        for model in one["models"]:
            counts = ", ".join(f"{name} {count(value)}" for name, value in model["counts"].items()) or "nothing counted"
            yield f"{INDENT}{model['model'] or '(no model)'}: {counts}; {model['charged_uj']:,} uJ"


def _held(device: tuple[str, float]) -> str:
    name, share = device
    return name if share == 1 else f"{share:.0%} of {name}"


def _pairs(engine: Row) -> str:
    if engine["paired_s"] is not None:
        return f"pairs with {engine['paired_s']:g} s"
    return f"does not pair: {'; '.join(map(_obstacle, engine['obstacles']))}"


def _obstacle(one: Row) -> str:
    words = IN_WORDS[one["code"]].format(one["subject"])
    if one["covered_s"] >= one["needed_s"]:
        return words
    return f"{words}, {one['covered_s']:g} of {one['needed_s']:g} s{_gaps(one['gaps_s'])}"


def _gaps(gaps_s: Mapping[str, float]) -> str:
    return f" ({', '.join(f'{code} {gap_s:g} s' for code, gap_s in gaps_s.items())})" if gaps_s else ""


def _read(meters: Sequence[Row], width: int | None) -> str:
    columns = [
        _text("meter"),
        Column("role", lambda row: "in the sum" if row["role"] == "sum" else "tells who used it", right=False),
        Column("grade", lambda row: str(row["grade"]), right=False),
        Column("first uJ", lambda row: f"{int(row['first_uj']):,}", drop=2),
        Column("last uJ", lambda row: f"{int(row['last_uj']):,}", drop=2),
        Column("energy uJ", lambda row: f"{row['energy_uj']:,}"),
        Column("late uJ", lambda row: f"{row['late_uj']:,}", drop=1),
        Column("covered", lambda row: f"{row['covered_s']:g} s{_gaps(row['gaps_s'])}", right=False),
        Column("idle W", lambda row: number(row["idle_w"])),
        Column("states", lambda row: ", ".join(row["states"]) or "-", right=False),
    ]
    return table(meters, columns, width) if meters else ""


def _charges(charges: Sequence[Row], width: int | None) -> str:
    columns = [
        _text("meter"),
        Column("to", lambda row: str(row["engine"] or "nobody"), right=False),
        _text("bucket"),
        _text("method"),
        Column("uJ", lambda row: f"{row['energy_uj']:,}"),
        Column("in the figure", lambda row: f"{row['charged_uj']:,}"),
    ]
    return table(charges, columns, width) if charges else ""


def _text(name: str) -> Column:
    return Column(name, lambda row: str(row[name] or "-"), right=False)


def _number(head: str, name: str, show: Any) -> Column:
    return Column(head, lambda row: show(row[name]))
