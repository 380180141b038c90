"""Finds in a BMC's Redfish resources what tells the power of a whole server.

Theory. A BMC tells the same power in several resources, which overlap and are never added up: one route is chosen when
the source is opened, and kept. Joules that the BMC counted come before watts; among watts the order is
EnvironmentMetrics, PowerControl, a sensor of the whole chassis, the inputs of the power supplies. Kilowatt-hours are
too coarse for windows and are taken only where nothing else is told. A route whose figure is 0 or null when it is
looked for is none: BMCs answer that, with health OK, where they have no sensor.

What is a part (a processor, a board of GPUs, one supply, a limit) is told by its name and context, and left out.
"""

import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from joulefleet.units import s_to_ns
from joulefleet_plugins.meters.redfish_route import Document, NoValue, Place, Route, instant, positive, told

Get = Callable[[str], Document | None]
"""The resource at a path; None where there is none."""
RouteName = Literal["environment", "power_control", "sensors", "power_supplies"]

ROOT = "/redfish/v1"
MAX_PAGES, MAX_SENSORS = 10, 8
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
WHOLE = ("total", "system", "sys", "server", "chassis", "node", "input", "consum")
PART = (
    *("cpu", "gpu", "hgx", "proc", "dimm", "dram", "mem", "fan", "ps", "supply", "vr", "soc", "pci", "nic", "drive"),
    *("disk", "stor", "batt", "limit", "head", "peak", "min", "max", "avg", "average", "cap", "output", "standby"),
)
"""How words begin that say what a figure is of."""
SERVERS = ("RackMount", "StandAlone", "Blade", "Sled", "Node", "")
ENCLOSURES = ("Enclosure", "Shelf", "Rack", "Row", "Pod", "Zone", "RackGroup")
CONTEXTS = {"Chassis": 0, "SystemBoard": 1, "": 2}
"""PhysicalContext of a sensor that may be the whole, best first."""
DURATION = re.compile(r"P(?:(\d+)D)?T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?")


def find(get: Get, chassis: Document, wanted: str = "") -> Route | None:
    """The best route to this chassis' power, or the one of this name; None where it is told nowhere."""
    best: Route | None = None
    for name, finder in FINDERS.items():
        cannot_be_better = best is not None and best.worth <= (0 if name in COUNT else 1)
        if wanted not in ("", name) or cannot_be_better:
            continue
        route = finder(get, chassis)
        if route and (best is None or route.worth < best.worth):
            best = route
    return best


def environment(get: Get, owner: Document) -> Route | None:
    """EnvironmentMetrics of a chassis or a processor: joules and watts in one resource."""
    path = link(owner, "EnvironmentMetrics")
    metrics = get(path) if path else None
    if not metrics:
        return None
    power = _excerpt(get, path, metrics, "PowerWatts")
    joules = _excerpt(get, path, metrics, "EnergyJoules")
    hours = _excerpt(get, path, metrics, "EnergykWh") if not power else None
    principal = joules or power or hours
    if principal is None:
        return None
    return Route(
        name="environment",
        power=(power,) if power else (),
        energy=joules or hours,
        unit="J" if joules or power else "kWh",
        refresh_ns=_refresh_ns(get(principal.resource)),
    )


def power_control(get: Get, chassis: Document) -> Route | None:
    """The entry of Power#PowerControl that is of the whole system."""
    path = link(chassis, "Power")
    entries = _numbered(get(path) if path else None, "PowerControl")
    whole = [
        (not _says(_name(entry), WHOLE), k)
        for k, entry in entries
        if positive(entry.get("PowerConsumedWatts")) and not _is_part(_name(entry))
    ]
    if not whole:
        return None
    chosen = min(whole)[1]
    place = Place(path, ("PowerControl", chosen, "PowerConsumedWatts"))
    return Route(name="power_control", power=(place,), ac=_says(_name(dict(entries)[chosen]), ("input",)))


def sensors(get: Get, chassis: Document) -> Route | None:
    """The sensors of the collection Sensors that are of the whole chassis, one of joules and one of watts."""
    found: dict[str, list[tuple[int, bool, str, Document]]] = {}
    # The chassis' own name stands before that of each of its sensors on some BMCs, and says nothing of them.
    own = f"{chassis.get('Id')}_"
    paths = members(get, link(chassis, "Sensors"))
    likely = [path for path in paths if _is_whole(_last(path).removeprefix(own))]
    for path in likely[:MAX_SENSORS]:
        sensor = get(path) or {}
        rank = CONTEXTS.get(sensor.get("PhysicalContext") or "")
        if rank is not None and positive(sensor.get("Reading")):
            kind = str(sensor.get("ReadingType"))
            found.setdefault(kind, []).append((rank, "total" not in path.lower(), path, sensor))
    best = {kind: min(some, key=lambda one: one[:3]) for kind, some in found.items()}
    power, joules = best.get("Power"), best.get("EnergyJoules")
    principal = joules or power
    if principal is None:
        return None
    return Route(
        name="sensors",
        power=(Place(power[2], ("Reading",)),) if power else (),
        energy=Place(joules[2], (_counting_key(joules[3]),)) if joules else None,
        refresh_ns=_refresh_ns(principal[3]),
    )


def power_supplies(get: Get, chassis: Document) -> Route | None:
    """The inputs of all power supplies together; None unless each supply that is there tells its own."""
    modern = _supplies_of_subsystem(get, link(chassis, "PowerSubsystem"))
    supplies = modern or _supplies_of_power(get, link(chassis, "Power"))
    route = Route(
        name="power_supplies",
        power=tuple(place for place, _ in supplies),
        ac=all(_takes_ac(supply) for _, supply in supplies),
    )
    if not supplies:
        return None
    try:
        told(route, {path: get(path) or {} for path in route.resources})
    except NoValue:
        return None
    return route


COUNT = ("environment", "sensors")
"""Routes that may tell joules."""
FINDERS: dict[str, Callable[[Get, Document], Route | None]] = {
    "environment": environment,
    "power_control": power_control,
    "sensors": sensors,
    "power_supplies": power_supplies,
}


def capacity_w(get: Get, chassis: Document) -> float:
    """The most power that the chassis' resources say it can take; 0 where they do not."""
    subsystem = get(link(chassis, "PowerSubsystem")) if link(chassis, "PowerSubsystem") else None
    power = get(link(chassis, "Power")) if link(chassis, "Power") else None
    supplies = _list(power, "PowerSupplies")
    rated = [
        (subsystem or {}).get("CapacityWatts"),
        *(entry.get("PowerCapacityWatts") for entry in _list(power, "PowerControl")),
        sum(positive(supply.get("PowerCapacityWatts")) or 0 for supply in supplies),
    ]
    return max((positive(one) or 0.0 for one in rated), default=0.0)


def members(get: Get, path: str) -> list[str]:
    """Paths of a collection's members, over all its pages; none where there is no such collection."""
    found: list[str] = []
    for _ in range(MAX_PAGES):
        collection = get(path) if path else None
        if not collection:
            break
        found += filter(None, (link(one) for one in _list(collection, "Members")))
        path = _path(collection.get("Members@odata.nextLink"))
    return found


def link(document: Document, *keys: str) -> str:
    """The path to which a document links under these keys; empty where it does not, or to another host."""
    for key in keys:
        document = document.get(key) or {}
        if not isinstance(document, dict):
            return ""
    return _path(document.get("@odata.id"))


def links(document: Document, key: str) -> list[str]:
    """The paths of a list among a document's Links."""
    inside = document.get("Links")
    return [path for one in _list(inside, key) if (path := link(one))] if isinstance(inside, dict) else []


class Server(msgspec.Struct, frozen=True):
    """A chassis whose power is a server's, or that of an enclosure with several servers."""

    chassis: Document
    system: Document
    kind: Literal["server", "enclosure"]
    route: Route


class Gpu(msgspec.Struct, frozen=True):
    """A GPU that tells who it is, and its own power."""

    processor: Document
    uuid: str
    route: Route


class NoServer(Exception):
    """The BMC does not tell the power of one server."""

    def __init__(self, code: str, detail: str, mend: str = "") -> None:
        self.code = code
        """`absent`, `ambiguous` or `no_value`."""
        self.detail = detail
        self.mend = mend
        super().__init__(code, detail, mend)


def server(get: Get, chassis: str = "", route: str = "") -> Server:
    """The server behind this BMC, its chassis and route chosen where they are not named. Raises NoServer."""
    systems = _systems(get)
    if not chassis and len(systems) > 1:
        named = ", ".join(_last(path) for path, _ in systems)
        mend = 'name the one that is this server: chassis = "..."'
        raise NoServer("ambiguous", f"this BMC has several systems: {named}", mend)
    candidates = [_chassis_path(chassis)] if chassis else _candidates(get, systems)
    found = [one for path in candidates if (one := get(path))]
    if not found:
        there = ", ".join(_last(path) for path in members(get, f"{ROOT}/Chassis"))
        raise NoServer("absent", f"no chassis {chassis or 'of a server'}", f"this BMC has {there or 'none'}")
    for one in sorted(found, key=lambda one: one.get("ChassisType") not in SERVERS):
        best = find(get, one, route)
        if best:
            return Server(one, _system_of(one, systems), _kind(one, systems), best)
    detail = f"{', '.join(str(one.get('Id')) for one in found)}: no power in {route or 'any resource'}"
    raise NoServer(
        "no_value", detail, "look at the power on the BMC's own page; it may need a licence or newer firmware"
    )


def gpus(get: Get) -> list[Gpu]:
    """NVIDIA's GPUs with a UUID and a power of their own.

    One that does not tell who it is, or tells it otherwise than its driver does, could be counted twice.
    """
    found = []
    for system in members(get, f"{ROOT}/Systems"):
        for path in members(get, link(get(system) or {}, "Processors")):
            processor = get(path) or {}
            uuid = processor.get("UUID")
            is_nvidia = "nvidia" in str(processor.get("Manufacturer")).lower()
            if processor.get("ProcessorType") != "GPU" or not is_nvidia or not isinstance(uuid, str) or not uuid:
                continue
            route = environment(get, processor)
            if route and route.worth < 2:
                found.append(Gpu(processor, uuid.lower(), route))
    return found


def _systems(get: Get) -> list[tuple[str, Document]]:
    """Computer systems and their paths; a board of GPUs is shown as one, and is none."""
    found = [(path, get(path) or {}) for path in members(get, f"{ROOT}/Systems")]
    return [(path, one) for path, one in found if not _says(_last(path), ("hgx", "baseboard"))]


def _candidates(get: Get, systems: list[tuple[str, Document]]) -> list[str]:
    linked = [path for _, system in systems for path in links(system, "Chassis")]
    if linked:
        return [path for path in linked if not _says(_last(path), ("hgx", "baseboard"))]
    every = members(get, f"{ROOT}/Chassis")
    return every if len(every) == 1 else []


def _chassis_path(named: str) -> str:
    return named if named.startswith("/") else f"{ROOT}/Chassis/{named}"


def _system_of(chassis: Document, systems: list[tuple[str, Document]]) -> Document:
    inside = {_last(path) for path in links(chassis, "ComputerSystems")}
    return next((one for path, one in systems if _last(path) in inside or len(systems) == 1), {})


def _kind(chassis: Document, systems: list[tuple[str, Document]]) -> Literal["server", "enclosure"]:
    held = {_last(path) for path, _ in systems} & {_last(path) for path in links(chassis, "ComputerSystems")}
    return "enclosure" if len(held) > 1 or chassis.get("ChassisType") in ENCLOSURES else "server"


def _excerpt(get: Get, path: str, metrics: Document, key: str) -> Place | None:
    """Where a value of EnvironmentMetrics is best read: at its sensor if that tells a time, else right there."""
    excerpt = metrics.get(key)
    if not isinstance(excerpt, dict):
        return None
    leaf = _counting_key(excerpt) if key.startswith("Energy") else "Reading"
    if not positive(excerpt.get(leaf)):
        return None
    source = _path(excerpt.get("DataSourceUri"))
    sensor = get(source) if source else None
    if sensor and instant(sensor.get("ReadingTime")) and positive(sensor.get(leaf)):
        return Place(source, (leaf,))
    return Place(path, (key, leaf))


def _counting_key(sensor: Document) -> str:
    """LifetimeReading goes on where Reading may be set to 0 by anybody who may."""
    return "LifetimeReading" if positive(sensor.get("LifetimeReading")) else "Reading"


def _supplies_of_subsystem(get: Get, path: str) -> list[tuple[Place, Document]]:
    subsystem = get(path) if path else None
    found = []
    for one in members(get, link(subsystem or {}, "PowerSupplies")):
        supply = get(one) or {}
        if not _is_absent(supply):
            metrics = link(supply, "Metrics") or f"{one}/Metrics"
            found.append((Place(metrics, ("InputPowerWatts", "Reading")), supply))
    return found


def _supplies_of_power(get: Get, path: str) -> list[tuple[Place, Document]]:
    supplies = _numbered(get(path) if path else None, "PowerSupplies")
    return [
        (Place(path, ("PowerSupplies", k, "PowerInputWatts")), supply)
        for k, supply in supplies
        if not _is_absent(supply)
    ]


def _is_absent(supply: Document) -> bool:
    status = supply.get("Status")
    return isinstance(status, dict) and status.get("State") == "Absent"


def _takes_ac(supply: Document) -> bool:
    kinds = [supply.get("PowerSupplyType"), supply.get("LineInputVoltageType"), supply.get("InputNominalVoltageType")]
    ranges = [one.get("NominalVoltageType") or one.get("InputType") for one in _list(supply, "InputRanges")]
    said = [kind for kind in (*kinds, *ranges) if isinstance(kind, str)]
    return bool(said) and said[0].startswith("AC")


def _is_whole(name: str) -> bool:
    return _says(name, WHOLE) and not _is_part(name)


def _is_part(name: str) -> bool:
    # A hot-swap controller is one of several unless it says that it is their total.
    return _says(name, PART) or (_says(name, ("hsc",)) and not _says(name, ("total",)))


def _says(name: str, beginnings: tuple[str, ...]) -> bool:
    return any(word.lower().startswith(beginnings) for word in WORD.findall(name))


def _name(entry: Document) -> str:
    return f"{entry.get('Name') or ''} {entry.get('PhysicalContext') or ''}"


def _refresh_ns(sensor: Document | None) -> int:
    """How often a sensor says that it makes a value; 0 where it does not."""
    found = DURATION.fullmatch(str((sensor or {}).get("SensingInterval")))
    if not found:
        return 0
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return s_to_ns(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _list(document: Any, key: str) -> list[Document]:
    return [one for _, one in _numbered(document, key)]


def _numbered(document: Any, key: str) -> list[tuple[int, Document]]:
    """The objects of a list, each with its place in it."""
    found = document.get(key) if isinstance(document, dict) else None
    return [(k, one) for k, one in enumerate(found) if isinstance(one, dict)] if isinstance(found, list) else []


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _path(value: object) -> str:
    """A path on the same host. A link to another host is none of ours to follow."""
    return value if isinstance(value, str) and value.startswith("/") and not value.startswith("//") else ""
