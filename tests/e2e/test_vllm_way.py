"""An inference server's own counters to the report: under real arrivals, through a restart, and while it is silent."""

import csv
import heapq
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import pytest

from fixtures.collectors import Collector
from fixtures.fake_vllm import FakeVllm
from fixtures.recorded import DATA, needs_data, seconds
from fixtures.virtual_agent import AgentOf, Clock, Part, VirtualAgent
from joulefleet.grid import floor_to
from joulefleet.reading import Counts, WorkReading
from joulefleet.units import NS_PER_S, s_to_ns
from joulefleet_plugins.meters.simulated import SERVER, SimulatedConfig, SimulatedServer
from joulefleet_plugins.work import openmetrics

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
SCRAPE_NS = 5 * NS_PER_S
STEP_NS = 60 * NS_PER_S
NS_PER_TOKEN = s_to_ns(0.02)
COUNTED = ("requests_ok", "prompt_tokens", "output_tokens")
POWERED = SimulatedConfig(start_s=1_600_000_000, daily_swing=0, period_s=5)
"""A server of constant power whose counters stood at 0 before all that happens here."""

Arrival = tuple[int, int, int]
"""When a request arrives, in nanoseconds since 1970, and its prompt and output tokens."""


class Served:
    """A fake vLLM that serves arrivals in the test's time, and a tally of all that it ever counted."""

    def __init__(self, fake: FakeVllm, arrivals: Iterable[Arrival]) -> None:
        """The arrivals are in the order of time."""
        self._fake = fake
        self._coming = deque(arrivals)
        self._ends: list[tuple[int, int]] = []
        """When each request in flight ends, and its output tokens."""
        self.counted: Counter[str] = Counter()

    @property
    def is_done(self) -> bool:
        """Whether every request has come and ended."""
        return not self._coming and not self._ends

    def run_until(self, at_ns: int) -> None:
        """Let requests come and end. A prompt is counted when it comes, output when the request ends."""
        while self._coming and self._coming[0][0] <= at_ns:
            came_ns, prompt, output = self._coming.popleft()
            self._fake.generate(prompt, 0)
            self.counted += Counter(prompt_tokens=prompt)
            heapq.heappush(self._ends, (came_ns + NS_PER_TOKEN * output, output))
        while self._ends and self._ends[0][0] <= at_ns:
            _, output = heapq.heappop(self._ends)
            self._fake.serve(0, output, latency_s=0.02 * output)
            self.counted += Counter(requests_ok=1, output_tokens=output)
        self._fake.running = len(self._ends)

    def restart(self, at_ns: int, version: str) -> None:
        """Another process from then on; what is in flight never ends."""
        self.run_until(at_ns)
        self._ends.clear()
        self._fake.restart(version)


class Watched:
    """The agent beside that server: every five seconds it scrapes it and reads the server's input."""

    def __init__(self, agent: VirtualAgent, fake: FakeVllm, served: Served, clock: Clock) -> None:
        self.began_ns = clock()
        self.seen: Counter[str] = Counter()
        """The tally at the last scrape that had an answer."""
        self.power = SimulatedServer(POWERED, clock)
        self._served = served
        self._agent = agent
        self._clock = clock
        agent.open(engine=openmetrics.open({"url": fake.url}), input=Part(self.power, {SERVER}))

    def scrape(self, at_ns: int) -> None:
        """Let time go on until then, and read."""
        self._clock.now_ns = at_ns
        self._served.run_until(at_ns)
        if any(isinstance(one, WorkReading) for one in self._agent.read("engine")):
            self.seen = self._served.counted.copy()
        self._agent.read("input")
        self._agent.tick()

    def finish(self) -> float:
        """Deliver everything; the joules from the first reading to the last."""
        self._agent.finish()
        return self.power.truth(self.began_ns, self._clock()).server_j


@pytest.fixture
def fake() -> Iterator[FakeVllm]:
    with FakeVllm(model=MODEL, version="0.14.0") as server:
        yield server


def conversations() -> Iterator[Arrival]:
    """All requests of the recorded service."""
    with (DATA / "azure" / "AzureLLMInferenceTrace_conv.csv").open() as lines:
        for row in csv.DictReader(lines):
            # The file has one digit more than is read of a time.
            at_s = seconds(row["TIMESTAMP"][:26], "%Y-%m-%d %H:%M:%S.%f")
            yield s_to_ns(at_s), int(row["ContextTokens"]), int(row["GeneratedTokens"])


def told(row: dict[str, Any]) -> Counter[str]:
    """All work that a row of a report tells: with energy beside it, without, and late."""
    kinds = ("", "unmetered_", "late_")
    return Counter({name: round(sum(row[kind + name] or 0 for kind in kinds)) for name in COUNTED})


@needs_data
def test_under_real_arrivals_all_is_counted_but_what_a_restart_hid(
    agent_of: AgentOf, hosted: Collector, clock: Clock, fake: FakeVllm
) -> None:
    arrivals = list(conversations())
    clock.now_ns = floor_to(arrivals[0][0], STEP_NS)
    served = Served(fake, arrivals)
    watched = Watched(agent_of("llm-1"), fake, served, clock)
    restart_ns = clock() + s_to_ns(1_803.2)
    hidden: Counter[str] | None = None
    for at_ns in count(clock(), SCRAPE_NS):
        if hidden is None and at_ns > restart_ns:
            served.restart(restart_ns, version="0.15.0")
            hidden = served.counted - watched.seen
        watched.scrape(at_ns)
        if served.is_done:
            break
    energy_j = watched.finish()
    assert hidden is not None and all(hidden[name] > 0 for name in COUNTED)
    assert served.counted["requests_ok"] > 19_000

    answer = hosted.report("--by", "model")
    (row,) = answer["rows"]
    assert (row["model"], row["boundary"]) == (MODEL, "server")
    assert told(row) == served.counted - hidden
    assert (row["restarts"], row["status"]) == (1, "ok")
    (restarted,) = [one for one in answer["warnings"] if one["code"] == "engine_restarted"]
    assert (restarted["model"], restarted["restarts"]) == (MODEL, 1)
    (ledger,) = answer["ledger"]
    assert ledger["metered_j"] == pytest.approx(energy_j, rel=1e-9)
    assert ledger["residual_uj"] == 0
    versions = {one["version"]: told(one) for one in hosted.report("--by", "version")["rows"]}
    assert versions.keys() == {"0.14.0", "0.15.0"}
    assert versions["0.14.0"] + versions["0.15.0"] == served.counted - hidden


def test_a_silent_server_is_a_gap_and_not_zero(
    agent_of: AgentOf, hosted: Collector, clock: Clock, fake: FakeVllm
) -> None:
    """Twenty minutes of a request a second; from 301 s to 452 s the server gives no answer, and works on."""
    began_ns = clock()
    served = Served(fake, [(began_ns + second * NS_PER_S, 100, 25) for second in range(1, 1_200)])
    watched = Watched(agent_of("llm-1"), fake, served, clock)
    for place in range(1_200 // 5 + 1):
        if 301 <= place * 5 < 452:
            fake.refuse()
        else:
            fake.accept()
        watched.scrape(began_ns + place * SCRAPE_NS)
    watched.finish()

    stored = [window.engines[0] for window in hosted.windows()]
    silent, after = stored[5:7], stored[7]
    assert [(one.covered_ns, one.gaps_ns) for one in silent] == [(0, {"scrape_failed": STEP_NS})] * 2
    assert [[work.counts for work in one.work] for one in silent] == [[Counts()]] * 2
    (late,) = [work.late for work in after.work]
    assert (late.requests_ok, late.output_tokens, after.covered_ns) == (120, 3_000, STEP_NS)

    answer = hosted.report("--by", "model")
    (row,) = answer["rows"]
    assert told(row) == served.counted
    assert (row["status"], row["coverage"], row["late_requests_ok"]) == ("partial", 0.9, 120)
    (ledger,) = answer["ledger"]
    assert ledger["unmatched_j"] == pytest.approx(ledger["metered_j"] / 10, rel=1e-6)
    # 25 tokens a second at constant power: what the silence hid is on neither side of the ratio.
    per_s = watched.power.truth(clock() - NS_PER_S, clock()).server_j
    assert row["joules_per_output_token"] == pytest.approx(per_s / 25, rel=2e-3)
    between = hosted.ask(since=str(began_ns // NS_PER_S + 300), until=str(began_ns // NS_PER_S + 420))["rows"]
    assert [(one["requests_ok"], one["unmetered_requests_ok"], one["status"]) for one in between] == [
        (None, None, "refused")
    ]
