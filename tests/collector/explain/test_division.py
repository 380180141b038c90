"""A figure of a tenant or a phase is explained as the part of the whole that it is."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from joulefleet.describe import Meter
from joulefleet.reading import Counts, WorkKey
from joulefleet.window import EngineWindow, MeterWindow, Window, Work
from joulefleet_collector.answer.rates import Sites, SiteSeries
from joulefleet_collector.answer.series import Constant
from joulefleet_collector.api import BadQuestion
from joulefleet_collector.explain.explain_text import explained
from joulefleet_collector.sites import Places

Shared = Callable[..., Window]
Put = Callable[..., int]
Tell = Callable[..., dict[str, Any]]


def work(tenant: str, output: int, prompt: int = 0) -> Work:
    counts = Counts(requests_ok=output, prompt_tokens=prompt, cached_tokens=0, output_tokens=output)
    return Work(key=WorkKey("m", "", tenant), counts=counts)


@pytest.fixture
def alone(shared: Shared, an_engine: Callable[..., EngineWindow]) -> Callable[..., Window]:
    """A window of one engine that has the board to itself and does this work; and of what stands before it."""

    def made(*works: Work, minute: int = 0, front: tuple[Work, ...] = ()) -> Window:
        one = an_engine("a", 1.0, 30, 0, work=works)
        gateway = an_engine("front", 0.0, 0, 0, work=front)
        gateway.engine = msgspec.structs.replace(gateway.engine, software="litellm", front=True, devices=())
        return shared(minute, engines=(one, gateway) if front else (one,))

    return made


def test_a_tenant_has_its_part_of_each_hour(put: Put, told: Tell, alone: Callable[..., Window]) -> None:
    put(alone(work("x", 30), work("y", 10)), alone(work("x", 10), work("y", 10), minute=60))
    found = told(model="m", tenant="x")
    divided = found["division"]
    assert [round(hour["share"], 9) for hour in divided["hours"]] == [0.75, 0.5]
    assert (divided["figure_j"], divided["whole_j"]) == (24_750 + 16_500, 66_000)
    assert divided["told_by"] == "engines"
    assert [(one["tenant"], one["counts"]["output_tokens"]) for one in divided["tenants"]] == [("x", 40), ("y", 20)]
    assert found["equation"].startswith(
        "41,250.0 J (made by the hour of 2 windows of 60 s, 1 server) / 40 output tokens = 1,031 J/token"
    )
    assert found["check"]["agrees"] and found["check"]["fields"][0]["windows"] == 120.0
    assert found["boundary"]["figure_j"] == 66_000.0


def test_where_a_gateway_tells_the_tenants_its_ratios_are_used(
    put: Put, told: Tell, alone: Callable[..., Window]
) -> None:
    put(alone(work("", 100), front=(work("x", 20), work("y", 60))))
    divided = told(model="m", tenant="y")["division"]
    assert (divided["told_by"], divided["hours"][0]["share"]) == ("gateway", 0.75)
    assert "by a gateway's counts, as ratios of the engines' own" in divided["ways"][0]


def test_a_phase_is_told_with_what_it_rests_on(put: Put, told: Tell, alone: Callable[..., Window]) -> None:
    put(alone(work("", 10, prompt=100)))
    found = told(figure="joules_per_prompt_token", model="m", phase="prefill")
    # 100 prompt tokens at weight 1, 10 output tokens at weight 10: half of the energy each.
    assert found["division"]["hours"][0]["share"] == 0.5
    assert found["equation"].endswith("/ 100 computed prompt tokens = 165 J/token")
    assert found["division"]["tenants"] == [] and found["division"]["ways"][0].startswith("phases: ")
    said = explained(found, None, False)
    assert "How it was made of hours\n4.583 Wh from 9.167 Wh of its engines: 50.0%\n- phases: " in said
    assert "= 9.167 Wh its engines" in said


def test_what_is_stored_as_it_is_was_not_made(put: Put, told: Tell, shared: Shared) -> None:
    put(shared())
    assert told(model="model-a")["division"] is None


def at_server(shared: Shared, an_engine: Callable[..., EngineWindow], **changes: Any) -> Window:
    """A server of 60,000 J of which 6,000 J are idle, and one engine with half of its board."""
    window = shared(site="fra", pool="chat", engines=(an_engine("a", 0.5, 30, 600),))
    psu = MeterWindow(
        meter=Meter(id="psu", kind="server", grade="integrated", sensor_class="platform"),
        energy_uj=60_000_000_000,
        last_uj=60_000_000_000,
        covered_ns=window.step_ns,
        idle_mw=100_000,
        idle_learnt=True,
    )
    return msgspec.structs.replace(window, meters=(*window.meters, psu), **changes)


def test_a_facility_is_its_servers_their_pool_and_the_rates_of_its_site(
    put: Put, told: Tell, shared: Shared, an_engine: Callable[..., EngineWindow]
) -> None:
    put(at_server(shared, an_engine))
    site = SiteSeries(pue=Constant(1.5), price_per_kwh=Constant(0.36), currency="EUR")
    found = told(figure="cost", model="model-a", places=Places(sites=Sites({"fra": site})))
    # Half of the 6,000 idle joules is nobody's, and paid by the one engine of the pool: all is its.
    assert found["value"] == pytest.approx(1.5 * 60_000 / 3_600_000 * 0.36)
    assert found["equation"].endswith("at the price of power of each hour = 0.009 EUR")
    divided = found["division"]
    assert (divided["hours"][0]["whole_j"], divided["hours"][0]["figure_j"]) == (57_000.0, 90_000.0)
    assert divided["rates"][0]["site"] == "fra" and divided["rates"][0]["rates"]["pue"] == 1.5
    assert [way.split(":")[0] for way in divided["ways"]] == ["fleet", "facility"]
    assert found["check"]["agrees"] and found["windows"]["counted"] == 1
    said = explained(found, None, False)
    assert "2027-01-15T08:00:00Z at fra: PUE 1.5, 0.36 EUR/kWh" in said
    assert "not in it: servers without an agent" in said


def test_cost_is_of_the_facility_alone(told: Tell) -> None:
    with pytest.raises(BadQuestion, match="cost and CO2 are figures of the boundary facility, and not of server"):
        told(figure="cost", boundary="server")
