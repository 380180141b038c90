"""Pages of servers of language models: two scrapes with their known difference, and what must not be counted."""

import json

import pytest

from fixtures.engine_pages import LLAMA_CPP_PAGE, SGLANG_PAGE, TGI_PAGE
from fixtures.scrapes import difference, page, scrape
from joulefleet.reading import Counts, WorkKey
from joulefleet_plugins.interfaces.exposition import Parser
from joulefleet_plugins.work.language_models import (
    LANGUAGE_MODELS,
    LLAMA_CPP,
    LMDEPLOY,
    NIM,
    SGLANG,
    TENSORRT_LLM,
    TGI,
)
from joulefleet_plugins.work.recognise import recognise
from joulefleet_plugins.work.table import Table, read_page

TENSORRT_LLM_PAGE = """
# TYPE trtllm_request_success_total counter
trtllm_request_success_total{engine_type="trtllm",finished_reason="stop",model_name="M"} 100.0 130.0
trtllm_request_success_total{engine_type="trtllm",finished_reason="length",model_name="M"} 10.0 12.0
trtllm_request_success_total{engine_type="trtllm",finished_reason="cancelled",model_name="M"} 1.0 4.0
# TYPE trtllm_request_error_total counter
trtllm_request_error_total{engine_type="trtllm",model_name="M"} 0.0 1.0
# TYPE trtllm_num_requests_completed_total counter
trtllm_num_requests_completed_total{engine_type="trtllm",model_name="M"} 111.0 147.0
trtllm_prompt_tokens_total{engine_type="trtllm",model_name="M"} 5000.0 9000.0
trtllm_prompt_cached_tokens_total{engine_type="trtllm",model_name="M"} 500.0 1500.0
trtllm_prompt_cache_hit_tokens_total{engine_type="trtllm",model_name="M"} 500.0 1500.0
trtllm_generation_tokens_total{engine_type="trtllm",model_name="M"} 2000.0 2750.0
# TYPE trtllm_num_requests_running gauge
trtllm_num_requests_running{engine_type="trtllm",model_name="M"} 3.0 5.0
"""

NIM_PAGE = """
# TYPE num_requests_running gauge
num_requests_running{model_name="meta/llama"} 0.0 2.0
# TYPE prompt_tokens_total counter
prompt_tokens_total{model_name="meta/llama"} 9.0 118.0
# TYPE prompt_tokens_created gauge
prompt_tokens_created{model_name="meta/llama"} 1.7e+09 1.7e+09
# TYPE generation_tokens_total counter
generation_tokens_total{model_name="meta/llama"} 6.0 180.0
# TYPE request_success_total counter
request_success_total{model_name="meta/llama"} 1.0 6.0
# TYPE request_failure_total counter
request_failure_total{model_name="meta/llama"} 0.0 0.0
# TYPE request_finish_total counter
request_finish_total{finished_reason="length",model_name="meta/llama"} 1.0 6.0
"""

LMDEPLOY_PAGE = """
# TYPE lmdeploy:prompt_tokens_total counter
lmdeploy:prompt_tokens_total{engine="0",model_name="M"} 100.0 400.0
lmdeploy:prompt_tokens_total{engine="1",model_name="M"} 50.0 100.0
# TYPE lmdeploy:generation_tokens_total counter
lmdeploy:generation_tokens_total{engine="0",model_name="M"} 10.0 40.0
# TYPE lmdeploy:request_success_total counter
lmdeploy:request_success_total{engine="0",finished_reason="ResponseType.FINISH",model_name="M"} 5.0 15.0
lmdeploy:request_success_total{engine="0",finished_reason="ResponseType.CANCEL",model_name="M"} 0.0 2.0
lmdeploy:request_success_total{engine="0",finished_reason="ResponseType.INTERNAL_ENGINE_ERROR",model_name="M"} 0.0 1.0
# TYPE lmdeploy:num_requests_succeeded gauge
lmdeploy:num_requests_succeeded{engine="0",model_name="M"} 5.0 15.0
"""

PAGES = {
    "sglang": (
        SGLANG_PAGE,
        WorkKey("Qwen/Qwen3-8B"),
        {
            "requests_ok": 16,
            "requests_aborted": 0,
            "prompt_tokens": 8000,
            "cached_tokens": 1500,
            "output_tokens": 5100,
        },
    ),
    "tgi": (
        TGI_PAGE,
        WorkKey(""),
        {
            "requests_ok": 20,
            "requests_failed": 1,
            "requests_aborted": 0,
            "prompt_tokens": 6300,
            "output_tokens": 2000,
        },
    ),
    "llama.cpp": (
        LLAMA_CPP_PAGE,
        WorkKey(""),
        {"prompt_tokens": 200, "output_tokens": 300, "busy_ns": 390_870_000_000, "prefill_busy_ns": 84_370_000_000},
    ),
    "tensorrt-llm": (
        TENSORRT_LLM_PAGE,
        WorkKey("M"),
        {
            "requests_ok": 32,
            "requests_failed": 1,
            "requests_aborted": 3,
            "prompt_tokens": 4000,
            "cached_tokens": 1000,
            "output_tokens": 750,
        },
    ),
    "nim": (
        NIM_PAGE,
        WorkKey("meta/llama"),
        {"requests_ok": 5, "requests_failed": 0, "prompt_tokens": 109, "output_tokens": 174},
    ),
    "lmdeploy": (
        LMDEPLOY_PAGE,
        WorkKey("M"),
        {
            "requests_ok": 10,
            "requests_failed": 1,
            "requests_aborted": 2,
            "prompt_tokens": 350,
            "output_tokens": 30,
        },
    ),
}


def read(text: str, table: Table) -> Counts:
    [counts] = read_page(Parser().parse(text), table, "e").counts.values()
    return counts


def without(text: str, word: str) -> str:
    return "\n".join(line for line in text.splitlines() if word not in line)


@pytest.mark.parametrize("table", LANGUAGE_MODELS, ids=lambda table: table.software)
def test_two_scrapes(table: Table) -> None:
    text, key, counted = PAGES[table.software]
    assert difference(text, table) == {key: counted}
    assert recognise(Parser().parse(page(text, 0))) is table


def test_sglang_by_request_and_by_token() -> None:
    ((_, counted),) = difference(SGLANG_PAGE, SGLANG).items()
    assert 2550 / counted["output_tokens"] == 0.5
    assert 2550 / counted["requests_ok"] == 159.375
    a, b = (scrape(SGLANG_PAGE, SGLANG, column).running for column in (0, 1))
    assert (b - a) / counted["requests_ok"] == 0.125


def test_an_sglang_without_real_time_counts_tells_those_of_finished_requests() -> None:
    ((_, counted),) = difference(without(SGLANG_PAGE, "realtime"), SGLANG).items()
    assert counted["output_tokens"] == 5000


def test_an_sglang_never_goes_from_one_count_of_output_tokens_to_the_other() -> None:
    prefilled = 'sglang:realtime_tokens_total{mode="prefill_compute",model_name="M"} 9\n'
    prefilled += 'sglang:generation_tokens_total{model_name="M"} 7\n'
    assert read(prefilled, SGLANG).output_tokens == 0


def test_sglangs_cached_tokens_are_the_total_or_the_parts() -> None:
    for text in (without(SGLANG_PAGE, '"total"'), without(without(SGLANG_PAGE, '"device"'), '"host"')):
        ((_, counted),) = difference(text, SGLANG).items()
        assert counted["cached_tokens"] == 1500


def test_a_cache_source_that_sglang_does_not_name_is_counted() -> None:
    assert read('sglang:cached_tokens_total{model_name="M"} 2688\n', SGLANG).cached_tokens == 2688


def test_sglangs_ranks_count_once_and_its_replicas_are_added() -> None:
    text = "".join(
        f'sglang:realtime_tokens_total{{mode="decode",dp_rank="{dp}",tp_rank="{tp}"}} 70\n'
        for dp in range(2)
        for tp in range(8)
    )
    assert read(text, SGLANG).output_tokens == 140


def test_tgis_chats_are_not_counted_twice() -> None:
    ((_, counted),) = difference(TGI_PAGE, TGI).items()
    assert 4000 / counted["requests_ok"] == 200
    assert 4000 / counted["output_tokens"] == 2


def test_tgis_clients_that_went_away_are_aborted() -> None:
    counts = read('tgi_request_failure{err="dropped"} 3\ntgi_request_failure{err="generation"} 1\n', TGI)
    assert (counts.requests_aborted, counts.requests_failed) == (3, 1)


def test_a_tgi_before_its_first_request_counts_nothing_that_it_does_not_show() -> None:
    assert read("tgi_batch_current_size 0\n", TGI) == Counts()


def test_llama_cpp_by_busy_time_and_without_requests() -> None:
    ((_, counted),) = difference(LLAMA_CPP_PAGE, LLAMA_CPP).items()
    assert 39087 * 84.37 / 390.87 / counted["prompt_tokens"] == pytest.approx(42.185, abs=5e-4)
    assert 39087 * 306.5 / 390.87 / counted["output_tokens"] == pytest.approx(102.167, abs=5e-4)
    assert "requests_ok" not in counted


def test_llama_cpps_page_as_one_json_string() -> None:
    text = page(LLAMA_CPP_PAGE, 0)
    assert read(json.dumps(text), LLAMA_CPP) == read(text, LLAMA_CPP)


def test_an_old_tensorrt_llm_counts_no_tokens() -> None:
    text = 'trtllm_request_success_total{finished_reason="stop",model_name="M"} 7\n'
    assert read(text, TENSORRT_LLM) == Counts(requests_ok=7, requests_aborted=0)


def test_reasons_that_a_nim_repeats_are_not_added() -> None:
    assert scrape(NIM_PAGE, NIM, 1).counts[WorkKey("meta/llama")].requests_ok == 6


def test_an_lmdeploy_that_shows_no_reasons_counts_no_requests() -> None:
    assert read('lmdeploy:generation_tokens_total{model_name="M"} 7\n', LMDEPLOY) == Counts(output_tokens=7)


def test_sglangs_ranks_of_experts_and_their_processes_count_once() -> None:
    text = "".join(
        f'sglang:realtime_tokens_total{{mode="decode",moe_ep_rank="{rank}",pid="{100 + rank}",tp_rank="{rank}"}} 70\n'
        for rank in range(4)
    )
    assert read(text, SGLANG).output_tokens == 70
