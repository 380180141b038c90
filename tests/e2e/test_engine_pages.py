"""Two scrapes of each kind of page and the joules between them, from the server to the figures of a report.

The energies and figures are worked examples, one for each kind of counting: at each step, at the end of a request, in
busy seconds, without requests, and what may stand on a page and must not be counted.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fixtures.collectors import Collector
from fixtures.engine_pages import LLAMA_CPP_PAGE, SGLANG_PAGE, TGI_PAGE, TRITON_PAGE, VLLM_MODEL, VLLM_PAGE
from fixtures.scrapes import page
from fixtures.virtual_agent import AgentOf, Clock
from fixtures.web_service import WebService
from joulefleet.describe import Engine, Meter
from joulefleet.reading import MeterReading, Reading
from joulefleet.units import NS_PER_S, j_to_uj
from joulefleet.window import EngineWindow
from joulefleet_plugins.work import openmetrics

STEP_S = 60

Counted = Callable[..., EngineWindow]
"""Reads two scrapes a minute apart beside boards that used so many joules meanwhile; gives what the window tells."""


class Boards:
    """Boards whose counters rose by so much from the first reading to the second."""

    period_ns = deadline_ns = NS_PER_S

    def __init__(self, used_j: dict[str, float], clock: Clock) -> None:
        self._used_j, self._clock, self._began_ns = used_j, clock, clock()
        self.declares: tuple[Meter | Engine, ...] = tuple(
            Meter(id=name, kind="accelerator", grade="counter", sensor_class="onboard") for name in used_j
        )

    def read(self) -> list[Reading]:
        is_later = self._clock() > self._began_ns
        return [MeterReading(meter=name, counter_uj=j_to_uj(j) if is_later else 0) for name, j in self._used_j.items()]


@pytest.fixture
def service() -> Iterator[WebService]:
    running = WebService()
    running.headers = {"Content-Type": "text/plain; version=0.0.4"}
    yield running
    running.end()


@pytest.fixture
def counted(service: WebService, agent_of: AgentOf, hosted: Collector, clock: Clock) -> Counted:
    def scrape_twice(
        text: str, used_j: dict[str, float], sent: Callable[[str], bytes] | None = None, **config: Any
    ) -> EngineWindow:
        agent = agent_of("s", STEP_S)
        service.content = (sent or str.encode)(page(text, 0))
        table = {"url": f"http://127.0.0.1:{service.port}", "devices": list(used_j), **config}
        agent.open(boards=Boards(used_j, clock), engine=openmetrics.open(table))
        for column in (0, 1):
            service.content = (sent or str.encode)(page(text, column))
            agent.read("boards")
            agent.read("engine")
            clock.now_ns += STEP_S * NS_PER_S * (1 - column)
        agent.finish()
        (window,) = hosted.windows()
        (engine,) = window.engines
        assert engine.covered_ns == STEP_S * NS_PER_S
        return engine

    return scrape_twice


def told(engine: EngineWindow, model: str) -> dict[str, int]:
    """What was counted for a model."""
    (counts,) = [work.counts for work in engine.work if work.key.model == model]
    return {name: value for name in counts.__struct_fields__ if (value := getattr(counts, name)) is not None}


def row(hosted: Collector, **where: str) -> dict[str, Any]:
    """The only row of a question for the boards' boundary."""
    (found,) = hosted.ask(boundary="accelerator", **where)["rows"]
    return dict(found)


def phase(hosted: Collector, name: str) -> dict[str, Any]:
    (found,) = [one for one in hosted.ask(boundary="accelerator", by="phase")["rows"] if one["phase"] == name]
    return dict(found)


def test_vllm_counts_at_each_step_and_cached_prompts_cost_no_prefill(counted: Counted, hosted: Collector) -> None:
    engine = counted(VLLM_PAGE, {"gpu-0": 960.0, "gpu-1": 1_040.0})
    assert told(engine, VLLM_MODEL) == {
        "requests_ok": 19,
        "requests_aborted": 0,
        "prompt_tokens": 1_500,
        "cached_tokens": 800,
        "output_tokens": 2_000,
    }
    figures = row(hosted)
    assert figures["joules_per_output_token"] == 1.0
    assert figures["joules_per_request"] == pytest.approx(105.263, abs=5e-4)
    assert figures["edge_bound"] == pytest.approx((10 - 7) / 19)
    assert phase(hosted, "prefill")["energy_j"] == pytest.approx(67.633, abs=5e-4)
    assert phase(hosted, "decode")["energy_j"] == pytest.approx(2_000 - 67.633, abs=5e-4)


def test_sglang_counts_cached_tokens_once_and_output_in_real_time(counted: Counted, hosted: Collector) -> None:
    engine = counted(SGLANG_PAGE, {"gpu-0": 2_550.0})
    assert told(engine, "Qwen/Qwen3-8B") == {
        "requests_ok": 16,
        "requests_aborted": 0,
        "prompt_tokens": 8_000,
        "cached_tokens": 1_500,
        "output_tokens": 5_100,
    }
    figures = row(hosted)
    assert figures["joules_per_output_token"] == 0.5
    assert figures["joules_per_request"] == 159.375
    assert figures["edge_bound"] == 0.125
    assert any("requests in flight" in note for note in figures["notes"])


def test_sglang_without_real_time_counts_tells_output_when_requests_end(counted: Counted, hosted: Collector) -> None:
    older = "\n".join(line for line in SGLANG_PAGE.splitlines() if "realtime" not in line)
    engine = counted(older, {"gpu-0": 2_550.0})
    assert told(engine, "Qwen/Qwen3-8B")["output_tokens"] == 5_000
    assert row(hosted)["joules_per_output_token"] == 0.51


def test_tgi_counts_a_chat_once_and_its_model_is_asked_for(
    counted: Counted, hosted: Collector, service: WebService
) -> None:
    info = {"model_id": "org/model", "model_sha": "8f3a", "version": "3.3.4"}
    service.pages["/info"] = json.dumps(info).encode()
    engine = counted(TGI_PAGE, {"gpu-0": 4_000.0})
    assert told(engine, "org/model") == {
        "requests_ok": 20,
        "requests_failed": 1,
        "requests_aborted": 0,
        "prompt_tokens": 6_300,
        "output_tokens": 2_000,
    }
    figures = row(hosted, by="model,revision,version")
    assert (figures["model"], figures["revision"], figures["version"]) == ("org/model", "8f3a", "3.3.4")
    assert figures["joules_per_request"] == 200.0
    assert figures["joules_per_output_token"] == 2.0


def test_triton_tells_busy_seconds_of_batches_without_the_ensemble(counted: Counted, hosted: Collector) -> None:
    used_j = 4883831.328000044 - 4879631.328000044
    engine = counted(TRITON_PAGE, {"gpu-0": used_j}, leave_out=["ens_resnet"])
    assert told(engine, "resnet50") == {
        "requests_ok": 600,
        "requests_failed": 4,
        "busy_ns": 1_333_333_333,
    }
    assert told(engine, "bert") == {
        "requests_ok": 200,
        "requests_failed": 0,
        "busy_ns": 1_500_000_000,
    }
    assert {one["model"] for one in hosted.ask(boundary="accelerator", by="model")["rows"]} == {"resnet50", "bert"}


@pytest.mark.parametrize("escaped", [False, True])
def test_llama_cpp_tells_its_phases_by_busy_seconds_and_no_requests(
    counted: Counted, hosted: Collector, service: WebService, escaped: bool
) -> None:
    service.pages["/props"] = b'{"model_path": "/models/q8.gguf", "build_info": "b7010"}'
    # Some builds wrote the whole page as one string of JSON.
    engine = counted(LLAMA_CPP_PAGE, {"gpu-0": 39_087.0}, (lambda text: json.dumps(text).encode()) if escaped else None)
    assert told(engine, "/models/q8.gguf") == {
        "prompt_tokens": 200,
        "output_tokens": 300,
        "busy_ns": pytest.approx(390.87e9),
        "prefill_busy_ns": pytest.approx(84.37e9),
    }
    figures = row(hosted)
    assert figures["joules_per_request"] is None
    assert "does not tell" in figures["reasons"]["joules_per_request"]
    prefill, decode = phase(hosted, "prefill"), phase(hosted, "decode")
    assert prefill["energy_j"] / 39_087 == pytest.approx(0.21585, abs=5e-6)
    assert prefill["energy_j"] / 200 == pytest.approx(42.185, abs=5e-4)
    assert decode["joules_per_output_token"] == pytest.approx(102.167, abs=5e-4)
