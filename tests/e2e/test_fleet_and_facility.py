"""Two sites and two pools, a spare server, a silent one, and prices by the hour: from agents to what a token costs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from fixtures.collectors import Collector, in_this_process, run
from fixtures.virtual_agent import Clock, SteadyEngine, VirtualAgent
from joulefleet.describe import Meter
from joulefleet.grid import HOUR_NS, rfc3339
from joulefleet.reading import MeterReading
from joulefleet.units import NS_PER_S, j_to_kwh, kg_to_g, w_to_mw, years_to_s

HOURS, PERIOD_S, WINDOW_S = 3, 60, 300
SERVERS: dict[str, tuple[str, str, float, str]] = {
    "a1": ("chat", "fra", 600.0, "large"),
    "a2": ("chat", "fra", 300.0, "small"),
    "a3": ("chat", "fra", 120.0, ""),
    "b1": ("rag", "ams", 500.0, "large"),
}
"""Pool, site, watts and model; the third has no engine."""
TOKENS_PER_S = {"large": 100, "small": 200}
PRICES = [0.10, 0.20, 0.30]
"""What a kWh costs in Frankfurt in each of the three hours."""


class SteadyMeter:
    """The whole server's input, at one power for ever, as a counter."""

    period_ns = PERIOD_S * NS_PER_S
    deadline_ns = NS_PER_S

    def __init__(self, watts: float, now_ns: Callable[[], int]) -> None:
        meter = Meter(id="psu", kind="server", grade="counter", sensor_class="platform", period_ns=self.period_ns)
        self.declares = (meter,)
        self._mw, self._now_ns = w_to_mw(watts), now_ns

    def read(self) -> Sequence[MeterReading]:
        return [MeterReading(meter="psu", counter_uj=self._mw * (self._now_ns() // NS_PER_S) * 1_000)]


def config(folder: Path, begin_ns: int) -> Path:
    """Frankfurt by hours of its day, Amsterdam by a file that ends after two hours."""
    begin_hour = int(rfc3339(begin_ns)[11:13]) + 2  # summer time
    prices = [0.0] * 24
    for place, price in enumerate(PRICES):
        prices[(begin_hour + place) % 24] = price
    inventory = ["server,pool,from,to", *(f"{name},{pool},," for name, (pool, *_) in SERVERS.items())]
    inventory.append(f"a4,chat,{rfc3339(begin_ns + 2 * HOUR_NS)},")
    (folder / "inventory.csv").write_text("\n".join(inventory) + "\n")
    (folder / "pue.csv").write_text(f"{rfc3339(begin_ns)},1.1\n{rfc3339(begin_ns + 2 * HOUR_NS)},\n")
    (folder / "collector.toml").write_text(
        f"""
        [[sites]]
        name = "fra"
        pue = 1.2
        price_per_kwh = {{ by_hour = {prices}, zone = "Europe/Berlin" }}
        currency = "EUR"
        carbon_g_per_kwh = 300
        [[sites]]
        name = "ams"
        pue = {{ file = "{folder}/pue.csv" }}
        price_per_kwh = 0.25
        currency = "USD"
        [fleet]
        inventory = "{folder}/inventory.csv"
        [[fleet.overhead]]
        what = "network"
        site = "ams"
        watts = 50
        [[embodied]]
        hardware = "big"
        kg = 1000
        years = 4
        """
    )
    return folder / "collector.toml"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Collector, Path, int]]:
    """The collector after three hours, the folder of its files, and the first instant."""
    folder = tmp_path_factory.mktemp("fleet")
    begin_ns = 1_790_000_000_000_000_000 // HOUR_NS * HOUR_NS
    clock = Clock(begin_ns)
    with ExitStack() as ends:
        collector = ends.enter_context(in_this_process(folder / "data", clock, config_file=config(folder, begin_ns)))
        agents = []
        for server, (pool, site, watts, model) in SERVERS.items():
            agent = VirtualAgent(folder, collector.url, clock, server, WINDOW_S, pool=pool, site=site, hardware="big")
            ends.callback(agent.close)
            engine = {"engine": SteadyEngine(model, TOKENS_PER_S[model], clock)} if model else {}
            agent.open(meter=SteadyMeter(watts, clock), **engine)
            agents.append((agent, ["meter", *engine]))
        for minute in range(HOURS * 60 + 1):
            clock.now_ns = begin_ns + minute * 60 * NS_PER_S
            for agent, sources in agents:
                for source in sources:
                    agent.read(source)
                agent.tick()
        for agent, _ in agents:
            agent.finish()
        yield collector, folder, begin_ns


@pytest.fixture
def collector(fleet: tuple[Collector, Path, int]) -> Collector:
    return fleet[0]


def rows(answer: dict[str, Any], *tags: str) -> dict[tuple[str, ...], dict[str, Any]]:
    return {tuple(row[tag] for tag in tags): row for row in answer["rows"]}


def hour_j(watts: float) -> float:
    return watts * 3600.0


def test_a_spare_server_is_paid_by_those_who_hold_the_others(collector: Collector) -> None:
    """All of its energy: in the first hours, before its idle power is learnt, and after."""
    answer = collector.ask(boundary="fleet", by="model,pool", step="hour")
    watts = {("large", "chat"): 660.0, ("small", "chat"): 360.0, ("large", "rag"): 550.0}
    assert len(answer["rows"]) == HOURS * len(watts)
    for row in answer["rows"]:
        assert row["energy_j"] == pytest.approx(hour_j(watts[row["model"], row["pool"]]), rel=1e-6)
    ledger = sum(entry["metered_j"] for entry in answer["ledger"] if entry["boundary"] == "server")
    assert sum(row["energy_j"] for row in answer["rows"]) == pytest.approx(ledger + hour_j(50.0) * HOURS, rel=1e-6)
    (spare,) = (entry for entry in answer["ledger"] if entry["pool"] == "chat")
    assert spare["unattributed_j"] > 0 and spare["idle_unallocated_j"] > 0
    pools = {pool["pool"]: pool for pool in answer["fleet"]["pools"]}
    assert pools["chat"]["shared_j"] == pytest.approx(hour_j(120.0) * HOURS, rel=1e-6)
    assert pools["rag"]["overhead_j"] == pytest.approx(hour_j(50.0) * HOURS, rel=1e-6)


def test_a_silent_server_lowers_coverage_from_the_hour_on_in_which_it_is_expected(collector: Collector) -> None:
    answer = collector.ask(boundary="fleet", by="pool", step="hour")
    coverage = [(row["pool"], row["coverage"]) for row in answer["rows"]]
    shares = {"chat": [1.0, 1.0, 0.75], "rag": [1.0] * 3}
    for pool, expected in shares.items():
        assert [share for name, share in coverage if name == pool] == pytest.approx(expected)
    (chat, rag) = answer["fleet"]["inventory"]
    assert (chat["coverage"], rag["coverage"]) == (pytest.approx(0.9), 1.0)
    assert (chat["silent_servers"], chat["silent"]) == (1, ["a4"])
    assert "silent_servers" in [one["code"] for one in answer["warnings"]]
    (whole,) = rows(collector.ask(boundary="fleet", by="pool", pool="chat"), "pool").values()
    assert (whole["coverage"], whole["status"]) == (pytest.approx(0.9), "partial")


def test_each_hour_costs_what_power_costs_in_it(collector: Collector) -> None:
    answer = collector.ask(boundary="facility", by="model", site="fra")
    kwh = {model: j_to_kwh(hour_j(watts)) * 1.2 for model, watts in (("large", 660.0), ("small", 360.0))}
    for (model,), row in rows(answer, "model").items():
        assert (row["cost"], row["currency"]) == (pytest.approx(kwh[model] * sum(PRICES), rel=1e-6), "EUR")
        tokens = TOKENS_PER_S[model] * 3600 * HOURS
        assert row["cost_per_million_output_tokens"] == pytest.approx(row["cost"] / tokens * 1e6, rel=1e-3)
        assert row["co2_kg"] == pytest.approx(kwh[model] * HOURS * 0.3, rel=1e-6)
        grams = row["co2_kg"] * 1_000 / tokens * 100
        assert row["co2_g_per_request"] == pytest.approx(grams, rel=1e-3)
        made = kg_to_g(1_000) * 3600 * HOURS / years_to_s(4) / tokens * 100
        assert row["sci_g_per_request"] == pytest.approx(grams + made, rel=1e-3)
    by_hour = collector.ask(boundary="facility", by="model", site="fra", model="large", step="hour")
    assert [row["cost"] for row in by_hour["rows"]] == [
        pytest.approx(kwh["large"] * price, rel=1e-6) for price in PRICES
    ]


def test_each_boundary_contains_the_one_before(collector: Collector) -> None:
    """I6 where all three are known, and totals that do not depend on how they are divided."""
    sums: dict[str, float] = {}
    for boundary in ("server", "fleet", "facility"):
        divided = collector.ask(by="model,server", step="hour", site="fra", boundary=boundary)["rows"]
        (whole,) = collector.ask(by="", site="fra", boundary=boundary)["rows"]
        sums[boundary] = whole["energy_j"]
        assert sum(row["energy_j"] for row in divided) == pytest.approx(whole["energy_j"], rel=1e-12)
    assert sums["server"] < sums["fleet"] < sums["facility"] == pytest.approx(sums["fleet"] * 1.2)


def test_an_hour_without_pue_is_missing_and_a_file_that_is_mended_restates_it(
    fleet: tuple[Collector, Path, int],
) -> None:
    collector, folder, begin_ns = fleet
    (row,) = collector.ask(boundary="facility", by="model", site="ams")["rows"]
    assert row["coverage"] == pytest.approx(2 / 3)
    assert row["joules_per_request"] is None
    assert "no PUE is known for 33.3% of the time" in row["reasons"]["joules_per_request"]
    assert row["energy_j"] == pytest.approx(hour_j(550.0) * 2 * 1.1, rel=1e-6)
    warned = [one for one in collector.ask(boundary="facility", site="ams")["warnings"] if one["code"] == "series_gap"]
    assert [(one["site"], one["series"], one["missing_hours"]) for one in warned] == [("ams", "pue", 1)]
    pue = folder / "pue.csv"
    before = pue.read_text()
    pue.write_text(f"{rfc3339(begin_ns)},1.5\n")
    (row,) = collector.ask(boundary="facility", by="model", site="ams")["rows"]
    assert (row["coverage"], row["energy_j"]) == (1.0, pytest.approx(hour_j(550.0) * 3 * 1.5, rel=1e-6))
    assert row["cost"] == pytest.approx(j_to_kwh(row["energy_j"]) * 0.25)
    assert row["reasons"]["co2_kg"].startswith("the carbon intensity is known for 0.0%")
    pue.write_text("nonsense")
    answer = collector.ask(boundary="facility", by="model", site="ams")
    assert answer["rows"] == [row]
    assert "file_not_read" in [one["code"] for one in answer["warnings"]]
    pue.write_text(before)


def test_the_report_prints_what_it_costs(collector: Collector) -> None:
    text = run("report", "--collector", collector.url, "--since", "all", "--by", "model,site", "--cost").stdout
    costs = text.split("Cost and CO2\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[:3] for line in costs[1:]] == [
        ["large", "ams", "facility"],
        ["large", "fra", "facility"],
        ["small", "fra", "facility"],
    ]
    assert "cost/M output tokens" in costs[0] and " USD" in costs[1] and " EUR" in costs[2]
    assert "What pools use beside their engines" in text
    assert "not in these figures: servers without an agent" in text
    assert "warning silent_servers: pool 'chat': 90.0%" in text


def test_minutes_are_refused(collector: Collector) -> None:
    with pytest.raises(HTTPError) as refused:
        collector.ask(boundary="facility", step="minute")
    assert refused.value.code == 400
    assert b"'facility' is known by whole hours" in refused.value.read()
