"""How joules are known: by grade and class of the sensor that measured them, and by what is wrong with it."""

from collections.abc import Iterable, Sequence

from joulefleet.describe import GRADES, SENSOR_CLASSES, Grade, SensorClass
from joulefleet.units import ns_to_s, uj_to_j
from joulefleet.window import MeterWindow

_BY_GRADE: dict[str, str] = {grade: f"{grade}_j" for grade in GRADES}
_BY_CLASS: dict[str, str] = {each: f"class_{each}_j" for each in SENSOR_CLASSES}
FAULTS = ("stuck", "implausible", "hung", "stale")
"""Reasons of uncovered time for which a sensor is to be mended."""
BY_STATE = {"unvalidated": "unvalidated_j", "sensor_disagreement": "disagreeing_j"}
"""States of a sensor, each with the field of the joules that were told in it."""
BY_GAUGE = "stuck"
"""The state of a meter whose counter stands still, and whose gauge is told instead: a fault in all of its time."""


def by_sensor(energies: Iterable[tuple[Grade, SensorClass, int]]) -> dict[str, float]:
    """Fields of a row, in joules, from microjoules by grade and class; every grade and class, most of them 0."""
    sums = dict.fromkeys((*_BY_GRADE.values(), *_BY_CLASS.values()), 0)
    for grade, sensor_class, energy_uj in energies:
        sums[_BY_GRADE[grade]] += energy_uj
        sums[_BY_CLASS[sensor_class]] += energy_uj
    return {field: uj_to_j(energy_uj) for field, energy_uj in sums.items()}


def by_state(readings: Sequence[MeterWindow]) -> dict[str, float]:
    """Fields of a row, in joules, that these sensors told while in each state."""
    return {
        field: uj_to_j(sum([one.energy_uj for one in readings if state in one.states]))
        for state, field in BY_STATE.items()
    }


def by_fault(reading: MeterWindow) -> dict[str, float]:
    """Fields of a row, in seconds, in which this sensor had each fault."""
    return {
        f"{fault}_s": ns_to_s(
            reading.gaps_ns.get(fault, 0) + (reading.covered_ns if fault == BY_GAUGE and fault in reading.states else 0)
        )
        for fault in FAULTS
    }
