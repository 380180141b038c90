"""Tenants, phases, versions and replica groups, from windows to the report: nothing is lost in dividing and joining."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from fixtures.collectors import Collector
from fixtures.sums import send
from fixtures.virtual_agent import AgentOf, Clock, SteadyEngine, VirtualAgent
from joulefleet.describe import Engine, Grade, Meter, Reservation
from joulefleet.grid import HOUR_NS
from joulefleet.reading import Counts, MeterReading, Reading, WorkKey
from joulefleet.units import j_to_uj, mw_ns_to_uj, s_to_ns
from joulefleet.window import EngineWindow, MeterWindow, Window, Work
from joulefleet_plugins.work import member

STEP_S = 600
HOURS = 5
DAY_NS = 24 * HOUR_NS
TENANTS = ("acme", "beta", "")
BOARD = Meter(id="gpu", kind="accelerator", grade="counter", sensor_class="onboard", hw_model="H100")
HOLDS = (Reservation("gpu"),)


def window(server: str, start_ns: int, joules: float, *engines: EngineWindow) -> Window:
    """One server's account of ten minutes, with one board."""
    step_ns = s_to_ns(STEP_S)
    energy_uj = j_to_uj(joules)
    board = MeterWindow(
        meter=BOARD, energy_uj=energy_uj, last_uj=energy_uj, covered_ns=step_ns, idle_mw=90_000, idle_learnt=True
    )
    boards = (board,) if joules else ()
    return Window(server=server, timeline=1, start_ns=start_ns, step_ns=step_ns, meters=boards, engines=engines)


def engine(name: str, works: list[Work], **declared: Any) -> EngineWindow:
    """An engine that was covered all the time."""
    described = Engine(id=name, software="vllm", **{"devices": HOLDS, **declared})
    return EngineWindow(engine=described, work=tuple(works), covered_ns=s_to_ns(STEP_S))


def works(chance: random.Random, model: str, tenants: tuple[str, ...] = ("",)) -> list[Work]:
    """What was done for each of them; sometimes nothing."""
    done = []
    for tenant in tenants:
        requests = chance.choice((0, 1)) * chance.randrange(200)
        prompts = requests * chance.randrange(500)
        cached = chance.randrange(prompts + 1)
        counts = Counts(
            requests_ok=requests,
            requests_failed=0,
            prompt_tokens=prompts,
            cached_tokens=cached,
            output_tokens=requests * chance.randrange(300),
        )
        done.append(Work(key=WorkKey(model, "", tenant), counts=counts))
    return done


def fleet(begin_ns: int) -> Iterator[Window]:
    """A model behind a gateway that tells tenants, of two versions; one whose engine tells them; a group of two."""
    chance = random.Random(5)
    for start_ns in range(begin_ns, begin_ns + HOURS * HOUR_NS, s_to_ns(STEP_S)):
        version = "1" if start_ns < begin_ns + 2.5 * HOUR_NS else "2"
        behind = works(chance, "llama")
        own, more = works(chance, "qwen", TENANTS), works(chance, "qwen", ("zeta",))
        big = works(chance, "big", TENANTS)
        joules = [chance.uniform(54_000, 400_000) for _ in range(5)]
        yield window("s1", start_ns, joules[0], engine("e", behind, version=version))
        yield window("s2", start_ns, joules[1], engine("e", own, version="9"))
        yield window("s5", start_ns, joules[4], engine("e", more, version="9"))
        yield window("s3", start_ns, joules[2], engine("e", big, group="tp", group_size=2))
        yield window("s4", start_ns, joules[3], engine("member", [], group="tp", group_size=2))
        yield window("gw", start_ns, 0, engine("gw", works(chance, "llama", ("acme", "zeta")), front=True, devices=()))


@pytest.fixture
def reported(hosted: Collector, clock: Clock) -> Collector:
    """Five hours around a midnight are stored."""
    midnight_ns = clock.now_ns - clock.now_ns % DAY_NS
    begin_ns = midnight_ns - 2 * HOUR_NS
    clock.now_ns = begin_ns + HOURS * HOUR_NS
    status, body = send(hosted, list(fleet(begin_ns)))
    assert status == 200 and "rejected" not in body
    return hosted


def totals(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[tuple[str, str], dict[str, int]]:
    """Sums by step and boundary, energy in whole microjoules."""
    sums: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows:
        into = sums.setdefault((row.get("start", ""), row["boundary"]), dict.fromkeys(names, 0))
        for name in names:
            if row[name] is not None:
                into[name] += j_to_uj(row[name]) if name.endswith("_j") else round(row[name])
    return sums


ENERGY = ("energy_j", "active_j", "idle_j")
COUNTS = ("requests_ok", "prompt_tokens", "cached_tokens", "output_tokens")


@pytest.mark.parametrize("step", ["none", "hour", "day"])
@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("tenant", (*ENERGY, *COUNTS)),
        ("model,tenant", (*ENERGY, *COUNTS)),
        ("model,version", (*ENERGY, *COUNTS)),
        ("version,hardware,tenant", (*ENERGY, *COUNTS)),
        ("phase", (*ENERGY, *COUNTS[1:])),
        ("model,tenant,phase", (*ENERGY, *COUNTS[1:])),
    ],
)
def test_what_is_told_apart_adds_up_to_the_whole(
    reported: Collector, step: str, by: str, names: tuple[str, ...]
) -> None:
    whole = totals(reported.ask(by="", step=step)["rows"], names)
    assert whole and all(all(sums.values()) for sums in whole.values())
    assert totals(reported.ask(by=by, step=step)["rows"], names) == whole


def test_joules_per_request_of_the_phases_add_up(reported: Collector) -> None:
    whole = {row["model"]: row for row in reported.ask(by="model", boundary="accelerator")["rows"]}
    assert set(whole) == {"llama", "qwen", "big"}
    for model, row in whole.items():
        phases = reported.ask(by="phase", model=model, boundary="accelerator")["rows"]
        per_request = [one["joules_per_request"] for one in phases]
        assert sum(per_request) == pytest.approx(row["joules_per_request"], rel=1e-9)
        by_phase = {one["phase"]: one for one in phases}
        assert by_phase["prefill"]["joules_per_prompt_token"] > 0
        assert by_phase["decode"]["joules_per_output_token"] < row["joules_per_output_token"]


def test_a_gateway_tells_shares_and_counts_nothing_itself(reported: Collector) -> None:
    asked = {"model": "llama", "boundary": "accelerator"}
    (whole,) = reported.ask(by="", **asked)["rows"]
    rows = {row["tenant"]: row for row in reported.ask(by="tenant", **asked)["rows"]}
    assert {"acme", "zeta"} <= set(rows)
    assert sum(row["requests_ok"] for row in rows.values()) == whole["requests_ok"]
    (acme,) = reported.ask(by="", tenant="acme", **asked)["rows"]
    assert acme["energy_j"] == rows["acme"]["energy_j"]


def test_an_engines_own_tenants_keep_their_counts(reported: Collector, clock: Clock) -> None:
    counted: dict[str, int] = {}
    for one in fleet(clock.now_ns - HOURS * HOUR_NS):
        for work in one.engines[0].work:
            if work.key.model == "qwen":
                counted[work.key.tenant] = counted.get(work.key.tenant, 0) + (work.counts.output_tokens or 0)
    rows = reported.ask(by="tenant", model="qwen", boundary="accelerator")["rows"]
    assert {row["tenant"]: row["output_tokens"] for row in rows} == counted


def test_a_tenants_joules_do_not_depend_on_what_else_is_told_apart(reported: Collector) -> None:
    """`zeta` used `qwen` on a server of its own."""
    asked = {"model": "qwen", "boundary": "accelerator"}
    alone = {row["tenant"]: row["energy_j"] for row in reported.ask(by="tenant", **asked)["rows"]}
    for by in ("server,tenant", "version,tenant"):
        apart: dict[str, float] = {}
        for row in reported.ask(by=by, **asked)["rows"]:
            apart[row["tenant"]] = apart.get(row["tenant"], 0.0) + row["energy_j"]
        assert apart == {tenant: pytest.approx(energy_j, rel=1e-12) for tenant, energy_j in alone.items()}
    by_server = reported.ask(by="server,tenant", **asked)["rows"]
    assert {row["server"] for row in by_server if row["tenant"] == "zeta"} == {"s5"}


def test_the_command_prints_tenants_and_phases(reported: Collector) -> None:
    rows = reported.report("--by", "tenant,phase")["rows"]
    assert {row["phase"] for row in rows} >= {"prefill", "decode"}
    assert {row["tenant"] for row in rows} >= {"acme", "beta", "zeta"}


def apart(begin_ns: int) -> Iterator[Window]:
    """Prefill and decode on servers of their own: each counts every request, prefill writes the first token of each."""
    prompts = Counts(requests_ok=10, prompt_tokens=5_000, cached_tokens=1_000, output_tokens=10)
    answers = Counts(requests_ok=10, prompt_tokens=5_000, cached_tokens=5_000, output_tokens=2_000)
    for start_ns in range(begin_ns, begin_ns + 2 * HOUR_NS, s_to_ns(STEP_S)):
        for server, joules, counts, phase in (("p", 60_000, prompts, "prefill"), ("d", 240_000, answers, "decode")):
            done = [Work(key=WorkKey("big"), counts=counts)]
            yield window(server, start_ns, joules, engine("e", done, group="pd", group_size=2, phase=phase))


def test_prefill_and_decode_on_servers_of_their_own_count_each_request_once(hosted: Collector, clock: Clock) -> None:
    begin_ns = clock.now_ns
    clock.now_ns += 2 * HOUR_NS
    assert send(hosted, list(apart(begin_ns)))[0] == 200
    asked = {"boundary": "accelerator", "group": "pd"}
    (whole,) = hosted.ask(by="model,server", **asked)["rows"]
    assert (whole["server"], whole["energy_j"], whole["requests_ok"]) == ("d+p", 3_600_000, 120)
    assert (whole["joules_per_request"], whole["joules_per_output_token"]) == (30_000, 150)
    assert whole["joules_per_total_token"] == pytest.approx(3_600_000 / (12 * (4_000 + 2_000)))
    prefill, decode = sorted(hosted.ask(by="phase", **asked)["rows"], key=lambda row: -len(row["phase"]))
    assert (prefill["energy_j"], prefill["joules_per_prompt_token"]) == (720_000, 15)
    assert (decode["energy_j"], decode["joules_per_output_token"]) == (2_880_000, 120)
    assert prefill["joules_per_request"] + decode["joules_per_request"] == 30_000


WATTS, TOKENS_PER_S = 400, 100
MINUTES = 5
"""Between two readings."""
GROUP = {"software": "vllm", "group": "tp", "group_size": 2, "devices": ("gpu",)}


class Board:
    """A board of 400 W that tells its energy or its power."""

    period_ns = deadline_ns = s_to_ns(MINUTES * 60)

    def __init__(self, clock: Clock, grade: Grade) -> None:
        board = Meter(id="gpu", kind="accelerator", grade=grade, sensor_class="onboard", period_ns=self.period_ns)
        self.declares: tuple[Meter | Engine, ...] = (board,)
        self._counts = grade == "counter"
        self._clock = clock

    def read(self) -> list[Reading]:
        """What it tells at this time of the test; its counter stood at 0 in 1970."""
        power_mw = WATTS * 1_000
        if self._counts:
            return [MeterReading(meter="gpu", counter_uj=mw_ns_to_uj(power_mw * self._clock.now_ns))]
        return [MeterReading(meter="gpu", power_mw=power_mw)]


def begin(agent_of: AgentOf, clock: Clock, server: str, grade: Grade) -> VirtualAgent:
    """An agent of one of the two servers: on `a` is the page with the group's work."""
    agent = agent_of(server, STEP_S)
    page = Engine(id="vllm", **{**GROUP, "devices": HOLDS})
    engine = SteadyEngine("big", TOKENS_PER_S, clock, page) if server == "a" else member.open(dict(GROUP))
    agent.open(board=Board(clock, grade), engine=engine)
    return agent


@pytest.mark.parametrize(("grade", "refused"), [("integrated", {2}), ("counter", set())])
def test_an_hour_in_which_a_member_is_not_known_is_refused_and_the_others_are_right(
    agent_of: AgentOf, hosted: Collector, clock: Clock, grade: Grade, refused: set[int]
) -> None:
    """The agent of `b` is down from two to three. A board with a counter tells of that hour afterwards."""
    agents = {server: begin(agent_of, clock, server, grade) for server in "ab"}
    begin_ns = clock.now_ns
    for minute in range(0, 5 * 60 + 1, MINUTES):
        clock.now_ns = begin_ns + s_to_ns(minute * 60)
        if minute == 2 * 60 + MINUTES:
            agents.pop("b").close()
        if minute == 3 * 60:
            agents["b"] = begin(agent_of, clock, "b", grade)
        for agent in agents.values():
            agent.read("board")
            agent.read("engine")
            agent.tick()
    for agent in agents.values():
        agent.finish()
    rows = hosted.ask(by="model,group,server", step="hour", boundary="accelerator")["rows"]
    assert [(row["model"], row["group"], row["server"]) for row in rows] == [("big", "tp", "a+b")] * 5
    for hour, row in enumerate(rows):
        done, known = TOKENS_PER_S * 3600, hour not in refused
        assert row["joules_per_output_token"] == (2 * WATTS / TOKENS_PER_S if known else None)
        assert row["energy_j"] == (2 * WATTS * 3600 if known else 0)
        assert (row["output_tokens"], row["unmetered_output_tokens"]) == ((done, 0) if known else (0, done))
        assert row["coverage"] == (1 if known else 0)
    answer = hosted.ask(by="group", boundary="accelerator")
    assert ("group_incomplete" in [one["code"] for one in answer["warnings"]]) == bool(refused)
    (day,) = answer["rows"]
    assert day["coverage"] == pytest.approx(1 - len(refused) / 5)
    assert day["joules_per_output_token"] == 2 * WATTS / TOKENS_PER_S
