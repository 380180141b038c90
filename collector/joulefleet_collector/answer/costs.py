"""What work costs in money and in CO2: sums made when asked, hour by hour, from energy at `facility` and its site.

The making of hardware is charged as ISO/IEC 21031 has it: that part of it which the reserved time is of its lifetime.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from joulefleet.units import j_to_kwh, kg_to_g, years_to_s
from joulefleet_collector.answer.overhead import Fields, energy_j
from joulefleet_collector.answer.rates import Sites
from joulefleet_collector.store.store import Total

HARDWARE = "hardware"
"""Tag that hours of usage must bear so that the making of hardware is known, beside those of the fleet."""


class Embodied(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the making of one server emitted."""

    hardware: str
    """As the tag of this name tells it."""
    kg: float
    """CO2 equivalent of a whole server."""
    years: float
    """Over which it is used."""
    devices: int = 1
    """Accelerators of a server: who holds one of them for a year holds that part of the server."""

    def __post_init__(self) -> None:
        if not (self.kg >= 0 and self.years > 0 and self.devices > 0):
            raise ValueError(f"'{self.hardware}': kg may not be negative, years and devices must be more than 0")

    @property
    def g_per_device_s(self) -> float:
        """Grams for one device held whole for one second."""
        return kg_to_g(self.kg) / self.devices / years_to_s(self.years)


class Kind(msgspec.Struct, frozen=True):
    """One amount that goes with energy."""

    name: str
    """Of the sums that tell of the hours in which it is known: `{name}_j`, `{name}_requests_ok`."""
    needs: str
    """What of a site is needed for it."""


COST = Kind("cost", "price")
CO2 = Kind("co2", "carbon intensity")
COST_OF = "cost."
"""Before the currency in the name of a sum of money, so that different ones are never added."""
GRAMS = "co2_g"
_COUNTED = (("output_tokens_j", "output_tokens"), ("requests_j", "requests_ok"))
EMBODIED_G, EMBODIED_REQUESTS = "embodied_g", "embodied_requests_ok"


def with_costs(facility: Iterable[Total], sites: Sites, embodied: Iterable[Embodied]) -> list[Total]:
    """Sums of usage at `facility`, each of one hour and with its site and hardware, with cost and CO2 beside."""
    made = {one.hardware: one.g_per_device_s for one in embodied}
    return [
        Total(total.start_ns, total.tags, {**total.fields, **dict(_of_hour(total, sites, made))}) for total in facility
    ]


def _of_hour(total: Total, sites: Sites, made: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    fields, rates = total.fields, sites.at(total.tags.get("site", ""), total.start_ns or 0)
    if "active_j" not in fields:
        return
    if rates.price_per_kwh is not None:
        yield from _amounts(fields, rates.price_per_kwh, COST, f"{COST_OF}{rates.currency}")
    if rates.carbon_g_per_kwh is not None:
        yield from _amounts(fields, rates.carbon_g_per_kwh, CO2, GRAMS)
        g_per_device_s = made.get(total.tags.get(HARDWARE, ""))
        if g_per_device_s is not None and "reserved_s" in fields and "requests_ok" in fields:
            yield EMBODIED_G, g_per_device_s * fields["reserved_s"]
            yield EMBODIED_REQUESTS, fields["requests_ok"]


def _amounts(fields: Fields, per_kwh: float, kind: Kind, amount: str) -> Iterator[tuple[str, float]]:
    """The amount of all energy, and of the energy of each count that is known, beside what it is the amount of."""
    yield amount, per_kwh * j_to_kwh(energy_j(fields))
    yield f"{kind.name}_j", energy_j(fields)
    for joules, count in _COUNTED:
        if joules in fields and count in fields:
            yield f"{count}_{amount}", per_kwh * j_to_kwh(fields[joules])
            yield f"{kind.name}_{count}", fields[count]
