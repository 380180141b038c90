"""Which meters make up each boundary, so that no joule is counted twice.

Chosen from the meters that a window declares, failing ones included: a meter that gives no value lowers coverage
and never moves the boundary. A figure of the cover depends on no policy, since it decides which rows there are.
"""

from collections.abc import Sequence

import msgspec

from joulefleet.describe import GRADES, SENSOR_CLASSES, Kind, Meter
from joulefleet.units import mw_ns_to_uj
from joulefleet.window import MeterWindow

DEVICE_KINDS: tuple[Kind, ...] = ("accelerator", "module")
COMPUTE_KINDS: tuple[Kind, ...] = (*DEVICE_KINDS, "cpu_package", "dram")
COARSE_PARTS = 50
"""A counter with fewer steps than this at full power in a window (2 %) is a cross-check only; ACCOUNTING section 3."""


class Cover(msgspec.Struct, frozen=True, kw_only=True):
    """Meters that do not overlap and together measure one boundary."""

    boundary: str
    devices: tuple[MeterWindow, ...] = ()
    """Accelerators and modules, on which engines hold reservations."""
    rest: tuple[MeterWindow, ...] = ()
    """What is measured beside the devices: CPU packages, memory, or the host as one."""
    whole: MeterWindow | None = None
    """One meter that measures all of it; `devices` then only say how to split its energy."""
    parts: tuple[MeterWindow, ...] = ()
    """At `server`: every meter of which it is known that it measures a part."""

    @property
    def meters(self) -> tuple[MeterWindow, ...]:
        """Those whose sum is the energy of the boundary."""
        return (self.whole,) if self.whole is not None else self.devices + self.rest


def covers(meters: Sequence[MeterWindow], step_ns: int) -> tuple[Cover, ...]:
    """The cover of each boundary that the declared meters can tell, in the order of `rows.BOUNDARIES`."""
    fine = sorted((m for m in meters if not is_coarse(m.meter, step_ns)), key=lambda m: rank(m.meter))
    declared = {m.meter.id: m.meter for m in meters}
    accelerators = _choose(fine, ("accelerator",), declared)
    parts = _choose(fine, COMPUTE_KINDS, declared)
    servers, hosts = _choose(fine, ("server",), declared), _choose(fine, ("host",), declared)
    server = _server(servers[0], parts) if servers else _beside_host(hosts[:1], accelerators, parts)
    found = (_accelerator(accelerators), _compute(parts), server)
    return tuple(cover for cover in found if cover is not None)


def is_coarse(meter: Meter, step_ns: int) -> bool:
    """Whether the counter's steps are too large for windows of this length."""
    most_uj = mw_ns_to_uj(meter.max_power_mw * step_ns)
    return meter.max_power_mw > 0 and meter.resolution_uj * COARSE_PARTS > most_uj


def rank(meter: Meter) -> tuple[int, int, str]:
    """Sorts the better of two meters of one thing first: grade, then sensor class, then id."""
    return (GRADES.index(meter.grade), SENSOR_CLASSES.index(meter.sensor_class), meter.id)


def ancestors(meter: Meter, declared: dict[str, Meter]) -> set[str]:
    """Ids of all meters of which this one is declared to be a part."""
    found: set[str] = set()
    while meter.inside and meter.inside not in found:
        found.add(meter.inside)
        if meter.inside not in declared:
            break
        meter = declared[meter.inside]
    return found


def _accelerator(devices: list[MeterWindow]) -> Cover | None:
    return Cover(boundary="accelerator", devices=tuple(devices)) if devices else None


def _compute(parts: list[MeterWindow]) -> Cover | None:
    if not _of(parts, ("module", "cpu_package")):
        return None
    return Cover(
        boundary="compute", devices=tuple(_of(parts, DEVICE_KINDS)), rest=tuple(_of(parts, ("cpu_package", "dram")))
    )


def _server(whole: MeterWindow, parts: list[MeterWindow]) -> Cover:
    return Cover(boundary="server", devices=tuple(_of(parts, DEVICE_KINDS)), whole=whole, parts=tuple(parts))


def _beside_host(hosts: list[MeterWindow], accelerators: list[MeterWindow], parts: list[MeterWindow]) -> Cover | None:
    # A host is a server without its accelerators; a module holds CPUs too, which would then be counted twice.
    devices = accelerators or _of(parts, DEVICE_KINDS)
    if not hosts or any(set(device.meter.contains) & set(hosts[0].meter.contains) for device in devices):
        return None
    return Cover(boundary="server", devices=tuple(devices), rest=tuple(hosts), parts=tuple(parts))


def _choose(fine: list[MeterWindow], kinds: tuple[Kind, ...], declared: dict[str, Meter]) -> list[MeterWindow]:
    """Meters of these kinds, best first, without parts of one another and without second sources of one device."""
    able = _of(fine, kinds)
    ids = {m.meter.id for m in able}
    held = {(part, m.meter.kind) for m in able for part in m.meter.contains}
    out = {m.meter.id for m in able if _is_part(m.meter, held) or (ancestors(m.meter, declared) - {m.meter.id}) & ids}
    seen = {(m.meter.kind, m.meter.device) for m in able if m.meter.id in out and m.meter.device}
    chosen = []
    for m in able:
        thing = (m.meter.kind, m.meter.device)
        if m.meter.id not in out and thing not in seen:
            chosen.append(m)
        if m.meter.device:
            seen.add(thing)
    return chosen


def _is_part(meter: Meter, held: set[tuple[Kind, Kind]]) -> bool:
    """Whether another kind of meter contains this kind (part, holder); parts of one kind are told by `inside`."""
    return any(part == meter.kind != holder for part, holder in held)


def _of(meters: list[MeterWindow], kinds: tuple[Kind, ...]) -> list[MeterWindow]:
    return [m for m in meters if m.meter.kind in kinds]
