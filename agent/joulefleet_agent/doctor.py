"""`joulefleet doctor`: which sources can be read on this machine, and for each that cannot, why."""

from pathlib import Path

import click
import msgspec

from joulefleet.cli import Mendable
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.units import mw_to_w
from joulefleet_agent.config import load_config, sources_of
from joulefleet_agent.probe import ON_THIS_MACHINE, Finding, probe


@click.command()
@click.option("--config", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Try its sources.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def doctor(path: Path | None, json_: bool) -> None:
    """Try every source on this machine, or those of a config file, and say what each gives or how to mend it."""
    try:
        sources = sources_of(load_config(path), str(path)) if path else list(ON_THIS_MACHINE)
        findings = probe(sources, str(path or "doctor"))
    except ConfigError as error:
        raise Mendable(str(error)) from error
    if json_:
        click.echo(msgspec.json.format(msgspec.json.encode(findings), indent=2).decode())
        return
    for line in told(findings):
        click.echo(line)


def told(findings: list[Finding]) -> list[str]:
    """The findings, for a person."""
    lines = [line for finding in findings for line in _lines(finding)]
    return [*lines, "", _advice(findings), *_engines(findings)]


def _lines(finding: Finding) -> list[str]:
    mark, state = ("ok", "") if finding.readable else ("--", f"{finding.state}: ")
    cost = f"  ({finding.read_ms:.1f} ms a read)" if finding.readable and finding.read_ms is not None else ""
    head = f"{mark}  {finding.source:<12} {state}{finding.detail}".rstrip() + cost
    mend = [f"    {'':<12} mend: {finding.mend}"] if finding.mend else []
    meters = [
        f"    {'':<12} {_named(meter)}: {meter.hw_model or 'unknown model'}, grade {meter.grade}"
        + (f", up to {mw_to_w(meter.max_power_mw):.0f} W" if meter.max_power_mw else "")
        for meter in finding.meters
    ]
    engines = [f"    {'':<12} engine {engine.id}: {engine.software}" for engine in finding.engines if finding.readable]
    return [head, *mend, *(meters if finding.readable else []), *engines]


def _named(meter: Meter) -> str:
    return meter.kind if meter.id == meter.kind else f"{meter.kind} {meter.id}"


def _advice(findings: list[Finding]) -> str:
    """What the figures of this machine will rest on."""
    meters = [meter for finding in findings if finding.readable for meter in finding.meters]
    grades = {meter.grade for meter in meters}
    if not meters:
        return "Nothing on this machine tells its energy."
    if grades == {"modelled"}:
        return (
            "No sensor can be read: every figure will be `modelled` from CPU utilisation, which may be off by half."
            " Better: one of the mends above, or the server's own meter (BMC, PDU)."
        )
    if "modelled" in grades:
        return "Accelerators or CPU are measured; the whole server is `modelled` where no meter covers it."
    return "Everything that is read here is measured."


def _engines(findings: list[Finding]) -> list[str]:
    """What to do where no inference server answers."""
    if any(finding.engines for finding in findings if finding.readable):
        return []
    return [
        "No inference server answers, and without one there are watts but no joules per token: name its metrics page"
        " with `joulefleet up --engine URL`, or as a source `openmetrics` of the agent."
    ]
