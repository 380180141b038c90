"""What a meter or an engine is: the declarations that accounting relies on.

A declaration is made once, when a source is opened, and travels in every window, so that a window can be
understood without anything outside itself.
"""

from typing import Literal

import msgspec

Kind = Literal["accelerator", "module", "cpu_package", "cpu_core", "dram", "psys", "host", "server", "enclosure"]
Grade = Literal["counter", "integrated", "percent", "residual", "modelled"]
SensorClass = Literal["reference", "platform", "onboard", "modelled"]
Current = Literal["ac", "dc"]
Phase = Literal["", "prefill", "decode"]

GRADES: tuple[Grade, ...] = ("counter", "integrated", "percent", "residual", "modelled")
SENSOR_CLASSES: tuple[SensorClass, ...] = ("reference", "platform", "onboard", "modelled")

WHOLE = 1_000_000
"""A reservation of a whole device, in parts per million."""
SOMEWHERE = "?"
"""In the place of a device's id: the engine runs on devices of which nobody has told yet which they are."""


class Slice(msgspec.Struct, frozen=True):
    """A named part of a device without a meter of its own: a MIG instance, by its UUID."""

    id: str
    slots: int
    """Of those of the device."""


class Meter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that tells energy or power.

    `kind` says what it measures: `accelerator` (a board), `module` (accelerators and their CPU in one figure),
    `cpu_package`, `cpu_core`, `dram`, `psys` (platform), `host` (a server without its accelerators),
    `server` (the whole server's input), `enclosure` (several servers in one figure, shown at no boundary).
    """

    id: str
    """Unique on its server and stable over restarts: a GPU's UUID, a powercap zone."""
    kind: Kind
    grade: Grade
    sensor_class: SensorClass
    """How far the gain may be off: `reference` 1 %, `platform` (BMC, PSU) 3 %, `onboard` 5 %, `modelled` 15 %."""
    contains: tuple[Kind, ...] = ()
    """Kinds of meter whose energy is wholly inside this one's."""
    inside: str = ""
    """Id of the meter of which this one is a part, where the source knows it."""
    adds_up: bool = False
    """Whether the meters that name this one as `inside` measure all of its energy together."""
    device: str = ""
    """Identity of the physical thing, equal for two sources that show the same one (a GPU's UUID, a PCI address)."""
    hw_model: str = ""
    resolution_uj: int = 0
    """Smallest step of the counter; 0 for a gauge."""
    refresh_ns: int = 0
    """How often the sensor itself makes a new value."""
    period_ns: int = 1_000_000_000
    """How often it is read."""
    max_power_mw: int = 0
    """Rated maximum, against which readings are judged; 0 where it is not known."""
    modulus_uj: int = 0
    """Value at which the counter wraps to 0; 0 where it does not."""
    restarts_at_zero: bool = False
    """Whether the counter is known to begin at 0 after a reset (NVML: on driver load)."""
    current: Current = "dc"
    driver: str = ""
    power_limit_mw: int = 0
    basis: str = ""
    """What a figure that is not measured rests on: a rated power and its source, a declared share, a curve."""
    idle_mw: int = 0
    """Idle power from a catalogue, used until it is learnt; 0 where there is none."""
    slices: tuple[Slice, ...] = ()
    """Parts of it that have a name of their own and no meter: an engine that names one holds that part of this."""
    slots: int = 0
    """How many equal slots the slices are made of."""
    gain_ppm: int = 1_000_000
    """What its joules were multiplied with when it was calibrated, in parts per million."""
    calibration: str = ""
    """Version of that calibration; empty where there was none."""
    simulated: bool = False


class Reservation(msgspec.Struct, frozen=True):
    """A device on which an engine runs, and how much of it is reserved for the engine."""

    meter: str
    share_ppm: int = WHOLE
    """Parts per million of the device."""


class Engine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One inference server process group that counts work."""

    id: str
    """Unique on its server and stable over restarts: software and address."""
    software: str
    version: str = ""
    group: str = ""
    """Replica group over several servers; empty where the engine is its own."""
    group_size: int = 0
    """How many engines the group has over all servers, where it is told: one that is silent is missed."""
    phase: Phase = ""
    """The one phase that it does where prefill and decode are apart; empty where it does both."""
    front: bool = False
    """Whether it stands before engines that count the same work (a gateway): it tells how tenants share their work,
    and holds no energy and no work of its own."""
    devices: tuple[Reservation, ...] = ()
    """Accelerators it runs on; empty means the whole server, shared equally with the other engines without any."""
    hardware: str = ""
    """Name of the hardware where no device of its own tells it."""
    period_ns: int = 1_000_000_000
    port: int = 0
    """Port at which its own processes listen on this server; 0 where it is elsewhere or not known."""
    unit: str = ""
    """The unit of systemd (service or slice) in which its processes run, where that is told."""
    counts_at_finish: bool = False
    """Whether tokens are counted when a request ends rather than at each step."""
    simulated: bool = False
