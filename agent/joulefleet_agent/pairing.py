"""Two meters over the same time: cut into whole blocks, compared, and judged whether one may calibrate the other."""

from collections.abc import Iterable, Sequence
from math import hypot, sqrt

import msgspec

from joulefleet.describe import SENSOR_CLASSES, Engine, Meter
from joulefleet.estimate import ratio_of_sums
from joulefleet.gain import BOUND_PPM, PPM
from joulefleet.reading import Reading, WorkReading
from joulefleet.units import NS_PER_S, mw_to_w, ns_to_s, uj_over_ns_to_mw
from joulefleet.window import MeterWindow, Window
from joulefleet_agent.cutter import Cutter, CutterState, Identity
from joulefleet_agent.health import STUCK
from joulefleet_agent.listen import Heard
from joulefleet_agent.sampler import Opened, Said, stamped

BLOCKS_S = (10, 12, 15, 20, 30, 60, 120, 180, 300, 600)
"""Lengths of a block; each divides an hour."""
RHYTHMS = 5
"""A block is at least so many times as long as the slower meter's rhythm."""
LEAST_BLOCKS = 12
LEAST_STEPS = 1_000
"""A counter has to move by so many of its steps, or these alone make a part in a thousand."""
MOST_NOISE_PPM = 20_000
BELIEVED = (0.5, 2.0)
"""Gains between these; beyond, it is another thing or another unit that is read."""
MEASURED = ("counter", "integrated")
SINGLE = ("server",)
"""Kinds of which a server has one, so that two meters of the kind measure the same. A `psys` may be all CPUs of a Cray
node, a Grace module or a platform."""


class Refused(Exception):
    """Why there is no calibration, and what would mend it."""


class Block(msgspec.Struct, frozen=True):
    """What both meters told over one block."""

    meter_uj: int
    reference_uj: int


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A gain, and what it rests on."""

    gain_ppm: int
    uncertainty_ppm: int
    """All of it (k = 1): the root of the sum of the squares of the three below."""
    reference_ppm: int
    """Of the reference's own class."""
    noise_ppm: int
    """Scatter of the blocks."""
    load_ppm: int
    """Half the difference between blocks of little and of much power, as the half width of a uniform distribution."""
    blocks: int
    block_s: float
    least_w: float
    most_w: float


def unlike(meter: Meter, reference: Meter) -> str:
    """Why one cannot calibrate the other; empty where it can."""
    names = f"{meter.id} ({meter.kind}) and {reference.id} ({reference.kind})"
    same = meter.kind in SINGLE or (bool(meter.device) and meter.device == reference.device)
    classes = SENSOR_CLASSES.index(reference.sensor_class), SENSOR_CLASSES.index(meter.sensor_class)
    reasons = {
        f"{meter.id} is no reference for itself": meter.id == reference.id,
        f"{names} measure different things, and what lies between is not constant": meter.kind != reference.kind,
        f"nothing tells that {names} measure the same: their sources do not declare one `device`": not same,
        f"{reference.id} is graded {reference.grade}: only what measures can be a reference": (
            reference.grade not in MEASURED
        ),
        f"{meter.id} is graded {meter.grade}: no gain makes a measurement of it": (
            meter.grade not in (*MEASURED, "percent")
        ),
        f"{reference.id} ({reference.sensor_class}) is not known better than {meter.id} ({meter.sensor_class})": (
            classes[0] >= classes[1]
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def block_ns_of(meters: Iterable[Meter]) -> int:
    """How long a block has to be for these meters, in nanoseconds."""
    least_s = RHYTHMS * ns_to_s(max(max(one.period_ns, one.refresh_ns) for one in meters))
    return next((one for one in BLOCKS_S if one >= least_s), BLOCKS_S[-1]) * NS_PER_S


class Pairing:
    """Cuts what is heard of two meters into blocks, by the rules by which an agent cuts windows."""

    def __init__(self, meter: str, reference: str, block_ns: int) -> None:
        self.block_ns = block_ns
        self._names = (meter, reference)
        self._cutter = Cutter(CutterState(timeline=0, step_ns=block_ns), Identity(server=""))
        self._declared: dict[str, tuple[Meter | Engine, ...]] = {}
        self._offset_ns: int | None = None

    def take(self, heard: Heard) -> list[Block]:
        """The blocks that are whole by now and were not told yet."""
        if self._offset_ns is None:
            self._offset_ns = heard.wall_ns - heard.boot_ns
        now_ns = heard.boot_ns + self._offset_ns
        match heard.event:
            case Opened() as event:
                self._declared[event.source] = tuple(one for one in event.declares if one.id in self._names)
                self._cutter.declare([one for each in self._declared.values() for one in each], now_ns)
            case Said() as event:
                readings = stamped(event.readings, event.boot_ns + self._offset_ns, self._of(event.source))
                self._cutter.feed([one for one in readings if _subject(one) in self._names], now_ns)
        return self._whole(self._cutter.close(now_ns))

    def end(self) -> list[Block]:
        """What is left."""
        return self._whole(self._cutter.finish())

    def _of(self, source: str) -> tuple[Meter | Engine, ...]:
        return self._declared.get(source, ())

    def _whole(self, windows: Sequence[Window]) -> list[Block]:
        found = []
        for window in windows:
            told = {one.meter.id: one for one in window.meters if _is_whole(one, self.block_ns)}
            if len(told) == len(self._names):
                found.append(Block(*(told[name].energy_uj for name in self._names)))
        return found


def judged(blocks: Sequence[Block], block_ns: int, meter: Meter, reference: Meter) -> Found:
    """The gain that these blocks tell. Raises Refused."""
    if len(blocks) < LEAST_BLOCKS:
        raise Refused(
            f"only {len(blocks)} whole blocks of {ns_to_s(block_ns):.0f} s were read of both meters, and"
            f" {LEAST_BLOCKS} are the least: take longer (--minutes), or see what `joulefleet doctor` says of both"
        )
    _check_energy(meter, sum(one.meter_uj for one in blocks))
    _check_energy(reference, sum(one.reference_uj for one in blocks))
    ratio = ratio_of_sums([(one.meter_uj, one.reference_uj) for one in blocks])
    if not BELIEVED[0] <= ratio.value <= BELIEVED[1]:
        raise Refused(
            f"{reference.id} tells {ratio.value:.3g} times the energy of {meter.id}: that is no gain, but another thing"
            " or another unit"
        )
    noise_ppm, load_ppm = round(PPM * ratio.error / ratio.value), round(PPM * _by_load(blocks) / ratio.value / sqrt(3))
    if hypot(noise_ppm, load_ppm) > MOST_NOISE_PPM:
        raise Refused(
            f"too noisy: the blocks tell the gain to {hypot(noise_ppm, load_ppm) / PPM:.1%} only, and"
            f" {MOST_NOISE_PPM / PPM:.0%} is the most: take longer, under steadier load"
        )
    reference_ppm = BOUND_PPM[reference.sensor_class]
    uncertainty_ppm = round(hypot(reference_ppm, noise_ppm, load_ppm))
    if uncertainty_ppm > BOUND_PPM[meter.sensor_class]:
        raise Refused(f"{meter.id} would be known to {uncertainty_ppm / PPM:.1%}, which is no better than it is now")
    powers_w = [mw_to_w(uj_over_ns_to_mw(one.reference_uj, block_ns)) for one in blocks]
    return Found(
        gain_ppm=round(PPM * ratio.value),
        uncertainty_ppm=uncertainty_ppm,
        reference_ppm=reference_ppm,
        noise_ppm=noise_ppm,
        load_ppm=load_ppm,
        blocks=len(blocks),
        block_s=ns_to_s(block_ns),
        least_w=min(powers_w),
        most_w=max(powers_w),
    )


def _check_energy(meter: Meter, energy_uj: int) -> None:
    if energy_uj < LEAST_STEPS * max(meter.resolution_uj, 1):
        raise Refused(
            f"too little energy: {meter.id} moved by less than {LEAST_STEPS} of its steps; take longer, or under load"
        )


def _by_load(blocks: Sequence[Block]) -> float:
    """Half the difference of the gain between the blocks of little and those of much power."""
    ordered = sorted(blocks, key=lambda one: one.reference_uj)
    low, high = ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]
    return abs(_gain(high) - _gain(low)) / 2


def _gain(blocks: Sequence[Block]) -> float:
    energy_uj = sum(one.meter_uj for one in blocks)
    return sum(one.reference_uj for one in blocks) / energy_uj if energy_uj > 0 else float("inf")


def _is_whole(one: MeterWindow, block_ns: int) -> bool:
    # A counter that stands still gives way to its gauge, which is not what the gain would be for.
    return one.covered_ns == block_ns and not one.interpolated_ns and not one.late_uj and STUCK not in one.states


def _subject(one: Reading) -> str:
    if isinstance(one, WorkReading):
        return one.engine
    return getattr(one, "meter", "") or getattr(one, "subject", "")
