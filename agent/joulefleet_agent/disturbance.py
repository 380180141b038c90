"""`joulefleet doctor --disturbance`: what the agent itself costs in watts, measured with it off and on in alternation.

Each alternation is a pair of two blocks, one without and one with the agent, in changing order (off on, on off, ...),
so that a slow drift of the machine's own power cancels out. The differences within the pairs are independent enough for
Student's t. The meters are read in both blocks alike, so what reading them costs is in neither.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import msgspec

from joulefleet.config import ConfigError
from joulefleet.counter import CounterTrack, GaugeTrack, Pair, Rules
from joulefleet.describe import Kind, Meter
from joulefleet.estimate import Interval, mean_interval
from joulefleet.reading import MeterReading
from joulefleet.units import mw_to_w, s_to_ns, uj_over_ns_to_mw
from joulefleet_agent.children import CannotGoOn, Children
from joulefleet_agent.config import AgentConfig, SourceConfig, sources_of
from joulefleet_agent.listen import Heard, listen
from joulefleet_agent.probe import Finding, probe
from joulefleet_agent.sampler import Configured, Opened, Said
from joulefleet_agent.service import only_one
from joulefleet_agent.sources import configured, on_this_machine

PREFERRED: tuple[tuple[Kind, ...], ...] = (("server",), ("psys",), ("cpu_package", "dram"))
"""What is measured: the first of these of which the machine has a meter that measures."""
MEASURED = ("counter", "integrated")
SETTLE_S = 3.0
"""After the agent was started or ended, before a block begins."""
LEAST_COVERED = 0.5
"""A part of the block that a meter must have told."""
SPOOL = "spool.db"
START_WITHIN_S = 60.0
LOOK_EVERY_S = 0.1
NOBODY = "http://127.0.0.1:9"
"""Where the agent under test sends its windows: it is to cost what it does, and to tell no collector of it."""


class Disturbance(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured."""

    meters: tuple[str, ...]
    block_s: float
    off_w: tuple[float, ...]
    on_w: tuple[float, ...]
    """Mean watts of each alternation, without and with the agent."""

    @property
    def interval(self) -> Interval:
        """Mean difference, on less off, and its 95 % interval."""
        return mean_interval([on - off for off, on in zip(self.off_w, self.on_w, strict=True)])


def subjects(findings: Sequence[Finding]) -> dict[str, str]:
    """The meters that tell the machine's power, each with its source. Raises CannotGoOn where none measures it."""
    found = [(finding.source, one) for finding in findings if finding.readable for one in finding.meters]
    measured = [(source, one) for source, one in found if one.grade in MEASURED]
    for kinds in PREFERRED:
        seen: dict[object, tuple[str, Meter]] = {}
        for source, one in measured:
            if one.kind in kinds:
                # Two meters of one server measure the same; packages are told apart by their devices.
                seen.setdefault(one.kind if kinds in PREFERRED[:2] else (one.kind, one.device or one.id), (source, one))
        if seen:
            return {one.id: source for source, one in seen.values()}
    raise CannotGoOn(
        "no meter here measures the power of this machine, so nothing can be said of what the agent adds to it (a model"
        " would only give back the agent's own CPU time); `joulefleet doctor` says which meters could be had"
    )


def order(alternations: int) -> Iterator[tuple[bool, bool]]:
    """Whether the agent is on, block by block of each pair."""
    for k in range(alternations):
        yield (False, True) if k % 2 == 0 else (True, False)


def alternate(
    measure: Callable[[bool], float], alternations: int, told: Callable[[int, float, float], None]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean watts of all blocks, off and on; `measure` is asked for one block with the agent off or on."""
    off_w, on_w = [], []
    for k, pair in enumerate(order(alternations), 1):
        watts = {on: measure(on) for on in pair}
        off_w.append(watts[False])
        on_w.append(watts[True])
        told(k, watts[False], watts[True])
    return tuple(off_w), tuple(on_w)


class Stand:
    """The machine under test: its meters, and an agent that is started and ended."""

    def __init__(self, sources: Sequence[Configured], meters: Sequence[str], agent: Sequence[SourceConfig]) -> None:
        self.meters = tuple(meters)
        self._sources = sources
        self._agent = agent

    def measure(self, on: bool, block_s: float, stop: threading.Event) -> float:
        """Mean watts of one block. Raises CannotGoOn where the agent ends by itself, or a meter tells too little."""
        if not on:
            return self._block(block_s, stop)
        with TemporaryDirectory(prefix="joulefleet-") as folder, Children(Path(folder)) as children:
            config = Path(folder) / "agent.toml"
            config.write_text(toml_of(Path(folder), self._agent), encoding="utf-8")
            children.start("agent", "agent", "run", "--config", str(config))
            _wait_for(Path(folder) / SPOOL, children, stop)
            watts = self._block(block_s, stop)
            children.check()
            return watts

    def _block(self, block_s: float, stop: threading.Event) -> float:
        stop.wait(SETTLE_S)
        heard = list(listen(self._sources, stop, block_s))
        if stop.is_set():
            raise CannotGoOn("stopped before the last alternation: nothing is stated")
        return mean_w(heard, self.meters, block_s)


def _wait_for(spool: Path, children: Children, stop: threading.Event) -> None:
    """Wait until the agent has its spool. Raises CannotGoOn."""
    until_s = time.monotonic() + START_WITHIN_S
    while not spool.exists():
        children.check()
        if stop.wait(LOOK_EVERY_S) or time.monotonic() > until_s:
            raise CannotGoOn(f"the agent was not there within {START_WITHIN_S:.0f} s, or this was stopped")


def disturbance(
    config: AgentConfig, where: str, block_s: float, alternations: int, stop: threading.Event
) -> Disturbance:
    """Measure it with the sources of a config, or with those that this machine has; progress goes to stderr.

    Raises CannotGoOn, ConfigError, SpoolUnavailable.
    """
    if Path(f"{config.spool}.lock").exists():
        with only_one(Path(config.spool)):
            pass  # an agent that runs already would be on in every block
    asked = sources_of(config, where)
    used = asked or on_this_machine()
    findings = probe(used, where, unasked=not asked)
    names = subjects(findings)
    agent = asked or [one for one, finding in zip(used, findings, strict=True) if finding.readable]
    sources = [one for one in configured(used, where) if one.name in names.values()]
    stand = Stand(sources, tuple(names), agent)

    def told(number: int, off_w: float, on_w: float) -> None:
        click.echo(f"alternation {number} of {alternations}: off {off_w:.2f} W, on {on_w:.2f} W", err=True)

    off_w, on_w = alternate(lambda on: stand.measure(on, block_s, stop), alternations, told)
    return Disturbance(meters=tuple(names), block_s=block_s, off_w=off_w, on_w=on_w)


def mean_w(heard: Sequence[Heard], meters: Sequence[str], block_s: float) -> float:
    """The power of these meters together. Raises CannotGoOn where one told too little of the block."""
    declared = {one.id: one for told in heard if isinstance(told.event, Opened) for one in told.event.declares}
    total_mw = 0
    for name in meters:
        meter = declared.get(name)
        pairs = list(_pairs(heard, meter)) if isinstance(meter, Meter) else []
        covered_ns = sum(one.end_ns - one.start_ns for one in pairs)
        if covered_ns < LEAST_COVERED * s_to_ns(block_s):
            raise CannotGoOn(f"{name} told too little in a block of {block_s:g} s: take longer blocks (--seconds)")
        total_mw += uj_over_ns_to_mw(sum(one.last_uj - one.first_uj for one in pairs), covered_ns)
    return mw_to_w(total_mw)


def _pairs(heard: Sequence[Heard], meter: Meter) -> Iterator[Pair]:
    rules, counter, gauge = Rules.of(meter), CounterTrack(), GaugeTrack()
    for told in heard:
        if not isinstance(told.event, Said):
            continue
        for one in told.event.readings:
            if not isinstance(one, MeterReading) or one.meter != meter.id:
                continue
            at_ns, pair = one.at_ns or told.event.boot_ns - one.age_ns, None
            if meter.grade == "counter" and one.counter_uj is not None:
                pair = counter.feed(rules, at_ns, one.counter_uj, one.epoch, one.power_mw)
            elif one.power_mw is not None:
                pair = gauge.feed(rules, at_ns, one.power_mw)
            if isinstance(pair, Pair):
                yield pair


def told_plainly(found: Disturbance) -> list[str]:
    """The outcome, for a person."""
    interval, number = found.interval, len(found.on_w)
    low_w, high_w = interval.mean - interval.half_width, interval.mean + interval.half_width
    lines = [
        f"agent on less off: {interval.mean:+.3f} W, 95 % interval {low_w:+.3f} to {high_w:+.3f} W"
        f" ({number} alternations of two blocks of {found.block_s:g} s, meters: {', '.join(found.meters)})",
        f"without the agent {min(found.off_w):.2f} to {max(found.off_w):.2f} W",
    ]
    if interval.includes_zero:
        most_w = float(f"{max(abs(low_w), abs(high_w)):.2g}")
        lines.append(
            "The interval includes 0: what the agent costs cannot be told from nothing here, and is most likely less"
            f" than {most_w:g} W. More alternations or a quieter machine narrow it."
        )
    return lines


def toml_of(folder: Path, sources: Sequence[SourceConfig]) -> str:
    """The config of the agent under test: these sources, everything that it keeps in this folder, no collector."""
    lines = ["step_s = 10", f"spool = {_inline(str(folder / SPOOL))}", "[collector]", f"url = {_inline(NOBODY)}"]
    for one in sources:
        lines += ["[[sources]]", *(f"{_inline(name)} = {_inline(value)}" for name, value in one.table.items())]
        lines.append(f"use = {_inline(one.use)}")
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    """A value as TOML writes it in one line. Raises ConfigError for what JSON does not know, such as a date."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_inline(name)} = {_inline(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if not isinstance(value, str | bool | int | float):
        raise ConfigError("sources", "", f"a {type(value).__name__} cannot be given to the agent under test")
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else _plain(value)


def _plain(value: float) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
