"""Nothing counts twice: each way in which one piece of work is told at two places, from the pages to the report."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fixtures.collectors import Collector, run
from fixtures.engine_pages import SGLANG_PAGE, TGI_PAGE, TRITON_PAGE, VLLM_MODEL, VLLM_PAGE
from fixtures.made_run import made_run
from fixtures.processes import collecting
from fixtures.two_scrapes import a_minute, showing
from fixtures.virtual_agent import AgentOf, Clock

USED_J = {"gpu-0": 2_000.0}

GATEWAY_PAGE = """
litellm_proxy_total_requests_metric_total{requested_model="chat",status_code="200",team="red"} 10 25
litellm_proxy_total_requests_metric_total{requested_model="chat",status_code="200",team="blue"} 0 5
litellm_input_tokens_metric_total{requested_model="chat",team="red"} 100 190
litellm_input_tokens_metric_total{requested_model="chat",team="blue"} 0 30
litellm_output_tokens_metric_total{requested_model="chat",team="red"} 100 400
litellm_output_tokens_metric_total{requested_model="chat",team="blue"} 7 107
"""
"""Three quarters of all are red's. Its sums are not the engine's: an alias, retries, and what did not pass through."""

RAY_PAGE = VLLM_PAGE.replace("vllm:", "ray_vllm:").replace('{engine="', '{WorkerId="w",engine="')
"""What Ray passes on of the same engine."""


def of_model(hosted: Collector, model: str = VLLM_MODEL) -> dict[str, Any]:
    """The only row of all models."""
    (row,) = hosted.ask(boundary="accelerator", by="model")["rows"]
    assert row["model"] == model
    return dict(row)


def counted(row: dict[str, Any]) -> tuple[int, int, int]:
    """Requests, prompt and output tokens of a row, and none of them elsewhere."""
    names = ("requests_ok", "prompt_tokens", "output_tokens")
    assert not any(row[f"unmetered_{name}"] or row[f"late_{name}"] for name in names)
    return (row["requests_ok"], row["prompt_tokens"], row["output_tokens"])


def read(agent_of: AgentOf, clock: Clock, *pages: tuple[str, dict[str, Any]]) -> None:
    """These pages, each with its config, for a minute beside one board."""
    with ExitStack() as stack:
        served = [stack.enter_context(showing(text, **config)) for text, config in pages]
        a_minute(agent_of("s"), clock, USED_J, *served)


ON_BOARD = {"devices": ["gpu-0"]}


def test_a_gateway_and_its_engine_count_at_the_engine(agent_of: AgentOf, hosted: Collector, clock: Clock) -> None:
    gateway = {"software": "litellm", "models": {"chat": VLLM_MODEL}}
    read(agent_of, clock, (VLLM_PAGE, ON_BOARD), (GATEWAY_PAGE, gateway))
    row = of_model(hosted)
    assert counted(row) == (19, 1_500, 2_000)
    assert row["joules_per_output_token"] == 1.0
    tenants = {one["tenant"]: one for one in hosted.ask(boundary="accelerator", by="tenant")["rows"]}
    assert tenants.keys() == {"red", "blue"}
    assert [tenants[name]["output_tokens"] for name in ("red", "blue")] == [1_500, 500], "the gateway's are ratios"
    energies = [tenants[name]["energy_j"] for name in ("red", "blue")]
    assert energies == pytest.approx([1_500, 500], abs=1e-5) and sum(energies) == 2_000
    (ledger,) = [one for one in hosted.ask()["ledger"] if one["boundary"] == "accelerator"]
    assert (ledger["metered_j"], ledger["active_j"], ledger["residual_uj"]) == (2_000.0, 2_000.0, 0)


def test_a_gateway_that_is_counted_itself(agent_of: AgentOf, hosted: Collector, clock: Clock) -> None:
    read(agent_of, clock, (GATEWAY_PAGE, {"software": "litellm", "count_at": "gateway", **ON_BOARD}))
    assert counted(of_model(hosted, "chat")) == (20, 120, 400)


def test_a_gateway_that_nobody_named_is_not_counted(agent_of: AgentOf, hosted: Collector, clock: Clock) -> None:
    read(agent_of, clock, (VLLM_PAGE, ON_BOARD), (GATEWAY_PAGE, {}))
    (window,) = hosted.windows()
    gateway = next(one for one in window.engines if one.engine.software == "unknown")
    assert (gateway.work, gateway.gaps_ns) == ((), {"gateway": window.step_ns})
    assert sum(work.counts.output_tokens or 0 for one in window.engines for work in one.work) == 2_000


def test_what_a_page_passes_on_beside_its_own_counters_is_left(
    agent_of: AgentOf, hosted: Collector, clock: Clock
) -> None:
    dynamo = 'dynamo_component_output_tokens_total{model="M"} 900 2900\n'
    read(agent_of, clock, (VLLM_PAGE + RAY_PAGE + dynamo, ON_BOARD))
    assert counted(of_model(hosted)) == (19, 1_500, 2_000)


def test_a_page_that_passes_on_an_engine_which_is_read_too(agent_of: AgentOf, hosted: Collector, clock: Clock) -> None:
    read(agent_of, clock, (VLLM_PAGE, ON_BOARD), (RAY_PAGE, {"count_at": "engine"}))
    assert counted(of_model(hosted)) == (19, 1_500, 2_000)


def test_one_page_that_is_configured_twice(agent_of: AgentOf, hosted: Collector, clock: Clock) -> None:
    with showing(VLLM_PAGE, **ON_BOARD) as served:
        again = served._replace(config={**served.config, "url": f"{served.config['url']}/metrics"})
        a_minute(agent_of("s"), clock, USED_J, served, again)
    assert counted(of_model(hosted)) == (19, 1_500, 2_000)


def test_an_ensemble_that_counts_beside_its_parts(agent_of: AgentOf, hosted: Collector, clock: Clock) -> None:
    read(agent_of, clock, (TRITON_PAGE, {"leave_out": ["ens_resnet"], **ON_BOARD}))
    rows = {one["model"]: one["requests_ok"] for one in hosted.ask(boundary="accelerator", by="model")["rows"]}
    assert rows == {"resnet50": 600, "bert": 200}


def test_a_chat_that_tgi_counts_twice(agent_of: AgentOf, hosted: Collector, clock: Clock) -> None:
    read(agent_of, clock, (TGI_PAGE, {"model": "M", **ON_BOARD}))
    row = of_model(hosted, "M")
    assert (row["requests_ok"], row["requests_failed"]) == (20, 1), "and not the 44 of tgi_request_count"


def test_sglangs_cached_tokens_by_the_total_or_by_the_parts(agent_of: AgentOf, hosted: Collector, clock: Clock) -> None:
    assert SGLANG_PAGE.count("cached_tokens_total{") == 3
    read(agent_of, clock, (SGLANG_PAGE, ON_BOARD))
    assert of_model(hosted, "Qwen/Qwen3-8B")["cached_tokens"] == 1_500


def test_tensor_parallel_ranks_repeat_one_count(agent_of: AgentOf, hosted: Collector, clock: Clock) -> None:
    ranks = "\n".join(SGLANG_PAGE.replace('tp_rank="0"', f'tp_rank="{rank}"') for rank in range(4) if rank)
    once = "\n".join(line for line in ranks.splitlines() if "tp_rank" in line)
    read(agent_of, clock, (SGLANG_PAGE + once, ON_BOARD))
    assert of_model(hosted, "Qwen/Qwen3-8B")["output_tokens"] == 5_100
    (window,) = hosted.windows()
    assert (window.engines[0].running_start, window.engines[0].running_end) == (16, 18)


def test_data_parallel_ranks_are_added_up(agent_of: AgentOf, hosted: Collector, clock: Clock) -> None:
    assert 'engine="0"' in VLLM_PAGE and 'engine="1"' in VLLM_PAGE
    read(agent_of, clock, (VLLM_PAGE, ON_BOARD))
    assert counted(of_model(hosted)) == (19, 1_500, 2_000)


def test_subsets_of_tokens_are_not_added_to_the_whole(agent_of: AgentOf, hosted: Collector, clock: Clock) -> None:
    kinds = {"input": 600, "cached_input": 200, "cache_creation_input": 10, "output": 259, "reasoning": 100}
    page = "".join(
        f'gen_ai_client_token_usage_sum{{gen_ai_request_model="M",gen_ai_token_type="{kind}"}} 5 {5 + tokens}\n'
        for kind, tokens in kinds.items()
    )
    read(agent_of, clock, (page, {"software": "envoy-ai-gateway", "count_at": "gateway", **ON_BOARD}))
    row = of_model(hosted, "M")
    assert (row["prompt_tokens"], row["cached_tokens"], row["output_tokens"]) == (600, 200, 259)


def test_one_recording_under_two_names_is_one_account(tmp_path: Path) -> None:
    recorded = made_run(tmp_path / "first", 600)
    other = tmp_path / "second" / "renamed" / "alias"
    shutil.copytree(recorded, other)
    with collecting(tmp_path / "collector", tmp_path / "data") as (_, collector):
        options = ("--server", "s", "--model", "m", "--step", "60", "--collector", collector.url)
        sums = []
        for number, folder in enumerate((recorded, other)):
            run("replay", "mlperf", str(folder), *options, "--spool", str(tmp_path / f"{number}.db"))
            sums.append([(one["energy_j"], one["output_tokens"]) for one in collector.ask(by="server")["rows"]])
    assert sums[0] == sums[1]
    assert sums[0][0][0] > 0


@pytest.mark.parametrize("text", [VLLM_PAGE, SGLANG_PAGE])
def test_counters_in_both_of_their_forms(agent_of: AgentOf, hosted: Collector, clock: Clock, text: str) -> None:
    """As a page with and without `_total`, and with the prefix that a sidecar writes otherwise."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    more = [line.replace("_total{", "{") for line in lines] + [line.replace(":", "_", 1) for line in lines]
    read(agent_of, clock, ("\n".join([*lines, *more]), ON_BOARD))
    (row,) = hosted.ask(boundary="accelerator", by="model")["rows"]
    assert row["output_tokens"] in (2_000, 5_100)
