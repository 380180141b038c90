"""Energy that no server's meter sees and that grows with what they see: declared watts of a pool, the PUE of a site."""

import math
from collections.abc import Mapping

import msgspec

from joulefleet.describe import GRADES, SENSOR_CLASSES
from joulefleet_collector.rows import USAGE

Fields = dict[str, float]

_AS_MEASURED = frozenset((*(f"{grade}_j" for grade in GRADES), *(f"class_{name}_j" for name in SENSOR_CLASSES)))
_MODELLED = ("modelled_j", "class_modelled_j")
_GROWING = frozenset(name for name in USAGE.sums if name.endswith("_j")) - _AS_MEASURED
_SQUARE = "independent_j2"


class Overhead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Power of what serves a pool or a site and has no agent."""

    what: str
    """Such as network or storage."""
    watts: float
    pool: str = ""
    site: str = ""
    """Where each is empty, it is that of all of them."""

    def __post_init__(self) -> None:
        if not 0 < self.watts < math.inf:
            raise ValueError(f"{self.watts:g} W of '{self.what}': write more than 0")
        if not (self.pool or self.site):
            raise ValueError(f"'{self.what}' serves no pool and no site: name one of them")

    def serves(self, pool: str, site: str) -> bool:
        """Whether it serves this pool at this site."""
        return self.pool in ("", pool) and self.site in ("", site)


def energy_j(fields: Mapping[str, float]) -> float:
    """Active and idle energy of a sum; what is not known adds nothing."""
    return fields.get("active_j", 0.0) + fields.get("idle_j", 0.0)


def grown(fields: Mapping[str, float], factor: float) -> Fields:
    """The same work with so many times the energy. What is added is modelled; how the rest is known stays as it is."""
    added_j = (factor - 1) * energy_j(fields)
    out = {name: value * factor if name in _GROWING else value for name, value in fields.items()}
    out |= {name: fields.get(name, 0.0) + added_j for name in _MODELLED}
    if _SQUARE in out:
        out[_SQUARE] *= factor**2
    return out
