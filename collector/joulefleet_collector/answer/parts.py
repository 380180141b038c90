"""Parts of a sum of usage: how each of its fields is divided, so that the parts add up to it exactly."""

from collections.abc import Mapping, Sequence

from joulefleet.units import j_to_uj, ns_to_s, s_to_ns, uj_to_j
from joulefleet_collector.account.share import share_out

Fields = Mapping[str, float]
OF_TIME = ("window_s", "paired_s", "group_s")
"""Fields that tell of how much time is known: each part is known for all of it."""
SQUARES = "independent_j2"
"""Sum of squares, which goes with the square of the share."""


def parts(name: str, value: float, weights: Sequence[int]) -> list[float]:
    """A field's parts in proportion to the weights, which are not all 0.

    Joules are divided to the microjoule, seconds to the nanosecond and counts whole, each by largest remainder: within
    a part, fields that would be equal may so be one microjoule apart. Fields of OF_TIME stay whole in every part.
    """
    if name in OF_TIME or len(weights) == 1:
        return [value] * len(weights)
    if value == 0:
        return [0.0] * len(weights)
    if name == SQUARES:
        return [value * (weight / sum(weights)) ** 2 for weight in weights]
    if name.endswith("_j"):
        return [uj_to_j(part) for part in share_out(j_to_uj(value), weights)]
    if name.endswith("_s"):
        return [ns_to_s(part) for part in share_out(s_to_ns(value), weights)]
    return [float(part if value > 0 else -part) for part in share_out(abs(round(value)), weights)]


def energy_uj(fields: Fields, *names: str) -> int:
    """These energies together, in microjoules; what is not known adds nothing."""
    return sum(j_to_uj(fields.get(name, 0.0)) for name in names)
