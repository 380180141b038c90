"""The energy counters of processors (RAPL) on the pages of node_exporter and Kepler, under the names of `rapl`.

node_exporter passes each counter of the powercap tree on as it is, so that it wraps: at which value is told by the tree
itself, where the exporter runs on this server, and readable for all. Kepler sums the wraps up, and shows a zone that
there is once under its path, and the sum of several under `aggregated-...`: the sum of all packages is no package, and
is declared as a platform that holds them, a cross-check.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

from joulefleet import Kind, Meter
from joulefleet.units import j_to_uj, s_to_ns
from joulefleet_plugins.interfaces.exposition import Page, Sample
from joulefleet_plugins.meters.exporter_pages import Told, host_of, meter_id, value_of
from joulefleet_plugins.meters.rapl import (
    BOUND_MW,
    COUNTER_STEPS,
    DUPLICATES,
    PACKAGE,
    PSYS_KINDS,
    REFRESH_NS,
    USUAL_STEP_UJ,
)

NODE = re.compile(r"node_rapl_(?:(\w+)_)?joules_total")
KEPLER = "kepler_node_cpu_joules_total"
OLD_KEPLER: Mapping[str, str] = {
    "kepler_node_package_joules_total": "package",
    "kepler_node_dram_joules_total": "dram",
    "kepler_node_core_joules_total": "core",
}
"""Names until Kepler 0.9; each comes once for each mode, and the modes add up."""
MODES = ("dynamic", "idle")
KEPLER_REFRESH_NS = s_to_ns(5)
AGGREGATED = "aggregated-"
ZONE_KINDS: Mapping[str, Kind] = {"dram": "dram", "core": "cpu_core", "uncore": "cpu_core", "psys": "psys"}

Range = Callable[[str], int]
"""Value in microjoules at which the counter in a folder of the powercap tree wraps; 0 where that is not known."""


class Zone(NamedTuple):
    """One counter as a page names it."""

    host: str
    name: str
    """As `rapl` has it: `package-0`, `package-0/dram`, `psys`."""
    kind: Kind
    folder: str
    """In the powercap tree; empty where the page does not tell."""
    joules: float | None


def node_exporter(page: Page, range_uj: Range) -> list[Told]:
    """The zones of node_exporter's collector `rapl`, each once."""
    rows = [(_plain(match[1], one), one) for match, one in _node_rows(page)]
    names = {_place(one): _name(name, one, "") for name, one in rows if "package" in name and _folder(one)}
    found = [_node_zone(name, one, names) for name, one in rows]
    known = [zone for zone in found if zone is not None]
    # Where intel-rapl-mmio shows a zone again, the other comes later and stays.
    known.sort(key=lambda zone: not zone.folder.startswith(DUPLICATES))
    return _told("node", list({(zone.host, zone.name): zone for zone in known}.values()), REFRESH_NS, range_uj)


def kepler(page: Page, range_uj: Range) -> list[Told]:
    """The zones of the server as a whole; those of processes, containers and pods are the same joules again."""
    zones = [_kepler_zone(one) for one in page.samples.get(KEPLER, [])] + _old_kepler_zones(page)
    known = [zone for zone in zones if zone is not None]
    return _told("kepler", known, KEPLER_REFRESH_NS, lambda folder: 0)


def _node_rows(page: Page) -> Iterable[tuple[re.Match[str], Sample]]:
    matches = (NODE.fullmatch(name) for name in page.samples)
    return [(match, one) for match in matches if match for one in page.samples[match[0]]]


def _plain(name: str | None, one: Sample) -> str:
    """The zone's name in the kernel, without its number: `package`, `package-0-die-1`, `dram`."""
    return (name or one.labels.get("rapl_zone", "")).replace("_", "-")


def _folder(one: Sample) -> str:
    return one.labels.get("path", "").rpartition("/")[2]


def _place(one: Sample) -> tuple[str, str]:
    return host_of(one.labels), _folder(one)


def _name(name: str, one: Sample, parent: str) -> str:
    number = one.labels.get("index", "0")
    if name == "package":
        return f"package-{number}"
    if name == "psys":
        return name if number == "0" else f"psys@{_folder(one)}"
    return f"{parent}/{name}" if parent else name


def _node_zone(name: str, one: Sample, names: Mapping[tuple[str, str], str]) -> Zone | None:
    kind: Kind | None = "cpu_package" if name == "package" or PACKAGE.fullmatch(name) else ZONE_KINDS.get(name)
    if kind is None:
        return None
    host, folder = _place(one)
    parent = ""
    if kind in ("dram", "cpu_core"):
        # Pages before 2021 tell no path: there zones of one name are numbered as the packages are.
        parent = names.get((host, folder.rpartition(":")[0]), f"package-{one.labels.get('index', '0')}")
    return Zone(host, _name(name, one, parent), kind, folder, one.value)


def _kepler_zone(one: Sample) -> Zone | None:
    name, host = one.labels.get("zone", ""), host_of(one.labels)
    kind: Kind | None = "cpu_package" if name.startswith("package") else ZONE_KINDS.get(name)
    if kind is None:
        return None
    if one.labels.get("path", "").startswith(AGGREGATED):
        return Zone(host, f"{AGGREGATED}{name}", kind, "", one.value)
    whole = {"cpu_package": name if PACKAGE.fullmatch(name) else "package-0", "psys": name}
    return Zone(host, whole.get(kind, f"package-0/{name}"), kind, _folder(one), one.value)


def _old_kepler_zones(page: Page) -> list[Zone]:
    def place(one: Sample) -> tuple[str, str]:
        return host_of(one.labels), one.labels.get("package", "").removeprefix("package-") or "0"

    found = []
    for metric, name in OLD_KEPLER.items():
        # Where the source is no counter, Kepler models what it says.
        rows = [one for one in page.samples.get(metric, []) if one.labels.get("source", "").startswith("rapl")]
        for (host, number), of_package in groupby(sorted(rows, key=place), key=place):
            by_mode = {one.labels.get("mode", ""): one.value for one in of_package}
            joules = sum(by_mode[mode] for mode in MODES) if all(mode in by_mode for mode in MODES) else None
            kind: Kind = "cpu_package" if name == "package" else ZONE_KINDS[name]
            full = f"package-{number}" if name == "package" else f"package-{number}/{name}"
            found.append(Zone(host, full, kind, "", joules))
    return found


def _told(exporter: str, zones: list[Zone], refresh_ns: int, range_uj: Range) -> list[Told]:
    there = {(zone.host, zone.name) for zone in zones}
    return [
        Told(
            meter=_meter(exporter, zone, (zone.host, _parent(zone)) in there, refresh_ns, range_uj(zone.folder)),
            host=zone.host,
            counter_uj=None if zone.joules is None else value_of(zone.joules, j_to_uj),
        )
        for zone in zones
    ]


def _parent(zone: Zone) -> str:
    return zone.name.rpartition("/")[0]


def _meter(exporter: str, zone: Zone, is_part: bool, refresh_ns: int, range_uj: int) -> Meter:
    several = zone.name.startswith(AGGREGATED)
    contains = PSYS_KINDS if zone.kind == "psys" else (zone.kind,) if several else ()
    return Meter(
        id=meter_id(exporter, zone.name),
        kind="psys" if several else zone.kind,
        grade="counter",
        sensor_class="onboard",
        contains=contains,
        inside=meter_id(exporter, _parent(zone)) if is_part and zone.kind == "cpu_core" else "",
        device="" if several else zone.name,
        resolution_uj=-(-range_uj // COUNTER_STEPS) or USUAL_STEP_UJ,
        refresh_ns=refresh_ns,
        max_power_mw=BOUND_MW["psys" if several else zone.kind],
        modulus_uj=range_uj,
    )
