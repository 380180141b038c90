"""What holds at a site in an hour."""

from joulefleet.grid import HOUR_NS
from joulefleet_collector.answer.rates import Rates, Sites, SiteSeries
from joulefleet_collector.answer.series import Constant, Steps

FRA = SiteSeries(pue=Steps((0, HOUR_NS), (1.2, None)), price_per_kwh=Constant(0.1), currency="EUR")
ANY = SiteSeries(pue=Constant(1.5))


def test_a_site_has_its_own_and_no_other_rates() -> None:
    sites = Sites({"fra": FRA, "": ANY})
    assert sites.at("fra", 0) == Rates(pue=1.2, price_per_kwh=0.1, currency="EUR")
    assert sites.at("fra", HOUR_NS) == Rates(price_per_kwh=0.1, currency="EUR"), "what holds elsewhere fills no gap"
    assert sites.at("ams", 0) == sites.at("", 0) == Rates(pue=1.5)


def test_where_nothing_is_said_nothing_is_known() -> None:
    assert Sites({"fra": FRA}).at("ams", 0) == Sites({}).at("", 0) == Rates()


def test_an_hour_is_looked_at_once() -> None:
    sites = Sites({"fra": FRA})
    assert sites.at("fra", 0) is sites.at("fra", 0)
