"""The tags by which rows of windows, servers and engines are told apart: read from the window's bytes alone."""

from collections.abc import Sequence

import msgspec

from joulefleet.describe import Engine, Meter
from joulefleet.topology import DEVICE_KINDS, rank
from joulefleet.units import ns_to_s
from joulefleet.window import MeterWindow, Window
from joulefleet_collector.account.cover import Cover

Tags = dict[str, str]


class Entry(msgspec.Struct, frozen=True):
    """A row before the tags of its window are added."""

    kind: str
    tags: Tags
    fields: dict[str, float]


def is_simulated(window: Window) -> bool:
    """Whether anything in a window is."""
    return (
        window.simulated
        or any(reading.meter.simulated for reading in window.meters)
        or any(engine.engine.simulated for engine in window.engines)
    )


def window_tags(window: Window) -> Tags:
    """Tags of every row of a window."""
    return {
        **window.labels,
        "server": window.server,
        "pool": window.pool,
        "site": window.site,
        "simulated": "true" if is_simulated(window) else "false",
        "timeline": f"{window.timeline:08x}",
        "step_s": f"{ns_to_s(window.step_ns):g}",
    }


def engine_tags(engine: Engine, meters: Sequence[MeterWindow], hardware: str, covers: Sequence[Cover]) -> Tags:
    """Tags of the rows of one engine; `hardware` is the server's name for its own."""
    return {
        "software": engine.software,
        "version": engine.version,
        "hardware": _of_devices(engine, meters, covers) or engine.hardware or hardware or _of_server(meters),
        "group": engine.group,
    }


def front_tags(front: Engine) -> Tags:
    """Tags of the rows of a gateway before engines, which runs on no hardware that it is asked for by."""
    return {
        "software": front.software,
        "version": front.version,
        "hardware": front.hardware,
        "group": front.group,
    }


def _of_devices(engine: Engine, meters: Sequence[MeterWindow], covers: Sequence[Cover]) -> str:
    if engine.devices:
        named = {reservation.meter for reservation in engine.devices}
    else:
        named = {device.meter.id for cover in covers[:1] for device in cover.devices}
    models = {m.meter.hw_model for m in meters if m.meter.kind in DEVICE_KINDS and named & _names(m.meter)}
    return "+".join(sorted(models - {""}))


def _names(meter: Meter) -> set[str]:
    return {meter.id, *(each.id for each in meter.slices)}


def _of_server(meters: Sequence[MeterWindow]) -> str:
    named = [m.meter for m in meters if m.meter.kind in ("server", "host") and m.meter.hw_model]
    best = sorted(named, key=lambda meter: (meter.kind != "server", rank(meter)))
    return best[0].hw_model if best else ""
