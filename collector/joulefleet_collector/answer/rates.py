"""What holds at a site in an hour: its PUE, the price of power and its carbon intensity."""

from collections.abc import Mapping

import msgspec

from joulefleet_collector.answer.series import Series

ANY_SITE = ""
"""The name under which stands what holds at every site that has no entry of its own."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Means over one hour. None is not known."""

    pue: float | None = None
    """Energy of the facility over that of its servers, network and storage."""
    price_per_kwh: float | None = None
    currency: str = ""
    carbon_g_per_kwh: float | None = None
    """Grams of CO2 equivalent."""


class SiteSeries(msgspec.Struct, frozen=True, kw_only=True):
    """The same over all time."""

    pue: Series | None = None
    price_per_kwh: Series | None = None
    currency: str = ""
    carbon_g_per_kwh: Series | None = None

    def at(self, hour_ns: int) -> Rates:
        """Means over the hour that starts then."""
        return Rates(
            pue=_mean(self.pue, hour_ns),
            price_per_kwh=_mean(self.price_per_kwh, hour_ns),
            currency=self.currency,
            carbon_g_per_kwh=_mean(self.carbon_g_per_kwh, hour_ns),
        )


def _mean(series: Series | None, hour_ns: int) -> float | None:
    return None if series is None else series.mean(hour_ns)


class Sites:
    """All sites. Asked for one hour again and again, it looks once."""

    def __init__(self, series: Mapping[str, SiteSeries]) -> None:
        self._series = dict(series)
        self._known: dict[tuple[str, int], Rates] = {}

    def at(self, site: str, hour_ns: int) -> Rates:
        """What holds at a site in the hour that starts then; at one without an entry, what holds at ANY_SITE."""
        key = site, hour_ns
        if key not in self._known:
            own = self._series.get(site) or self._series.get(ANY_SITE)
            self._known[key] = own.at(hour_ns) if own else Rates()
        return self._known[key]
