"""Learns the power of each meter while no engine on it had anything to do.

The value is the 5th percentile of one-minute mean powers over the minutes in which every resident engine had neither
running nor queued requests, and stands once 30 such minutes were seen; for a meter on which no engine runs at all,
minutes are kept apart, and those in which it was busy are left out. It is forgotten when the driver, the power limit or
the calibration changes. The first minute after a start is never learnt from: counters settle then.
"""

import msgspec

from joulefleet.describe import Meter
from joulefleet.units import NS_PER_S, uj_over_ns_to_mw
from joulefleet.window import EngineWindow, MeterWindow, Window

MINUTES_NEEDED = 30
MINUTES_KEPT = 1_440
MINUTE_NS = 60 * NS_PER_S
PERCENTILE = 5
BOARDS = ("accelerator", "module")
KINDS = ("accelerator", "module", "cpu_package", "dram", "host", "server")


class IdleMeter(msgspec.Struct):
    """Minutes of one meter in one condition (driver, power limit, calibration, with or without an engine)."""

    condition: str
    minutes_mw: list[int] = []
    """Mean powers of idle minutes, oldest first."""
    minute_ns: int = -1
    energy_uj: int = 0
    covered_ns: int = 0
    spoilt: bool = False

    @property
    def idle_mw(self) -> int | None:
        """The learnt power in milliwatts, or None as long as too few minutes were seen."""
        if len(self.minutes_mw) < MINUTES_NEEDED:
            return None
        ordered = sorted(self.minutes_mw)
        return ordered[(len(ordered) - 1) * PERCENTILE // 100]

    def observe(self, start_ns: int, step_ns: int, meter: MeterWindow, at_rest: bool) -> None:
        """One more window of this meter."""
        # A minute, or the shortest whole number of windows that is not less.
        length_ns = -(-MINUTE_NS // step_ns) * step_ns
        minute_ns = start_ns - start_ns % length_ns
        if minute_ns != self.minute_ns:
            self.minute_ns, self.energy_uj, self.covered_ns, self.spoilt = minute_ns, 0, 0, False
        self.energy_uj += meter.energy_uj
        self.covered_ns += meter.covered_ns
        self.spoilt = self.spoilt or not at_rest
        # 0 J is what a counter that stands still tells, and no power of rest.
        known = self.energy_uj > 0 and self.covered_ns * 100 >= length_ns * 95
        if start_ns + step_ns == minute_ns + length_ns and not self.spoilt and known:
            self.minutes_mw.append(uj_over_ns_to_mw(self.energy_uj, self.covered_ns))
            del self.minutes_mw[:-MINUTES_KEPT]


class IdleBook(msgspec.Struct):
    """What is learnt of all meters of this server."""

    meters: dict[str, IdleMeter] = {}
    quiet_until_ns: int = 0
    """Nothing is learnt before this instant."""

    def begin(self, now_ns: int) -> None:
        """The agent has started: leave the first minute out."""
        self.quiet_until_ns = now_ns + MINUTE_NS

    def fill_in(self, window: Window) -> None:
        """Write into the window what is known so far, then learn from it."""
        for meter in window.meters:
            if meter.meter.kind not in KINDS:
                continue
            resident = [each for each in window.engines if not each.engine.front and _runs_on(each, meter.meter)]
            known = self._of(meter.meter, bool(resident))
            meter.idle_mw = known.idle_mw
            meter.idle_learnt = known.idle_mw is not None
            if meter.idle_mw is None and meter.meter.idle_mw:
                meter.idle_mw = meter.meter.idle_mw
            if window.start_ns >= self.quiet_until_ns:
                at_rest = all(_at_rest(engine, window.step_ns) for engine in resident) and (
                    bool(resident) or not _computes(meter)
                )
                known.observe(window.start_ns, window.step_ns, meter, at_rest)

    def _of(self, meter: Meter, used: bool) -> IdleMeter:
        condition = f"{meter.driver}|{meter.power_limit_mw}|{'engine' if used else 'no process'}"
        if meter.calibration:
            condition += f"|{meter.calibration}"
        key = f"{meter.id}|{'engine' if used else ''}"
        known = self.meters.get(key)
        if known is None or known.condition != condition:
            known = self.meters[key] = IdleMeter(condition=condition)
        return known


def _runs_on(engine: EngineWindow, meter: Meter) -> bool:
    """Whether the engine's work shows in this meter: its boards, and everything that boards share."""
    devices = engine.engine.devices
    if meter.kind not in BOARDS or not devices:
        return True
    return not {device.meter for device in devices}.isdisjoint({meter.id, *(each.id for each in meter.slices)})


def _computes(meter: MeterWindow) -> bool:
    """Whether something that is no engine of ours kept a board busy."""
    return meter.meter.kind in BOARDS and meter.gauges.get("utilisation_pct", 0.0) > 0


def _at_rest(engine: EngineWindow, step_ns: int) -> bool:
    """Known to have had nothing running and nothing waiting all the time."""
    return (
        engine.covered_ns == step_ns
        and engine.running_ns == 0
        and not engine.queued_ns
        and not engine.running_start
        and not engine.running_end
    )
