"""vLLM's pages: two scrapes with their known difference, and the guards against counting twice."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from fixtures.engine_pages import VLLM_MODEL, VLLM_PAGE
from fixtures.scrapes import page
from joulefleet.reading import COUNT_FIELDS, Counts, WorkKey, WorkReading
from joulefleet_plugins.interfaces.exposition import Parser
from joulefleet_plugins.work.table import read_page
from joulefleet_plugins.work.vllm import VLLM

FakeVllm = runpy.run_path(str(Path(__file__).parents[2] / "fixtures" / "fake_vllm.py"))["FakeVllm"]

LLAMA = WorkKey(VLLM_MODEL)


def scrape(column: int, keep: str = "") -> WorkReading:
    """The page's scrape in this column, only with series that have this text."""
    lines = [line for line in VLLM_PAGE.splitlines() if keep in line or line.startswith("#")]
    return read(page("\n".join(lines), column))


def read(text: str) -> WorkReading:
    return read_page(Parser().parse(text), VLLM, "vllm@here")


def difference(a: Counts, b: Counts) -> dict[str, int]:
    pairs = {name: (getattr(a, name), getattr(b, name)) for name in COUNT_FIELDS}
    return {name: after - before for name, (before, after) in pairs.items() if None not in (before, after)}


def test_two_scrapes_of_two_engines() -> None:
    a, b = scrape(0), scrape(1)
    assert a.counts.keys() == b.counts.keys() == {LLAMA}
    delta = difference(a.counts[LLAMA], b.counts[LLAMA])
    assert delta == {
        "requests_ok": 19,
        "requests_aborted": 0,
        "prompt_tokens": 1500,
        "cached_tokens": 800,
        "output_tokens": 2000,
    }
    assert (a.running, b.running, a.queued) == (7, 10, None)
    assert a.epoch == b.epoch == "1753795326.9354987"
    computed = delta["prompt_tokens"] - delta["cached_tokens"]
    assert computed == 700
    assert (b.running - a.running) / delta["requests_ok"] == pytest.approx(3 / 19)
    energy_j = 960 + 1040
    assert energy_j / delta["output_tokens"] == 1.0
    assert energy_j / delta["requests_ok"] == pytest.approx(105.263, abs=5e-4)
    assert energy_j * computed / (computed + 10 * delta["output_tokens"]) == pytest.approx(67.633, abs=5e-4)


def test_tokens_are_those_of_the_steps_and_not_of_finished_requests() -> None:
    delta = difference(scrape(0, 'engine="0"').counts[LLAMA], scrape(1, 'engine="0"').counts[LLAMA])
    assert delta["output_tokens"] == 1000
    assert VLLM.counts_at_finish is False


def test_prompts_that_were_cached_are_part_of_the_prompts() -> None:
    # 8 equal prompts of 59 tokens: 136 computed, 336 found (vllm-project/vllm#56923).
    counts = scrape(0, 'engine="0"').counts[LLAMA]
    assert (counts.prompt_tokens, counts.cached_tokens) == (8 * 59, 336)


def test_kv_that_came_from_elsewhere_is_cached_too() -> None:
    text = 'vllm:prompt_tokens_by_source_total{source="%s"} %d\n'
    page = "".join(text % one for one in [("local_compute", 5), ("local_cache_hit", 20), ("external_kv_transfer", 300)])
    assert read(page + "vllm:prompt_tokens_cached_total 320\n").counts[WorkKey("")].cached_tokens == 320
    assert read("vllm:prompt_tokens_cached_total 320\n").counts[WorkKey("")].cached_tokens == 320


def test_hits_of_the_prefix_cache_are_no_cached_tokens() -> None:
    page = "vllm:prompt_tokens_total 100\nvllm:prefix_cache_queries_total 3000\nvllm:prefix_cache_hits_total 2900\n"
    assert read(page).counts[WorkKey("")] == Counts(prompt_tokens=100)


def test_how_requests_ended() -> None:
    ends = {"stop": 1, "length": 20, "repetition": 300, "abort": 4000, "error": 50000}
    page = "".join(f'vllm:request_success_total{{finished_reason="{how}"}} {n}\n' for how, n in ends.items())
    counts = read(page).counts[WorkKey("")]
    assert (counts.requests_ok, counts.requests_aborted, counts.requests_failed) == (321, 4000, 50000)


def test_clients_that_go_away_add_prompt_tokens_and_no_request() -> None:
    # vllm-project/vllm#55634: five streams of 602 prompt tokens each, aborted.
    before = 'vllm:prompt_tokens_total 0\nvllm:request_success_total{finished_reason="abort"} 0\n'
    a, b = read(before), read(before.replace("total 0", "total 3010", 1))
    delta = difference(a.counts[WorkKey("")], b.counts[WorkKey("")])
    assert delta == {"requests_ok": 0, "requests_aborted": 0, "prompt_tokens": 3010}


def test_the_v0_engine_before_its_first_request() -> None:
    reading = read(
        "# TYPE vllm:request_success_total counter\n"
        '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name="M"} 0.0\n'
        'vllm:num_requests_waiting{model_name="M"} 2.0\nvllm:num_requests_swapped{model_name="M"} 1.0\n'
        'vllm:num_requests_waiting_by_reason{model_name="M",reason="capacity"} 2.0\n'
        'vllm:prompt_tokens_total{model_name="M"} 0.0\nvllm:generation_tokens_total{model_name="M"} 0.0\n'
        'vllm:gpu_prefix_cache_hit_rate{model_name="M"} -1.0\n'
    )
    assert reading.counts == {WorkKey("M"): Counts(requests_ok=0, requests_aborted=0, prompt_tokens=0, output_tokens=0)}
    assert (reading.running, reading.queued) == (0, 2)


def test_inside_triton() -> None:
    labels = '{model="vllm_model",version="1"}'
    page = f"vllm:prompt_tokens_total{labels} 10\nvllm:generation_tokens_total{labels} 16\n"
    page += "nv_inference_request_success" + labels + " 3\n"
    assert read(page).counts == {WorkKey("vllm_model"): Counts(prompt_tokens=10, output_tokens=16)}


def test_latencies_by_their_newer_or_older_names() -> None:
    def page(*names: str) -> str:
        return "".join(
            f'vllm:{name}_bucket{{le="0.5"}} 2\nvllm:{name}_bucket{{le="+Inf"}} 3\nvllm:{name}_created 1.7e9\n'
            for name in names
        )

    both = {"0.5": 2, "+Inf": 1}
    shared = ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_time_per_output_token_seconds")
    every = {WorkKey(""): {"ttft": both, "e2e": both, "itl": both}}
    assert read(page(*shared, "inter_token_latency_seconds")).latency == every
    assert read(page(*shared, "time_per_output_token_seconds")).latency == every
    assert read(page(*shared, "time_per_output_token_seconds", "inter_token_latency_seconds")).latency == every
    assert read(page(*shared)).latency == {WorkKey(""): {"ttft": both, "e2e": both}}


def test_ranks_of_tensor_parallelism_count_once() -> None:
    page = "".join(f'vllm:generation_tokens_total{{engine="0",tp_rank="{rank}"}} 70\n' for rank in range(8))
    assert read(page).counts[WorkKey("")].output_tokens == 70


def test_counters_that_ray_or_a_router_passes_on_count_once() -> None:
    page = (
        'vllm:generation_tokens_total{model_name="M"} 70\n'
        'ray_vllm:generation_tokens_total{model_name="M",WorkerId="a"} 70\n'
        'vllm_generation_tokens_total{model_name="M"} 70\n'
        'dynamo_frontend_output_tokens_total{model="M"} 70\n'
    )
    assert read(page).counts == {WorkKey("M"): Counts(output_tokens=70)}


def test_reasoning_tokens_are_part_of_the_output() -> None:
    page = 'vllm:generation_tokens_total 259\nvllm:reasoning_tokens_total{kind="output"} 100\n'
    assert read(page).counts[WorkKey("")].output_tokens == 259


def test_the_fake_server_tells_what_it_served() -> None:
    with FakeVllm(model="M", engines=2) as fake:
        assert_told(fake)


def assert_told(fake: Any) -> None:
    fake.serve(prompt=512, output=128, latency_s=2.0, cached=256, requests=3)
    fake.serve(prompt=100, output=10, latency_s=0.4, engine=1, reason="length")
    fake.serve(prompt=100, output=3, engine=1, reason="abort")
    fake.generate(prompt=50, output=5)
    fake.running, fake.queued = 4, 2
    reading = read(fake.page())
    assert reading.counts == {
        WorkKey("M"): Counts(
            requests_ok=4,
            requests_failed=0,
            requests_aborted=1,
            prompt_tokens=3 * 512 + 250,
            cached_tokens=3 * 256,
            output_tokens=3 * 128 + 18,
        )
    }
    latency = reading.latency[WorkKey("M")]
    assert {kind: sum(buckets.values()) for kind, buckets in latency.items()} == {"ttft": 5, "itl": 392, "e2e": 5}
    assert {edge: count for edge, count in latency["e2e"].items() if count} == {"0.5": 1, "1.0": 1, "2.5": 3}
    assert (reading.running, reading.queued) == (4, 2)
    fake.restart()
    again = read(fake.page())
    assert again.epoch != reading.epoch
    assert again.counts[WorkKey("M")].output_tokens == 0
