"""What a calibration does to a meter: one factor on all its joules, in integers, so that windows still add up.

Theory. A counter c becomes floor(c * gain): a function of the counter alone, so that the scaled differences of a span
add up to that of its ends, whatever the readings between, and rounding never accumulates. A counter that wraps at M
wraps at a whole number M' after scaling; there the factor is M'/M with M' = round(M * gain), which differs from the
gain by less than 1/M, so that a full turn of the one is exactly a full turn of the other.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec

from joulefleet.describe import SENSOR_CLASSES, Engine, Meter, SensorClass
from joulefleet.reading import MeterReading, Reading

PPM = 1_000_000
BOUND_PPM: dict[SensorClass, int] = {"reference": 10_000, "platform": 30_000, "onboard": 50_000, "modelled": 150_000}
"""How far the gain of a meter of each class may be off, relative and in parts per million (k = 1)."""

Ppm = Annotated[int, msgspec.Meta(gt=0)]


class Gain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The result of one calibration."""

    meter: str
    gain_ppm: Ppm
    """What the meter's joules are multiplied with, in parts per million."""
    uncertainty_ppm: Ppm
    """How far the gain may be off, relative, with the reference's own uncertainty (k = 1)."""
    reference: str
    when: str
    """The instant at which it was finished, UTC."""
    version: str = ""
    """Follows from all of the above: other figures bear another version."""


class Scale(msgspec.Struct, frozen=True):
    """A factor as a fraction of whole numbers."""

    numerator: int
    denominator: int

    @classmethod
    def of(cls, gain: Gain, meter: Meter) -> "Scale":
        """The factor of a meter: the gain, or what of it maps a full turn of its counter on whole microjoules."""
        if meter.modulus_uj:
            return cls(max(_rounded(meter.modulus_uj * gain.gain_ppm, PPM), 1), meter.modulus_uj)
        return cls(gain.gain_ppm, PPM)

    def down(self, value: int) -> int:
        """The scaled value, rounded down."""
        return value * self.numerator // self.denominator

    def up(self, value: int) -> int:
        """The scaled value, rounded up."""
        return -(-value * self.numerator // self.denominator)

    def nearest(self, value: int) -> int:
        """The scaled value, rounded to the nearest."""
        return _rounded(value * self.numerator, self.denominator)


class Scaler:
    """Applies gains to what one source, or several, declare and say."""

    def __init__(self, gains: Mapping[str, Gain]) -> None:
        self._gains = gains
        self._scales: dict[str, Scale] = {}

    def declared(self, declares: Iterable[Meter | Engine]) -> tuple[Meter | Engine, ...]:
        """The declarations with their gains; to be asked before the readings."""
        return tuple(self._declared(one) for one in declares)

    def said(self, readings: Iterable[Reading]) -> tuple[Reading, ...]:
        """The readings in the scale of their declarations."""
        return tuple(self._said(one) for one in readings)

    def _declared(self, one: Meter | Engine) -> Meter | Engine:
        gain = self._gains.get(one.id) if isinstance(one, Meter) else None
        if gain is None or not isinstance(one, Meter):
            return one
        self._scales[one.id] = Scale.of(gain, one)
        return calibrated(one, gain)

    def _said(self, one: Reading) -> Reading:
        scale = self._scales.get(one.meter) if isinstance(one, MeterReading) else None
        return one if scale is None or not isinstance(one, MeterReading) else scaled(one, scale)


def calibrated(meter: Meter, gain: Gain) -> Meter:
    """The declaration of a calibrated meter: its bounds in the new scale, the class that the gain's error allows."""
    scale = Scale.of(gain, meter)
    return msgspec.structs.replace(
        meter,
        sensor_class=class_of(gain.uncertainty_ppm) or "modelled",
        resolution_uj=scale.up(meter.resolution_uj),
        modulus_uj=scale.down(meter.modulus_uj),
        max_power_mw=scale.up(meter.max_power_mw),
        idle_mw=scale.nearest(meter.idle_mw),
        gain_ppm=gain.gain_ppm,
        calibration=gain.version,
    )


def scaled(reading: MeterReading, scale: Scale) -> MeterReading:
    """A reading in the scale of a calibrated meter."""
    counter_uj, power_mw = reading.counter_uj, reading.power_mw
    return msgspec.structs.replace(
        reading,
        counter_uj=None if counter_uj is None else scale.down(counter_uj),
        power_mw=None if power_mw is None else scale.nearest(power_mw),
    )


def class_of(uncertainty_ppm: int) -> SensorClass | None:
    """The best class whose bound holds this uncertainty; None beyond that of a model."""
    return next((one for one in SENSOR_CLASSES if uncertainty_ppm <= BOUND_PPM[one]), None)


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
