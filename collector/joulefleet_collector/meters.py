"""Which meters of a server make up each boundary, and why the others do not: read from its newest window."""

from collections.abc import Mapping

from joulefleet.grid import HOUR_NS, rfc3339
from joulefleet.topology import Cover, topology
from joulefleet.units import mw_to_w, ns_to_s, uj_over_ns_to_mw
from joulefleet.window import MeterWindow, Window
from joulefleet_collector.api import BadQuestion
from joulefleet_collector.store.store import Store

Answer = dict[str, object]


def answer_meters(store: Store, query: Mapping[str, str]) -> Answer:
    """The meters of one server. Raises BadQuestion or StoreUnavailable."""
    server = query.get("server", "")
    if not server or set(query) - {"server"}:
        raise BadQuestion("name one server, and nothing else: /v1/meters?server=NAME")
    newest = max((row.start_ns for row in store.heard() if row.tags.get("server") == server), default=None)
    windows = [] if newest is None else list(store.windows(server, max(newest - HOUR_NS, 0), newest + 1))
    if not windows:
        raise BadQuestion(f"no window of server '{server}' is kept; 'joulefleet agents' lists those that report")
    return meters_of(windows[-1])


def meters_of(window: Window) -> Answer:
    """The meters of this window, the boundaries they make up, and those that are left out."""
    found = topology([one.meter for one in window.meters], window.step_ns)
    return {
        "server": window.server,
        "start": rfc3339(window.start_ns),
        "step_s": ns_to_s(window.step_ns),
        "boundaries": [_boundary(cover) for cover in found.covers],
        "left_out": found.left_out,
        "meters": [_meter(one, window.step_ns) for one in window.meters],
    }


def _boundary(cover: Cover) -> Answer:
    return {
        "boundary": cover.boundary,
        "meters": [meter.id for meter in cover.meters],
        "split_by": [meter.id for meter in cover.devices] if cover.whole is not None else [],
    }


def _meter(one: MeterWindow, step_ns: int) -> Answer:
    declared = one.meter
    return {
        "meter": declared.id,
        "kind": declared.kind,
        "grade": declared.grade,
        "sensor_class": declared.sensor_class,
        "hw_model": declared.hw_model,
        "inside": declared.inside,
        "contains": declared.contains,
        "device": declared.device,
        "basis": declared.basis,
        "coverage": one.covered_ns / step_ns,
        "mean_power_w": mw_to_w(uj_over_ns_to_mw(one.energy_uj, one.covered_ns)) if one.covered_ns else None,
        "states": one.states,
        "gaps_s": {code: ns_to_s(length_ns) for code, length_ns in one.gaps_ns.items()},
    }
