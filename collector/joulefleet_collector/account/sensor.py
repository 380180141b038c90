"""How joules are known: by grade and by class of the sensor that measured them."""

from collections.abc import Iterable

from joulefleet.describe import GRADES, SENSOR_CLASSES, Grade, SensorClass
from joulefleet.units import uj_to_j

_BY_GRADE: dict[str, str] = {grade: f"{grade}_j" for grade in GRADES}
_BY_CLASS: dict[str, str] = {each: f"class_{each}_j" for each in SENSOR_CLASSES}


def by_sensor(energies: Iterable[tuple[Grade, SensorClass, int]]) -> dict[str, float]:
    """Fields of a row, in joules, from microjoules by grade and class; every grade and class, most of them 0."""
    sums = dict.fromkeys((*_BY_GRADE.values(), *_BY_CLASS.values()), 0)
    for grade, sensor_class, energy_uj in energies:
        sums[_BY_GRADE[grade]] += energy_uj
        sums[_BY_CLASS[sensor_class]] += energy_uj
    return {field: uj_to_j(energy_uj) for field, energy_uj in sums.items()}
