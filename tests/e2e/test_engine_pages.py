"""Two scrapes of each kind of page and the joules between them, from the server to the figures of a report.

The energies and figures are worked examples, one for each kind of counting: at each step, at the end of a request, in
busy seconds, without requests, and what may stand on a page and must not be counted.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from fixtures.collectors import Collector
from fixtures.engine_pages import LLAMA_CPP_PAGE, SGLANG_PAGE, TGI_PAGE, TRITON_PAGE, VLLM_MODEL, VLLM_PAGE
from fixtures.two_scrapes import MINUTE_NS, a_minute, showing
from fixtures.virtual_agent import AgentOf, Clock
from joulefleet.window import EngineWindow

Counted = Callable[..., EngineWindow]
"""Scrapes a page twice, a minute apart, beside boards that used so many joules; gives what the window tells of it."""


@pytest.fixture
def counted(agent_of: AgentOf, hosted: Collector, clock: Clock) -> Counted:
    def count(
        text: str, used_j: dict[str, float], asked: dict[str, bytes] | None = None, **config: Any
    ) -> EngineWindow:
        with showing(text, devices=list(used_j), **config) as served:
            served.service.pages = asked or {}
            a_minute(agent_of("s"), clock, used_j, served)
        (window,) = hosted.windows()
        (engine,) = window.engines
        assert engine.covered_ns == MINUTE_NS
        return engine

    return count


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


def test_tgi_counts_a_chat_once_and_its_model_is_asked_for(counted: Counted, hosted: Collector) -> None:
    info = {"model_id": "org/model", "model_sha": "8f3a", "version": "3.3.4"}
    engine = counted(TGI_PAGE, {"gpu-0": 4_000.0}, {"/info": json.dumps(info).encode()})
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


def test_triton_splits_by_busy_seconds_of_batches_without_the_ensemble(counted: Counted, hosted: Collector) -> None:
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
    rows = {one["model"]: one for one in hosted.ask(boundary="accelerator", by="model")["rows"]}
    assert rows.keys() == {"resnet50", "bert"}
    assert rows["resnet50"]["energy_j"] == pytest.approx(1_976.47, abs=5e-3)
    assert rows["bert"]["energy_j"] == pytest.approx(2_223.53, abs=5e-3)
    assert rows["resnet50"]["joules_per_request"] == pytest.approx(3.2941, abs=5e-5)
    assert rows["bert"]["joules_per_request"] == pytest.approx(11.1176, abs=5e-5)
    assert rows["resnet50"]["energy_j"] / (12_800 - 8_000) == pytest.approx(0.41176, abs=5e-6), "an inference"
    assert sum(one["energy_j"] for one in rows.values()) == pytest.approx(4_200)


def in_json(text: str) -> bytes:
    """As some builds wrote the whole page: one string of JSON."""
    return json.dumps(text).encode()


@pytest.mark.parametrize("sent", [str.encode, in_json])
def test_llama_cpp_tells_its_phases_by_busy_seconds_and_no_requests(
    counted: Counted, hosted: Collector, sent: Callable[[str], bytes]
) -> None:
    props = {"/props": b'{"model_path": "/models/q8.gguf", "build_info": "b7010"}'}
    engine = counted(LLAMA_CPP_PAGE, {"gpu-0": 39_087.0}, props, sent=sent)
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
