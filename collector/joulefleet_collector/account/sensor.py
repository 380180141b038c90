"""How joules are known: by grade and by class of the sensor that measured them."""

from collections.abc import Iterable

from joulefleet.describe import GRADES, SENSOR_CLASSES, Meter
from joulefleet.units import uj_to_j


def by_sensor(energies: Iterable[tuple[Meter, int]]) -> dict[str, float]:
    """Fields of a row, in joules, from meters and their microjoules; every grade and class, most of them 0."""
    sums = dict.fromkeys((*(f"{g}_j" for g in GRADES), *(f"class_{c}_j" for c in SENSOR_CLASSES)), 0)
    for meter, energy_uj in energies:
        sums[f"{meter.grade}_j"] += energy_uj
        sums[f"class_{meter.sensor_class}_j"] += energy_uj
    return {field: uj_to_j(energy_uj) for field, energy_uj in sums.items()}
