"""What is declared of sites, of the fleet and of hardware: PUE, prices, carbon intensity, inventory, overhead."""

from collections.abc import Callable, Iterable
from math import inf
from pathlib import Path
from typing import Annotated

import msgspec

from joulefleet_collector.answer.costs import Embodied
from joulefleet_collector.answer.inventory import Stay
from joulefleet_collector.answer.overhead import Overhead
from joulefleet_collector.answer.rates import ANY_SITE, Sites, SiteSeries
from joulefleet_collector.answer.series import ByHour, Constant, Series, Steps, check_range, zone_of

LEAST: dict[str, float] = {"pue": 1.0, "carbon_g_per_kwh": 0.0}
"""The least value of each series that has one; power may have a negative price."""
SERIES = ("pue", "price_per_kwh", "carbon_g_per_kwh")


class Varying(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number that changes: over the hours of each day, or as a file tells."""

    by_hour: Annotated[tuple[float, ...], msgspec.Meta(min_length=24, max_length=24)] | None = None
    """From midnight on, by the local clock."""
    zone: str = "UTC"
    """Of that clock: Europe/Berlin, or an offset as +05:30."""
    file: str = ""
    """CSV of `time,value`: each value holds until the next one."""

    def __post_init__(self) -> None:
        if bool(self.file) == (self.by_hour is not None):
            raise ValueError("write either by_hour, with 24 numbers, or file")
        zone_of(self.zone)


class Site(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One site. With an empty name it holds for all sites that have no entry of their own."""

    name: str = ANY_SITE
    pue: float | Varying | None = None
    price_per_kwh: float | Varying | None = None
    currency: Annotated[str, msgspec.Meta(pattern="^([A-Z]{3})?$")] = ""
    """By its three letters, such as EUR."""
    carbon_g_per_kwh: float | Varying | None = None
    """Grams of CO2 equivalent for a kWh of the grid."""

    def __post_init__(self) -> None:
        if self.price_per_kwh is not None and not self.currency:
            raise ValueError('a price needs a currency: write currency = "EUR"')
        for name in SERIES:
            try:
                check_range(_said(getattr(self, name)), LEAST.get(name, -inf))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error


class FleetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in the fleet beside what reports."""

    inventory: str = ""
    """CSV of `server,pool,from,to`: the servers that should report."""
    overhead: tuple[Overhead, ...] = ()


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """All of that, with its files read."""

    sites: Sites
    stays: tuple[Stay, ...] | None = None
    """None where there is no inventory."""
    overheads: tuple[Overhead, ...] = ()
    embodied: tuple[Embodied, ...] = ()


StepsOf = Callable[[Path, float], Steps]
"""The steps of a file, none of which may be less than the number."""


def files_of(declared: Iterable[Site]) -> set[tuple[Path, float]]:
    """The files of all sites, each with the least value that it may tell."""
    return {
        (Path(said.file), LEAST.get(name, -inf))
        for site in declared
        for name in SERIES
        if isinstance(said := getattr(site, name), Varying) and said.file
    }


def sites_of(declared: Iterable[Site], steps_of: StepsOf) -> Sites:
    """The series of all sites."""
    return Sites({site.name: _series_of(site, steps_of) for site in declared})


def _series_of(site: Site, steps_of: StepsOf) -> SiteSeries:
    found = {name: _series(getattr(site, name), LEAST.get(name, -inf), steps_of) for name in SERIES}
    return SiteSeries(currency=site.currency, **found)


def _series(said: float | Varying | None, least: float, steps_of: StepsOf) -> Series | None:
    if said is None:
        return None
    if not isinstance(said, Varying):
        return Constant(said)
    return steps_of(Path(said.file), least) if said.by_hour is None else ByHour(said.by_hour, zone_of(said.zone))


def _said(said: float | Varying | None) -> tuple[float, ...]:
    """The numbers that stand in the configuration itself."""
    if isinstance(said, Varying):
        return said.by_hour or ()
    return () if said is None else (said,)


def twice(names: Iterable[str]) -> str | None:
    """The first name that stands there twice; None where each stands once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
