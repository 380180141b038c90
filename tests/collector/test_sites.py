"""What may be declared of sites, and the series that come of it."""

import re
import tomllib
from pathlib import Path

import pytest

from joulefleet.config import ConfigError, typed
from joulefleet.grid import HOUR_NS, from_rfc3339
from joulefleet_collector.answer.inventory import inventory_of
from joulefleet_collector.answer.rates import Rates
from joulefleet_collector.answer.series import Steps, steps_of
from joulefleet_collector.config import CollectorConfig
from joulefleet_collector.sites import files_of, sites_of, twice

HOURS = ", ".join(str(hour / 10) for hour in range(24))
TEXT = f"""
[[sites]]
name = "fra1"
pue = 1.25
price_per_kwh = {{ by_hour = [{HOURS}], zone = "Europe/Berlin" }}
currency = "EUR"
carbon_g_per_kwh = {{ file = "carbon.csv" }}

[[sites]]
pue = {{ file = "pue.csv" }}
price_per_kwh = -0.01
currency = "USD"

[fleet]
inventory = "fleet.csv"
[[fleet.overhead]]
what = "network"
pool = "chat"
watts = 1200

[[embodied]]
hardware = "NVIDIA H200"
kg = 5000
years = 5
devices = 8
"""
NOON_NS = from_rfc3339("2026-01-15T12:00:00Z")


def config(text: str) -> CollectorConfig:
    return typed(tomllib.loads(text), CollectorConfig, "collector.toml")


def test_numbers_hours_and_files_become_series() -> None:
    said = config(TEXT)
    assert files_of(said.sites) == {(Path("carbon.csv"), 0.0), (Path("pue.csv"), 1.0)}
    told = {"carbon.csv": Steps((0, NOON_NS), (100.0, 200.0)), "pue.csv": Steps((0,), (1.5,))}
    sites = sites_of(said.sites, lambda path, _: told[path.name])
    assert sites.at("fra1", NOON_NS) == Rates(pue=1.25, price_per_kwh=1.3, currency="EUR", carbon_g_per_kwh=200.0)
    assert sites.at("fra1", NOON_NS - HOUR_NS).price_per_kwh == 1.2
    assert sites.at("elsewhere", NOON_NS) == Rates(pue=1.5, price_per_kwh=-0.01, currency="USD")
    assert (said.fleet.inventory, said.fleet.overhead[0].watts, said.embodied[0].devices) == ("fleet.csv", 1200, 8)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pue = 0.99", "pue: 0.99 is less than 1"),
        ("pue = nan", "nan is no number"),
        ("carbon_g_per_kwh = -1", "carbon_g_per_kwh: -1 is less than 0"),
        ('price_per_kwh = -inf\ncurrency = "EUR"', "-inf is no number"),
        ("price_per_kwh = 0.1", "a price needs a currency"),
        ('price_per_kwh = 0.1\ncurrency = "euro"', "currency"),
        ("pue = { by_hour = [1.0, 2.0] }", "by_hour"),
        (f"pue = {{ by_hour = [{HOURS}] }}", "0 is less than 1"),
        (f'pue = {{ by_hour = [{HOURS}], file = "x.csv" }}', "write either by_hour, with 24 numbers, or file"),
        ("pue = {}", "write either by_hour"),
        (f'carbon_g_per_kwh = {{ by_hour = [{HOURS}], zone = "Berlin" }}', "'Berlin' is no time zone here"),
        ('pue = { file = "x.csv", zonne = "UTC" }', "zonne"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"sites.*{re.escape(said)}|{re.escape(said)}.*sites"):
        config(f"[[sites]]\n{text}\n")


def test_a_name_that_stands_twice_is_found() -> None:
    assert twice(["a", "b", "a", "b"]) == "a"
    assert twice(["", ""]) == ""
    assert twice(["a", "b"]) is None


def test_the_configuration_and_the_files_of_the_documents_are_some() -> None:
    page = (Path(__file__).parents[2] / "docs/fleet.md").read_text("utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    said = config(text)
    assert [site.name for site in said.sites] == ["fra1", ""]
    assert (said.fleet.overhead[0].what, said.embodied[0].hardware) == ("network", "NVIDIA H200")
    inventory, series = re.findall(r"```csv\n(.*?)```", page, re.DOTALL)
    assert [stay.server for stay in inventory_of(inventory)] == ["gpu-17", "gpu-18", "gpu-19"]
    assert steps_of(series).values == (0.1234, 0.1312, None)
