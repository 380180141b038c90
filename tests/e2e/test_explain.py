"""A figure of a simulated fleet, as the report gives it and as its windows make it, through a real collector."""

import json
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from fixtures.collectors import DEADLINE_S, Collector, run

FLEET = ("--servers", "8", "--days", "0.1", "--step", "60", "--seed", "5", "--fast")
TROUBLE = ("--outages", "2", "--sensor-faults", "3", "--release", "8")


@pytest.fixture
def fleet(collector: Collector) -> Collector:
    run("simulate", *FLEET, *TROUBLE, "--collector", collector.url, "--json")
    return collector


def explained(collector: Collector, **options: str) -> dict[str, Any]:
    query = urlencode({"since": "all", **options})
    with urlopen(f"{collector.url}/v1/explain?{query}", timeout=DEADLINE_S) as answer:
        told: dict[str, Any] = json.loads(answer.read())
    return told


def test_every_row_of_a_report_is_what_its_windows_make(fleet: Collector) -> None:
    rows = fleet.report("--by", "model,hardware,server")["rows"]
    assert len(rows) > 8
    for row in rows:
        told = explained(fleet, **{tag: row[tag] for tag in ("model", "hardware", "server", "boundary")})
        assert told["value"] == row["joules_per_output_token"]
        assert told["check"]["agrees"] and not told["check"]["sums_only"]
        assert {meter["server"] for meter in told["meters"]} == {row["server"]}
        assert all(meter["counter_residual_uj"] == 0 for meter in told["meters"] if not meter["jumps"])
        terms = sum(term["relative"] ** 2 for term in told["uncertainty"]["terms"])
        assert terms == pytest.approx(row["relative_uncertainty"] ** 2, rel=1e-6)


def test_a_url_is_explained_to_a_person(fleet: Collector) -> None:
    url = f"{fleet.url}/v1/usage?since=all&by=model,hardware&model=sim-70b&hardware=SIM-A8&boundary=accelerator"
    (row,) = fleet.ask(by="model,hardware", model="sim-70b", hardware="SIM-A8", boundary="accelerator")["rows"]
    said = run("explain", f"{url}#joules_per_request", "--windows", "2").stdout
    assert f"{row['requests_ok']:,.0f} finished requests = {row['joules_per_request']:.4g} J/request" in said
    assert "the windows make the same sums as the store has" in said
    assert "simulated: no joule of it was ever used" in said
    assert said.count("\nWindow 20") >= 4


def test_a_question_with_several_rows_names_them(fleet: Collector) -> None:
    with pytest.raises(AssertionError, match=r"rows match, .*model=sim-70b&hardware=SIM-A8"):
        run("explain", "energy_j", "--collector", fleet.url, "--since", "all")
    one = run("explain", "energy_j", "--collector", fleet.url, "--since", "all", "--by", "", "--json")
    assert json.loads(one.stdout)["check"]["agrees"]
