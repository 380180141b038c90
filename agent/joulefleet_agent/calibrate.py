"""`joulefleet calibrate`: learns a meter's gain from a better meter that measures the same, and writes it down."""

import sys
import threading
from pathlib import Path

import click
import msgspec

from joulefleet.cli import Mendable
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.gain import PPM, Gain, calibrated, class_of
from joulefleet.grid import rfc3339
from joulefleet.units import minutes_to_s, ns_to_s
from joulefleet_agent.calibration import add_gain, gains_of, version_of, with_gains
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.config import AgentConfig, SourceConfig, load_config, sources_of
from joulefleet_agent.ending import stop_on_signal
from joulefleet_agent.listen import listen
from joulefleet_agent.pairing import Block, Found, Pairing, Refused, block_ns_of, judged, unlike
from joulefleet_agent.probe import probe
from joulefleet_agent.sampler import Configured
from joulefleet_agent.sources import configured, on_this_machine

FILE = "calibration.toml"


class Bench(msgspec.Struct, frozen=True):
    """Both meters, and the sources that read them."""

    meter: Meter
    reference: Meter
    sources: list[Configured]


@click.command()
@click.argument("meter")
@click.option("--against", "reference", required=True, metavar="REFERENCE", help="The better meter of the same thing.")
@click.option("--config", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its sources.")
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def calibrate(meter: str, reference: str, path: Path | None, minutes: float, json_: bool) -> None:
    """Read METER and REFERENCE over the same minutes and write down by what METER's joules are to be multiplied.

    The gain holds once the agent's config names the file: calibration = "calibration.toml". Vary the load meanwhile,
    if you can.
    """
    stop = stop_on_signal()
    try:
        config = load_config(path) if path else AgentConfig()
        where = str(path or "calibrate")
        bench = bench_of(config, where, meter, reference)
        found = measured(bench, minutes_to_s(minutes), stop)
        gain = gain_of(bench, found, wall_ns())
        file = Path(where).parent / (config.calibration or FILE)
        add_gain(file, gain)
    except (ConfigError, Refused, OSError) as error:
        raise Mendable(error) from error
    told = told_plainly(gain, found, file, bool(config.calibration))
    click.echo(_json(gain, found, file) if json_ else "\n".join(told))


def bench_of(config: AgentConfig, where: str, meter: str, reference: str) -> Bench:
    """The two meters and their sources; other calibrations hold, METER's own does not. Raises ConfigError, Refused."""
    asked = sources_of(config, where)
    used: list[SourceConfig] = asked or on_this_machine()
    gains = {name: gain for name, gain in gains_of(config, where).items() if name != meter}
    findings = probe(used, where, unasked=not asked)
    declared = {one.id: one for finding in findings for one in finding.meters}
    missing = [name for name in (meter, reference) if name not in declared]
    if missing:
        shut = [f"; {one.source}: {one.state}: {one.detail}" for one in findings if asked and not one.readable]
        raise Refused(f"no meter is named {missing[0]!r}; there are {', '.join(declared) or 'none'}{''.join(shut)}")
    one, other = declared[meter], declared[reference]
    other = calibrated(other, gains[other.id]) if other.id in gains else other
    if reason := unlike(one, other):
        raise Refused(reason)
    names = {finding.source for finding in findings if {x.id for x in finding.meters} & {meter, reference}}
    return Bench(one, other, with_gains([x for x in configured(used, where) if x.name in names], gains))


def measured(bench: Bench, seconds: float, stop: threading.Event) -> Found:
    """Read both for so long and judge what they told. Raises Refused."""
    pairing = Pairing(bench.meter.id, bench.reference.id, block_ns_of((bench.meter, bench.reference)))
    blocks: list[Block] = []
    for heard in listen(bench.sources, stop, seconds):
        if new := pairing.take(heard):
            blocks += new
            _show(len(blocks), round(seconds / ns_to_s(pairing.block_ns)))
    if stop.is_set():
        raise Refused("stopped before the time was over: nothing is written")
    return judged([*blocks, *pairing.end()], pairing.block_ns, bench.meter, bench.reference)


def gain_of(bench: Bench, found: Found, at_ns: int) -> Gain:
    """What is written down, with its version."""
    gain = Gain(
        meter=bench.meter.id,
        gain_ppm=found.gain_ppm,
        uncertainty_ppm=found.uncertainty_ppm,
        reference=f"{bench.reference.id} ({bench.reference.sensor_class})",
        when=rfc3339(at_ns),
    )
    return msgspec.structs.replace(gain, version=version_of(gain))


def told_plainly(gain: Gain, found: Found, file: Path, named: bool) -> list[str]:
    """The outcome, for a person."""
    parts = (
        f"reference {found.reference_ppm / PPM:.2%}, noise {found.noise_ppm / PPM:.2%}, load {found.load_ppm / PPM:.2%}"
    )
    lines = [
        f"{gain.meter}: gain {gain.gain_ppm / PPM:.6f}, known to {gain.uncertainty_ppm / PPM:.2%} (k = 1: {parts})",
        f"from {found.blocks} blocks of {found.block_s:.0f} s between {found.least_w:.1f} and {found.most_w:.1f} W,"
        f" against {gain.reference}; its class is now {class_of(gain.uncertainty_ppm)}",
        f"written to {file} as version {gain.version}",
    ]
    mend = f'it holds once the agent\'s config says  calibration = "{FILE}"  and the agent is started again'
    return [*lines, "it holds when the agent is started again" if named else mend]


def _json(gain: Gain, found: Found, file: Path) -> str:
    told = {"gain": gain, "found": found, "file": str(file)}
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode()


def _show(blocks: int, of: int) -> None:
    if sys.stderr.isatty():
        # The cursor waits at the line's beginning, so that what is printed next stands in its place.
        click.echo(f"{blocks} of {of} blocks \r", err=True, nl=False)
