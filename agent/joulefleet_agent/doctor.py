"""`joulefleet doctor`: which sources can be read on this machine, and for each that cannot, why."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from joulefleet.cli import Mendable
from joulefleet.config import ConfigError
from joulefleet.counter import Rules
from joulefleet.describe import Meter
from joulefleet.gain import PPM, Gain
from joulefleet.units import mw_to_w, ns_to_s, w_to_mw
from joulefleet_agent.calibration import gains_of
from joulefleet_agent.children import CannotGoOn
from joulefleet_agent.config import AgentConfig, load_config, sources_of
from joulefleet_agent.ending import stop_on_signal
from joulefleet_agent.probe import NEEDS_CONFIGURATION, Finding, agreements_of, probe
from joulefleet_agent.sources import on_this_machine
from joulefleet_agent.spool import SpoolUnavailable
from joulefleet_agent.watch import Agreement, Seen
from joulefleet_agent.whereabouts import whereabouts

WATCH_S = 3.0
BLOCK_S = 20.0
FEW_READS = 3
NOT_HERE = ("absent", "library_missing", "package_missing", "scrape_failed")
"""States that most machines have of most sources: where nobody asked for these, they are told in one block."""


@click.command()
@click.option("--config", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Try its sources.")
@click.option("--seconds", type=click.FloatRange(0, 600), help="How long to watch; of --disturbance, a block's length.")
@click.option(
    "--bundle", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write a redacted support file."
)
@click.option("--disturbance", "disturbed", is_flag=True, help="Measure what the agent itself adds.")
@click.option("--alternations", default=10, show_default=True, type=click.IntRange(2, 1000), help="Of --disturbance.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def doctor(  # noqa: PLR0913, PLR0917 # one argument an option
    path: Path | None, seconds: float | None, file: Path | None, disturbed: bool, alternations: int, json_: bool
) -> None:
    """Try every source on this machine, or those of a config file, and say what each gives or how to mend it."""
    if disturbed and file:
        raise Mendable("a bundle holds what the doctor finds without --disturbance: say one of the two")
    try:
        if disturbed:
            lines, told_ = _disturbance(path, BLOCK_S if seconds is None else seconds, alternations)
        else:
            findings = examine(path, WATCH_S if seconds is None else seconds)
            lines, told_ = told(findings, unasked=path is None), report(findings)
            lines += _bundle(file, path, told_)
    except FileExistsError as error:
        raise Mendable(f"{file} exists already; name another file") from error
    except (ConfigError, CannotGoOn, SpoolUnavailable, OSError) as error:
        raise Mendable(error) from error
    click.echo(msgspec.json.format(msgspec.json.encode(told_), indent=2).decode() if json_ else "\n".join(lines))


def _disturbance(path: Path | None, block_s: float, alternations: int) -> tuple[list[str], dict[str, Any]]:
    from joulefleet_agent.disturbance import disturbance, told_plainly  # noqa: PLC0415 - it brings the whole agent

    config = load_config(path) if path else AgentConfig()
    found = disturbance(config, str(path or "doctor"), block_s, alternations, stop_on_signal())
    return told_plainly(found), {**msgspec.structs.asdict(found), "on_less_off_w": found.interval}


def _bundle(file: Path | None, path: Path | None, told_: dict[str, Any]) -> list[str]:
    if file is None:
        return []
    from joulefleet_agent.bundle import bundle, write  # noqa: PLC0415 - only who asks for it needs it

    write(file, bundle(told_, tomllib.loads(path.read_text(encoding="utf-8")) if path else None))
    return ["", f"{file}: written without names, addresses and secrets; look through it before you send it"]


def examine(path: Path | None, watch_s: float) -> list[Finding]:
    """Try the sources of a config file, or every one that reads this machine. Raises ConfigError."""
    if path is None:
        return probe(on_this_machine(), "doctor", watch_s=watch_s, unasked=True)
    config = load_config(path)
    gains = gains_of(config, str(path))
    findings = probe(sources_of(config, str(path)), str(path), watch_s=watch_s, gains=gains)
    return [*findings, *_without_meter(gains, findings)]


def _without_meter(gains: Mapping[str, Gain], findings: Sequence[Finding]) -> list[Finding]:
    """A calibration that no meter takes is a name that was written wrongly, or a meter that is away."""
    declared = {meter.id for finding in findings for meter in finding.meters}
    return [
        Finding(
            source="calibration",
            state="no_such_meter",
            detail=f"{gain.meter}: no source here declares a meter of this name; its gain changes nothing",
            mend="if the meter is gone for good, take its entries out of the file",
        )
        for gain in gains.values()
        if gain.meter not in declared
    ]


def report(findings: list[Finding]) -> dict[str, Any]:
    """The findings, for a program."""
    compared = [
        {**msgspec.structs.asdict(one), "difference": one.difference, "agrees": one.agrees}
        for one in agreements_of(findings)
    ]
    return {
        "findings": findings,
        "agreements": compared,
        "advice": [_advice(findings), *_engines(findings), *whereabouts(findings)],
    }


def told(findings: list[Finding], unasked: bool = True) -> list[str]:
    """The findings, for a person."""
    brief = [one for one in findings if unasked and one.state in (*NOT_HERE, NEEDS_CONFIGURATION)]
    lines = [line for finding in findings if finding not in brief for line in _lines(finding)]
    agreed = [_agreement(one) for one in agreements_of(findings)]
    return [*lines, *agreed, *_not_here(brief), "", _advice(findings), *_engines(findings), *whereabouts(findings)]


def _lines(finding: Finding) -> list[str]:
    mark, state = ("ok", "") if finding.readable else ("--", f"{finding.state}: ")
    cost = f"  ({finding.read_ms:.1f} ms a read{_cpu(finding)})" if finding.readable and finding.read_ms else ""
    tried = f"  tried: {finding.tried}" if finding.tried else ""
    head = f"{mark}  {finding.source:<12} {state}{finding.detail}".rstrip() + cost + tried
    mend = [f"    {'':<12} mend: {finding.mend}"] if finding.mend else []
    seen = {one.meter: one for one in finding.seen}
    meters = [f"    {'':<12} {_meter(one, seen.get(one.id))}" for one in finding.meters if finding.readable]
    engines = [f"    {'':<12} engine {engine.id}: {engine.software}" for engine in finding.engines if finding.readable]
    return [head, *mend, *meters, *engines]


def _cpu(finding: Finding) -> str:
    return f", {finding.cpu_ms:.1f} ms of CPU" if finding.cpu_ms is not None else ""


def _meter(meter: Meter, seen: Seen | None) -> str:
    most = [f"up to {mw_to_w(meter.max_power_mw):.0f} W"] if meter.max_power_mw else []
    basis = [f"rests on {meter.basis}"] if meter.basis else []
    gain = [f"gain {meter.gain_ppm / PPM:.4f} (calibration {meter.calibration})"] if meter.calibration else []
    parts = [
        meter.hw_model or "unknown model",
        f"grade {meter.grade}",
        *most,
        *basis,
        *gain,
        *(_course(meter, seen) if seen else ()),
    ]
    return f"{_named(meter)}: {', '.join(parts)}"


def _course(meter: Meter, seen: Seen) -> list[str]:
    power = [f"{seen.power_w:.1f} W now"] if seen.power_w is not None else []
    if seen.power_w is not None and not Rules.of(meter).believes(w_to_mw(seen.power_w)):
        power.append("IMPLAUSIBLE: no reading of more than 1.2 times what it can draw is believed")
    told = f" (told to move each {ns_to_s(meter.refresh_ns):.2g} s)" if meter.refresh_ns else ""
    if seen.refresh_s:
        moves = f"a new value each {seen.refresh_s:.2g} s"
    elif seen.reads < FEW_READS:
        moves = f"read too few times to see it move{told}"
    else:
        moves = f"it stood still while it was watched{told}"
    return [*power, moves]


def _agreement(one: Agreement) -> str:
    mark = "agree" if one.agrees else "DIFFER"
    sides = f"{one.one} {one.one_w:.1f} W, {one.other} {one.other_w:.1f} W"
    return f"    {mark:<12} {one.subject}: {sides} ({one.difference:+z.1%})"


def _not_here(brief: Sequence[Finding]) -> list[str]:
    keyed = [f"{one.source} ({_key(one)})" for one in brief if one.state == NEEDS_CONFIGURATION]
    absent = [f"    {one.source:<18} {one.state}: {one.mend or one.detail}" for one in brief]
    absent = [line for line, one in zip(absent, brief, strict=True) if one.state != NEEDS_CONFIGURATION]
    return [
        *(["", "Not here:", *absent] if absent else []),
        *(["", f"Need a [[sources]] entry of a config file: {', '.join(keyed)}"] if keyed else []),
    ]


def _key(finding: Finding) -> str:
    """The key that is missing; for another fault of the table, the whole sentence."""
    key, _, sentence = finding.detail.partition(": ")
    return key if "missing required field" in sentence else finding.detail


def _named(meter: Meter) -> str:
    return meter.kind if meter.id == meter.kind else f"{meter.kind} {meter.id}"


def _advice(findings: list[Finding]) -> str:
    """What the figures of this machine will rest on."""
    meters = [meter for finding in findings if finding.readable for meter in finding.meters]
    grades = {meter.grade for meter in meters}
    if not meters:
        return "Nothing on this machine tells its energy."
    kinds = {meter.kind for meter in meters if meter.grade != "modelled"}
    if not kinds:
        return _all_modelled(meters)
    if others := sorted(grades - {"counter", "integrated", "modelled"}):
        return f"What is graded {' or '.join(others)} is not measured by itself: above it says what it rests on."
    if "modelled" in grades and "server" in kinds:
        return "The whole server is measured; what is `modelled` beside it counts only where no meter tells."
    if "modelled" in grades:
        return "Not everything is measured: the whole server is `modelled` where no meter covers it."
    return "Everything that is read here is measured."


def _all_modelled(meters: Sequence[Meter]) -> str:
    if any(meter.kind != "host" for meter in meters):
        return "No sensor can be read: every figure will be `modelled`; above it says what it rests on."
    return (
        "No sensor can be read: every figure will be `modelled` from CPU utilisation, which may be off by half."
        " Better: one of the mends above, or the server's own meter (BMC, PDU)."
    )


def _engines(findings: list[Finding]) -> list[str]:
    """What to do where no inference server answers."""
    if any(finding.engines for finding in findings if finding.readable):
        return []
    return [
        "No inference server answers, and without one there are watts but no joules per token: start it with its"
        " metrics page, or name that with `joulefleet up --engine URL`, or as a source `openmetrics` of the agent."
    ]
