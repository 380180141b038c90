"""`joulefleet meters`: which meter lies inside which, what each boundary is the sum of, and what is left out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from joulefleet.cli import Mendable
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.gain import PPM
from joulefleet.topology import Cover, LeftOut, Topology, Tree, topology
from joulefleet.units import mw_to_w, ns_to_s
from joulefleet_agent.calibration import gains_of
from joulefleet_agent.config import AgentConfig, load_config, sources_of
from joulefleet_agent.probe import Finding, probe
from joulefleet_agent.sources import on_this_machine

BOUNDARIES = ("accelerator", "compute", "server")
INDENT = "  "


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """One meter, where it comes from and where it lies."""

    meter: Meter
    source: str
    state: str
    """Of its source: `readable`, or why it gives no value; it is declared all the same."""
    inside: str = ""
    """Id of the meter that it lies in, the nearest; empty at the top."""
    same_as: str = ""
    """Id of a better meter of the same thing."""


@click.command()
@click.option("--config", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its sources.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def meters(path: Path | None, json_: bool) -> None:
    """Show the tree of meters and the cover of each boundary, of a config file or of all that this machine has."""
    try:
        config = load_config(path) if path else AgentConfig()
        where, asked = str(path or "meters"), sources_of(config, str(path or "meters"))
        gains = gains_of(config, where)
        findings = probe(asked or on_this_machine(), where, unasked=not asked, gains=gains)
    except ConfigError as error:
        raise Mendable(error) from error
    found = declared(findings)
    made = topology([meter for _, _, meter in found], config.step_ns)
    tree = placed(found, config.step_ns)
    shut = [one for one in findings if asked and not one.meters and not one.engines]
    told = plain(tree, made, shut) if json_ else [*lines(tree, made, config.step_ns), *_shut(shut)]
    click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode() if json_ else "\n".join(told))


def declared(findings: Sequence[Finding]) -> list[tuple[str, str, Meter]]:
    """Source, state and meter of all that is declared; of two meters of one id the first counts, as in the agent."""
    found: dict[str, tuple[str, str, Meter]] = {}
    for finding in findings:
        for meter in finding.meters:
            found.setdefault(meter.id, (finding.source, finding.state, meter))
    return list(found.values())


def placed(found: Sequence[tuple[str, str, Meter]], step_ns: int) -> list[Placed]:
    """Every meter with its place in the tree, what holds others before what is inside."""
    tree = Tree([meter for _, _, meter in found], step_ns)
    best = {tree.thing[meter.id]: meter for meter in reversed(tree.meters)}
    out = []
    for source, state, meter in found:
        thing = tree.thing[meter.id]
        holders = sorted(tree.above[thing], key=lambda one: len(tree.above[one]))
        out.append(
            Placed(
                meter=meter,
                source=source,
                state=state,
                inside=best[holders[-1]].id if holders else "",
                same_as=best[thing].id if best[thing] is not meter else "",
            )
        )
    return list(_in_order(out, ""))


def _in_order(tree: Sequence[Placed], inside: str) -> Iterator[Placed]:
    for one in tree:
        if one.inside == inside and not one.same_as:
            yield one
            yield from (twin for twin in tree if twin.same_as == one.meter.id)
            yield from _in_order(tree, one.meter.id)


def lines(tree: Sequence[Placed], made: Topology, step_ns: int) -> list[str]:
    """The tree and the covers, for a person."""
    if not tree:
        return ["No source here declares a meter: `joulefleet doctor` says what is missing."]
    depth: dict[str, int] = {}
    out = []
    for one in tree:
        depth[one.meter.id] = depth.get(one.same_as, depth.get(one.inside, -1) + 1)
        out.append(INDENT * depth[one.meter.id] + _told(one))
    covers = {cover.boundary: cover for cover in made.covers}
    out += ["", f"What each boundary is the sum of, in windows of {ns_to_s(step_ns):g} s:"]
    for boundary in BOUNDARIES:
        out += _boundary(boundary, covers.get(boundary), made.left_out)
    return [*out, *(f"{INDENT}at none: {_reason(one)}" for one in made.left_out if not one.boundary)]


def _told(one: Placed) -> str:
    meter = one.meter
    rated = [f"up to {mw_to_w(meter.max_power_mw):.0f} W"] if meter.max_power_mw else []
    basis = [f"rests on {meter.basis}"] if meter.basis else []
    gain = [f"gain {meter.gain_ppm / PPM:.4f}"] if meter.calibration else []
    state = [] if one.state == "readable" else [f"gives no value now: {one.state}"]
    same = [f"the same thing as {one.same_as}"] if one.same_as else []
    words = [
        f"grade {meter.grade}",
        f"class {meter.sensor_class}",
        *rated,
        *basis,
        *gain,
        *state,
        *same,
        f"from {one.source}",
    ]
    model = f" ({meter.hw_model})" if meter.hw_model else ""
    return f"{meter.kind} {meter.id}{model}: {', '.join(words)}"


def _boundary(boundary: str, cover: Cover | None, left_out: Sequence[LeftOut]) -> list[str]:
    total = " + ".join(meter.id for meter in cover.meters) if cover else "not told by these meters"
    out = [f"{INDENT}{boundary}: {total}"]
    return [*out, *(f"{INDENT * 2}without {_reason(one)}" for one in left_out if one.boundary == boundary)]


def _reason(one: LeftOut) -> str:
    return f"{one.meter}: {f'{one.code} {one.of}'.strip()}"


def _shut(findings: Sequence[Finding]) -> list[str]:
    """Sources that could not be opened: what they would declare is not known here."""
    told = [f"{INDENT}{one.source}: {_why_shut(one)}" for one in findings]
    return ["", "Not opened, so not in this tree:", *told] if told else []


def _why_shut(one: Finding) -> str:
    return "; ".join(filter(None, (f"{one.state}: {one.detail}", one.mend)))


def plain(tree: Sequence[Placed], made: Topology, shut: Sequence[Finding] = ()) -> dict[str, Any]:
    """The same, for a program."""
    covers = [
        {
            "boundary": cover.boundary,
            "meters": [meter.id for meter in cover.meters],
            "devices": [meter.id for meter in cover.devices],
        }
        for cover in made.covers
    ]
    return {"meters": list(tree), "boundaries": covers, "left_out": made.left_out, "not_opened": list(shut)}
