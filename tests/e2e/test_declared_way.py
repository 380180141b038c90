"""Cards without a meter, from the counter of their server's BMC to the ledger: what is left is exact, and left once."""

import json
import random
from collections.abc import Iterator

import pytest

from fixtures.collectors import Collector
from fixtures.virtual_agent import AgentOf, Clock, SteadyEngine, each_s
from fixtures.web_service import WebService
from joulefleet.units import j_to_uj
from joulefleet.window import MeterWindow
from joulefleet_plugins.meters import declared

SECONDS, STEP_S = 300, 60
HOST_W = 400
SILENT_S = range(130, 140)
"""Seconds in which the BMC does not answer; its counter goes on."""
RESTART_S = 200
"""When the BMC is started anew and counts from 0; what it used in the second before is not known."""


@pytest.fixture
def bmc() -> Iterator[WebService]:
    made = WebService()
    yield made
    made.end()


@pytest.fixture
def used_j(bmc: WebService, agent_of: AgentOf, hosted: Collector, clock: Clock) -> list[int]:
    """Five minutes of a server, read each second and delivered; what it used from second to second."""
    chance = random.Random(7)
    used_j = [chance.randrange(1_500, 2_500) for _ in range(SECONDS)]
    meter = {"id": "bmc", "kind": "server", "json": {"energy_j": "/energy"}, "max_power_w": 4_000}
    url = f"http://127.0.0.1:{bmc.port}/"
    server = {"use": "http_json", "url": url, "period_s": 1, "timeout_s": 20, "meters": [meter]}
    agent = agent_of("lpu-1", STEP_S)
    bmc.content = b'{"energy": 1000}'
    table = {"profile": "groq-lpu", "host_w": HOST_W, "server": server}
    agent.open(declared=declared.opened(table, clock), engine=SteadyEngine("m", 100, clock))
    for second in each_s(clock, SECONDS):
        energy_j = 1_000 + sum(used_j[:second]) if second < RESTART_S else sum(used_j[RESTART_S:second])
        bmc.content = json.dumps({"energy": energy_j}).encode()
        bmc.status = 503 if second in SILENT_S else 200
        agent.read("declared")
        agent.read("engine")
        agent.tick()
    agent.finish()
    return used_j


def by_meter(hosted: Collector, name: str) -> list[MeterWindow]:
    return [meter for window in hosted.windows() for meter in window.meters if meter.meter.id == name]


def test_cards_are_the_server_less_its_host_in_each_window(used_j: list[int], hosted: Collector) -> None:
    servers, cards = by_meter(hosted, "bmc"), by_meter(hosted, "groq-lpu")
    assert len(servers) == len(cards) == SECONDS // STEP_S
    for place, (server, card) in enumerate(zip(servers, cards, strict=True)):
        seconds = [s for s in range(place * STEP_S, (place + 1) * STEP_S) if s != RESTART_S - 1]
        assert server.energy_uj + server.late_uj == j_to_uj(sum(used_j[s] for s in seconds))
        assert card.energy_uj + card.late_uj == server.energy_uj + server.late_uj - j_to_uj(HOST_W * len(seconds))
        assert card.covered_ns == server.covered_ns
    assert cards[RESTART_S // STEP_S].gaps_ns == {"epoch": 1_000_000_000}


def test_the_server_is_counted_once_and_its_cards_are_no_second_input(used_j: list[int], hosted: Collector) -> None:
    ledgers = {one["boundary"]: one for one in hosted.report("--by", "server")["ledger"]}
    expected_uj = j_to_uj(sum(used_j) - used_j[RESTART_S - 1])
    assert j_to_uj(ledgers["server"]["metered_j"]) == expected_uj
    assert ledgers["server"]["residual_uj"] == 0
    assert set(ledgers) == {"server"}, "a residual is no measured accelerator"
