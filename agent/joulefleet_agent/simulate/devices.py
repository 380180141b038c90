"""The meters and the engine of a simulated server, and what its counters say for the work that was done."""

from collections.abc import Iterator

import msgspec

from joulefleet.describe import WHOLE, Engine, Kind, Meter, Reservation
from joulefleet.units import NS_PER_S, mw_ns_to_uj, us_to_ns, w_to_mw
from joulefleet_agent.simulate.catalogue import Deployment, Hardware
from joulefleet_agent.simulate.chance import about_one, unit

SERVER = "psu"
"""Id of the server's own meter."""
COMPUTE: tuple[Kind, ...] = ("accelerator", "cpu_package", "dram")
CONTAINED: tuple[Kind, ...] = ("accelerator", "module", "cpu_package", "cpu_core", "dram", "psys", "host")
BOARD_REFRESH_NS = us_to_ns(100_000)
OLDEST_UJ = 10**13
"""Counters begin anywhere up to here: they have counted since long before the simulation."""


class Part(msgspec.Struct, frozen=True):
    """One part of a server, and the share of the boards' nominal dynamic energy that it uses besides its idle power."""

    idle_mw: int
    share_ppm: int

    def energy_uj(self, elapsed_ns: int, dynamic_uj: int) -> int:
        """Energy since the beginning, given the boards' nominal dynamic energy since then."""
        return mw_ns_to_uj(self.idle_mw * elapsed_ns) + dynamic_uj * self.share_ppm // WHOLE

    def power_mw(self, dynamic_mw: int) -> int:
        """Power at an instant, given the boards' nominal dynamic power."""
        return self.idle_mw + dynamic_mw * self.share_ppm // WHOLE


class Device(Part, frozen=True, kw_only=True):
    """A part with a meter of its own."""

    meter: Meter
    offset_uj: int = 0
    """The counter when the simulation begins."""


class Chassis(msgspec.Struct, frozen=True):
    """All parts of one server, metered or not."""

    parts: tuple[Device, ...]
    rest: Part
    """What only the server's own meter sees."""
    server: Device | None
    """The server's own meter, where it has one; its idle power and share are those of all parts and the rest."""

    @property
    def metered(self) -> tuple[Device, ...]:
        """Everything with a meter, in the order of the windows."""
        return self.parts if self.server is None else (*self.parts, self.server)

    def energies_uj(self, elapsed_ns: int, dynamic_uj: int) -> list[int]:
        """Energy since the beginning of everything with a meter; the server's is the sum of its parts to the unit."""
        energies = [part.energy_uj(elapsed_ns, dynamic_uj) for part in self.parts]
        if self.server is not None:
            energies.append(sum(energies) + self.rest.energy_uj(elapsed_ns, dynamic_uj))
        return energies

    def boundaries(self) -> dict[str, tuple[int, ...]]:
        """By boundary that the meters can tell: the places, among `metered`, of those whose sum it is."""
        kinds = [device.meter.kind for device in self.parts]
        found = {"accelerator": tuple(k for k, kind in enumerate(kinds) if kind == "accelerator")}
        if "cpu_package" in kinds:
            found["compute"] = tuple(k for k, kind in enumerate(kinds) if kind in COMPUTE)
        if self.server is not None:
            found["server"] = (len(kinds),)
        return found


def chassis_of(hardware: Hardware, server: str, seed: int, spread: float, period_ns: int, peak_mw: int) -> Chassis:  # noqa: PLR0913, PLR0917 # what a chassis follows from
    """The parts of one server. `peak_mw` is the highest nominal dynamic power of its boards together."""
    parts = [
        _built(hardware, server, seed, period_ns, peak_mw, kind, name, idle_mw, share_ppm)
        for kind, name, idle_mw, share_ppm in _shapes(hardware, server, seed, spread)
    ]
    rest = Part(w_to_mw(hardware.rest_idle_w), round(hardware.rest_share * WHOLE))
    return Chassis(tuple(parts), rest, _server(hardware, server, seed, period_ns, peak_mw, (*parts, rest)))


def engine_of(deployment: Deployment, chassis: Chassis, period_ns: int) -> Engine:
    """The one engine, on all boards."""
    boards = [d.meter for d in chassis.parts if d.meter.kind == "accelerator"]
    return Engine(
        id=f"{deployment.software}@127.0.0.1:8000",
        software=deployment.software,
        version=deployment.version,
        devices=tuple(Reservation(meter.id) for meter in boards),
        hardware=deployment.hardware,
        period_ns=period_ns,
        simulated=True,
    )


def _shapes(hardware: Hardware, server: str, seed: int, spread: float) -> Iterator[tuple[Kind, str, int, int]]:
    """Kind, id, idle power and share of each part with a meter of its own."""
    for k in range(hardware.boards):
        idle_ppm, cost_ppm = (about_one(spread, seed, what, server, k) for what in ("board idle", "board cost"))
        idle_mw = w_to_mw(hardware.board_idle_w) * idle_ppm // WHOLE
        yield "accelerator", f"board-{k}", idle_mw, cost_ppm // hardware.boards
    groups: tuple[tuple[Kind, str, int, float, float], ...] = (
        ("cpu_package", "package", hardware.cpu_packages, hardware.cpu_idle_w, hardware.cpu_share),
        ("dram", "dram", hardware.dram_domains, hardware.dram_idle_w, hardware.dram_share),
    )
    for kind, name, number, idle_w, share in groups:
        for k in range(number):
            yield kind, f"{name}-{k}", w_to_mw(idle_w), round(share * WHOLE / number)


def _built(  # noqa: PLR0913, PLR0917 # what a meter declares
    hardware: Hardware,
    server: str,
    seed: int,
    period_ns: int,
    peak_mw: int,
    kind: Kind,
    name: str,
    idle_mw: int,
    share_ppm: int,
) -> Device:
    board = kind == "accelerator"
    most_mw = idle_mw + peak_mw * share_ppm // WHOLE + 1
    meter = Meter(
        id=name,
        kind=kind,
        grade="counter",
        sensor_class="onboard",
        inside=SERVER if hardware.server_meter != "none" else "",
        device=f"{server}/{name}",
        hw_model=hardware.name if board else "",
        resolution_uj=1,
        refresh_ns=BOARD_REFRESH_NS,
        period_ns=period_ns,
        max_power_mw=max(most_mw, w_to_mw(hardware.board_max_w)) if board else most_mw,
        driver=hardware.driver if board else "",
        power_limit_mw=w_to_mw(hardware.board_max_w) if board else 0,
        idle_mw=idle_mw,
        simulated=True,
    )
    offset_uj = round(unit(seed, "offset", server, name) * OLDEST_UJ)
    return Device(idle_mw, share_ppm, meter=meter, offset_uj=offset_uj)


def _server(  # noqa: PLR0913, PLR0917 # what a meter declares
    hardware: Hardware, server: str, seed: int, period_ns: int, peak_mw: int, parts: tuple[Part, ...]
) -> Device | None:
    if hardware.server_meter == "none":
        return None
    idle_mw, share_ppm = sum(part.idle_mw for part in parts), sum(part.share_ppm for part in parts)
    counted = hardware.server_meter == "counter"
    meter = Meter(
        id=SERVER,
        kind="server",
        grade=hardware.server_meter,
        sensor_class="platform",
        contains=CONTAINED,
        resolution_uj=1 if counted else 0,
        refresh_ns=NS_PER_S,
        period_ns=period_ns,
        max_power_mw=idle_mw + peak_mw * share_ppm // WHOLE + 1,
        current="ac",
        idle_mw=idle_mw,
        simulated=True,
    )
    # An integral of power begins at 0, a counter anywhere.
    offset_uj = round(unit(seed, "offset", server, SERVER) * OLDEST_UJ) if counted else 0
    return Device(idle_mw, share_ppm, meter=meter, offset_uj=offset_uj)
