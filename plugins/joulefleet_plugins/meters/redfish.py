"""The whole server's power and energy, asked of its BMC by Redfish, over HTTPS.

What is read is found in the BMC's resources once, when the source is opened (redfish_tree.py says in which order), and
then asked for again and again, one question at a time. BMCs are slow: a period is never shorter than twice what one
poll takes.

GPUs of a baseboard that the BMC shows are left out unless asked for, and then only NVIDIA's that tell their UUID, so
that a board that NVML reads too is not counted twice.
"""

import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from joulefleet import (
    ConfigError,
    Engine,
    Failure,
    Kind,
    Meter,
    MeterReading,
    Reading,
    Source,
    SourceUnavailable,
    typed,
)
from joulefleet.secret import read_secret
from joulefleet.units import UJ_PER_J, kwh_to_uj, ns_to_s, s_to_ns, w_to_mw
from joulefleet_plugins.interfaces.still import STALE_S, Still
from joulefleet_plugins.meters.redfish_route import Document, NoValue, Route, Told, told
from joulefleet_plugins.meters.redfish_session import (
    DEFAULT_PORTS,
    Answer,
    Bmc,
    Login,
    NoAnswer,
    Origin,
    Trust,
    host_and_port,
    shown_fingerprint,
)
from joulefleet_plugins.meters.redfish_tree import Gpu, NoServer, RouteName, Server, capacity_w, find, gpus, server

TRIED = "faithful fake"
REFRESH_NS = s_to_ns(60)
"""Longest time between two values of a counter that was seen at a BMC; where it tells its own, that holds."""
RESOLUTION_UJ = UJ_PER_J
MAX_AGE_S = 300.0
"""A time stamp that is older than this is of another clock."""
LOOK_AGAIN_S = 600.0
"""Between two searches for a route that gives nothing, or whose supplies may have been changed."""
OF_ONE_RESOURCE = ("not_found", "malformed", "http_status", "permission", "too_large", "truncated")
"""What may be wrong with one resource while the BMC answers for others."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")

BOUNDS_W: dict[Kind, float] = {
    # The largest servers of one BMC are rated 10 to 15 kW, racks of one enclosure 130 kW, boards 1.4 kW.
    "server": 30_000,
    "enclosure": 250_000,
    "accelerator": 3_000,
}
"""Most power of a thing of this kind, used where it tells no rating."""
PARTS: tuple[Kind, ...] = ("accelerator", "module", "cpu_package", "cpu_core", "dram", "psys", "host")
CONTAINS: dict[Kind, tuple[Kind, ...]] = {"server": PARTS, "enclosure": ("server", *PARTS)}


class RedfishConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One BMC."""

    url: str
    """`https://` and the BMC's name or address."""
    user: str = ""
    """An account that may only read; without one the BMC is asked as nobody."""
    password_file: str = ""
    """A file that only the agent may read, with the password in it."""
    password_env: str = ""
    """Or the name of the environment's variable that holds it."""
    auth: Literal["session", "basic"] = "session"
    ca_file: str = ""
    """Certificates of the authority that signed the BMC's; the system's where empty."""
    fingerprint_sha256: str = ""
    """Or the fingerprint of the BMC's own certificate."""
    verify: bool = True
    """False believes any certificate: whoever answers gets the password."""
    id: str = ""
    """Of the meter; `redfish/` and the chassis' name where empty."""
    chassis: str = ""
    """The chassis that is this server; found by the computer system where empty."""
    route: Literal["", RouteName] = ""
    """Where its power is read; the best there is where empty."""
    accelerators: bool = False
    """Whether NVIDIA's GPUs that the BMC shows are meters too."""
    period_s: Annotated[float, msgspec.Meta(ge=1)] = 10.0
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=120)] = 30.0
    """How long all questions of one poll may take together."""

    def __post_init__(self) -> None:
        if self.fingerprint_sha256 and not re.fullmatch("[0-9a-f]{64}", self.fingerprint):
            raise ValueError("fingerprint_sha256 is 64 hexadecimal digits")
        if (self.ca_file != "") + (self.fingerprint_sha256 != "") + (not self.verify) > 1:
            raise ValueError("of ca_file, fingerprint_sha256 and verify = false there is at most one")
        if (self.password_file != "") + (self.password_env != "") != (self.user != ""):
            raise ValueError("user needs one of password_file and password_env, and these need user")

    @property
    def fingerprint(self) -> str:
        """The fingerprint as 64 small digits."""
        return self.fingerprint_sha256.replace(":", "").lower()


class Point:
    """One meter, where it is read, and whether it still moves."""

    def __init__(self, meter: Meter, route: Route, owner: Document) -> None:
        self.meter = meter
        self.owner = owner
        """Whose power it is."""
        self.routes = -1
        """How often it was changed: two copies of one counter may be minutes apart, and are two lives of it."""
        self.take(route)
        self.look_again_s = 0.0

    def take(self, route: Route) -> None:
        """Read it by this route from now on."""
        self.route = route
        self.routes += 1
        slow_s = max(5 * ns_to_s(route.refresh_ns), 3 * ns_to_s(self.meter.period_ns))
        self.still = Still(stale_s=max(STALE_S, slow_s))


class RedfishSource:
    """What one BMC tells of its server."""

    def __init__(self, config: RedfishConfig, bmc: Bmc, now_s: Callable[[], float]) -> None:
        """Raises NoAnswer, NoServer and ConfigError."""
        self._bmc = bmc
        self._now_s = now_s
        self._wanted = config.route
        seen = Seen(bmc)
        try:
            made = _made(config, seen.get)
        except NoServer:
            if seen.forbidden is not None:
                raise seen.forbidden from None
            raise
        began_s = now_s()
        documents: dict[str, Answer] = {}
        for _, route, _ in made:
            self._fetch(route, documents)
        self.period_ns = max(s_to_ns(config.period_s), 2 * s_to_ns(now_s() - began_s))
        self.deadline_ns = s_to_ns(config.timeout_s + 5)
        self._points = [
            Point(msgspec.structs.replace(meter, period_ns=self.period_ns), route, owner)
            for meter, route, owner in made
        ]
        self.declares: tuple[Meter | Engine, ...] = tuple(point.meter for point in self._points)
        for point in self._points:
            point.look_again_s = now_s() + LOOK_AGAIN_S if point.route.name == "power_supplies" else 0.0

    def read(self) -> list[Reading]:
        """One poll of everything that is declared."""
        documents: dict[str, Answer] = {}
        try:
            self._bmc.begin()
            return [self._read(point, documents) for point in self._points]
        except (NoAnswer, ConfigError) as error:
            code = error.code if isinstance(error, NoAnswer) else "permission"
            return [_failure(point, code, str(error)) for point in self._points]

    def close(self) -> None:
        """Log out."""
        self._bmc.close()

    def _read(self, point: Point, documents: dict[str, Answer]) -> Reading:
        if point.route.name == "power_supplies":
            self._look_again(point)
        try:
            self._fetch(point.route, documents)
            return self._judged(point, documents)
        except NoValue as error:
            self._look_again(point)
            return _failure(point, error.code, str(error))
        except NoAnswer as error:
            if error.code not in OF_ONE_RESOURCE or error.again_s:
                raise
            self._look_again(point)
            return _failure(point, error.code, str(error))

    def _fetch(self, route: Route, documents: dict[str, Answer]) -> None:
        for path in route.resources:
            if path not in documents:
                documents[path] = self._bmc.get(path)

    def _judged(self, point: Point, documents: dict[str, Answer]) -> Reading:
        said = told(point.route, {path: answer.document for path, answer in documents.items()})
        stamp = said.stamp.isoformat() if said.stamp else ""
        value = said.power_mw if said.counter_uj is None else said.counter_uj
        # A whole kilowatt-hour takes a quiet server half a day.
        others = said.others if point.route.worth < 2 else 0
        stopped = point.still.judge(self._now_s(), (value, said.power_mw), stamp, others)
        if stopped:
            return _failure(point, stopped, f"the BMC tells the same since long, last measured {stamp or 'at no time'}")
        age_ns = 0 if point.still.stamp_lies else _age_ns(said, documents[point.route.resources[0]])
        epoch = f"{said.epoch}#{point.routes}" if point.routes else said.epoch
        reading = MeterReading(meter=point.meter.id, age_ns=age_ns, epoch=epoch, power_mw=said.power_mw)
        return msgspec.structs.replace(reading, counter_uj=said.counter_uj)

    def _look_again(self, point: Point) -> None:
        """Search the route anew, now and then: a supply was changed, or the BMC's new firmware has another tree.

        It is taken only if it is of the same worth, since what is declared of the meter has to hold.
        """
        now_s = self._now_s()
        if now_s < point.look_again_s or point.meter.kind == "accelerator":
            return
        point.look_again_s = now_s + LOOK_AGAIN_S
        route = find(Seen(self._bmc, patient=False).get, point.owner, self._wanted)
        if route and route != point.route and route.worth == point.route.worth:
            point.take(route)


class Seen:
    """The BMC's resources as they are while something is searched in them, each asked for once."""

    def __init__(self, bmc: Bmc, patient: bool = True) -> None:
        self._bmc = bmc
        self._patient = patient
        """Whether each question may take as long as a poll."""
        self.forbidden: NoAnswer | None = None
        """That something may not be read by this account."""
        self._found: dict[str, Document | None] = {}

    def get(self, path: str) -> Document | None:
        """The resource; None where it is not there or makes no sense. Raises NoAnswer where the BMC does not answer."""
        if path not in self._found:
            self._found[path] = self._ask(path)
        return self._found[path]

    def _ask(self, path: str) -> Document | None:
        if self._patient:
            self._bmc.begin()
        try:
            return self._bmc.get(path).document
        except NoAnswer as error:
            if error.code not in OF_ONE_RESOURCE or error.again_s:
                raise
            if error.code == "permission":
                self.forbidden = error
            return None


def _made(config: RedfishConfig, get: Callable[[str], Document | None]) -> list[tuple[Meter, Route, Document]]:
    """Meters, how they are read, and whose power it is. Raises NoServer."""
    boards = [(_board(gpu), gpu.route, gpu.processor) for gpu in gpus(get)] if config.accelerators else []
    try:
        found = server(get, config.chassis, config.route)
    except NoServer:
        # The BMC of a baseboard knows no server, and its GPUs may be all that was wanted of it.
        if boards and not config.chassis:
            return boards
        raise
    return [(_server(config, found, capacity_w(get, found.chassis)), found.route, found.chassis), *boards]


def _server(config: RedfishConfig, found: Server, rated_w: float) -> Meter:
    system = found.system
    identity = str(system.get("UUID") or system.get("SerialNumber") or found.chassis.get("SerialNumber") or "").strip()
    meter = _meter(found.kind, found.route)
    return msgspec.structs.replace(
        meter,
        id=config.id or f"redfish/{found.chassis.get('Id')}",
        contains=CONTAINS[found.kind],
        device=f"{found.kind}:{identity.lower()}" if identity else "",
        hw_model=str(system.get("Model") or found.chassis.get("Model") or "").strip(),
        max_power_mw=w_to_mw(rated_w or BOUNDS_W[found.kind]),
        current="ac" if found.route.ac else "dc",
    )


def _board(gpu: Gpu) -> Meter:
    return msgspec.structs.replace(
        _meter("accelerator", gpu.route),
        id=f"redfish/{gpu.processor.get('Id')}",
        sensor_class="onboard",
        device=f"GPU-{gpu.uuid}",
        hw_model=str(gpu.processor.get("Model") or ""),
        max_power_mw=w_to_mw(BOUNDS_W["accelerator"]),
    )


def _meter(kind: Kind, route: Route) -> Meter:
    counted = route.energy is not None
    return Meter(
        id="",
        kind=kind,
        grade="counter" if counted else "integrated",
        sensor_class="platform",
        resolution_uj=_resolution_uj(route) if counted else 0,
        refresh_ns=route.refresh_ns or (REFRESH_NS if counted else 0),
        driver=f"redfish {route.name}",
    )


def _resolution_uj(route: Route) -> int:
    """A joule, or the whole kilowatt-hour in which most BMCs count."""
    return RESOLUTION_UJ if route.unit == "J" else kwh_to_uj(1)


def _age_ns(said: Told, answer: Answer) -> int:
    """How old the value is by the BMC's own clock; 0 where it does not tell."""
    if said.stamp is None or answer.at is None or answer.at.tzinfo is None:
        return 0
    age_s = (answer.at - said.stamp).total_seconds()
    return s_to_ns(age_s) if 0 < age_s <= MAX_AGE_S else 0


def _failure(point: Point, code: str, detail: str) -> Failure:
    return Failure(subject=point.meter.id, code=code, detail=detail)


def _origin(config: RedfishConfig) -> Origin:
    """Scheme, host and port. Raises ConfigError."""
    try:
        parts = urlsplit(config.url)
        origin = (parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 0))
    except ValueError as error:
        raise ConfigError("redfish", "url", f"no URL: {error}") from error
    if not origin[1] or not origin[2] or "@" in parts.netloc or parts.path.strip("/") or parts.query:
        raise ConfigError("redfish", "url", "expected scheme and host only, such as https://bmc-17.example")
    if config.user and origin[0] == "http" and origin[1] not in LOOPBACK:
        raise ConfigError("redfish", "url", "expected https: by http everybody on the way would see the password")
    return origin


def _login(config: RedfishConfig) -> Login | None:
    if not config.user:
        return None
    return Login(config.user, lambda: read_password(config.password_file, config.password_env), config.auth == "basic")


def read_password(file: str, variable: str) -> str:
    """The password, from a file that others may not read, or from the environment. Raises ConfigError; never told."""
    if variable:
        if variable not in os.environ:
            raise ConfigError("redfish", "password_env", f"the environment has no {variable}")
        return os.environ[variable]
    try:
        if Path(file).stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
            raise ConfigError(file, "", "everybody may read or write the password: chmod o= it")
    except OSError as error:
        raise ConfigError(file, "", f"the secret cannot be read: {error.strerror}") from None
    return read_secret(file)


def _unavailable(error: NoAnswer | NoServer, config: RedfishConfig, origin: Origin) -> SourceUnavailable:
    if isinstance(error, NoServer):
        return SourceUnavailable(error.code, error.detail, error.mend)
    return SourceUnavailable(error.code, str(error), _mend(error.code, config, origin), error.again_s)


def _mend(code: str, config: RedfishConfig, origin: Origin) -> str:
    if code == "tls":
        shown = shown_fingerprint(origin, config.timeout_s) or "..."
        return f'compare with the BMC\'s own page, then trust its certificate: fingerprint_sha256 = "{shown}"'
    if code == "permission":
        return "name an account that may log in and read, by user and password_file; the next trial is in ten minutes"
    return {
        "unreachable": f"check that this host reaches {host_and_port(origin)}; a BMC is often in a network of its own",
        "timeout": "raise timeout_s, or restart the BMC if it does not answer others either",
        "redirect": "put the address to which it sends into url",
    }.get(code, "")


def opened(config: RedfishConfig, now_s: Callable[[], float]) -> RedfishSource:
    """What `open` gives. Raises what it raises."""
    origin = _origin(config)
    trust = Trust(config.ca_file, config.fingerprint, config.verify)
    bmc = Bmc(origin, trust, _login(config), config.timeout_s, now_s)
    try:
        return RedfishSource(config, bmc, now_s)
    except (NoAnswer, NoServer) as error:
        bmc.close()
        raise _unavailable(error, config, origin) from error


def open(table: dict[str, Any]) -> Source:
    """The power of one BMC's server.

    Raises ConfigError, and SourceUnavailable where the BMC does not answer, does not let in, or tells no power.
    """
    return opened(typed(table, RedfishConfig, "redfish"), time.monotonic)
