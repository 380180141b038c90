"""Pages of gateways: two scrapes with their known difference, their tenants, and what must not be counted twice."""

import pytest

from fixtures.scrapes import difference, page, scrape
from joulefleet.reading import WorkKey
from joulefleet_plugins.interfaces.exposition import Parser
from joulefleet_plugins.work.gateways import DYNAMO, ENVOY, GATEWAYS, LITELLM, PROXY, PROXY_BEFORE_ENGINE
from joulefleet_plugins.work.recognise import NotRecognised, recognise
from joulefleet_plugins.work.table import Table

LITELLM_PAGE = """
# TYPE litellm_proxy_total_requests_metric_total counter
litellm_proxy_total_requests_metric_total{hashed_api_key="88dc",requested_model="chat",status_code="200",team="t1",team_alias="red",user="u"} 10.0 25.0
litellm_proxy_total_requests_metric_total{hashed_api_key="88dc",requested_model="chat",status_code="429",team="t1",team_alias="red",user="u"} 1.0 4.0
litellm_proxy_total_requests_metric_total{hashed_api_key="99ab",requested_model="chat",status_code="200",team="None",team_alias="None",user="u"} 2.0 4.0
# TYPE litellm_proxy_failed_requests_metric_total counter
litellm_proxy_failed_requests_metric_total{hashed_api_key="88dc",requested_model="chat",exception_status="429",team="t1",team_alias="red"} 1.0 4.0
# TYPE litellm_deployment_success_responses_total counter
litellm_deployment_success_responses_total{hashed_api_key="88dc",litellm_model_name="vllm/a",requested_model="chat",team="t1",team_alias="red"} 12.0 30.0
# TYPE litellm_input_tokens_metric_total counter
litellm_input_tokens_metric_total{hashed_api_key="88dc",model="vllm/a",requested_model="chat",team="t1",team_alias="red"} 1000.0 3000.0
litellm_input_tokens_metric_total{hashed_api_key="88dc",model="vllm/b",requested_model="chat",team="t1",team_alias="red"} 0.0 500.0
litellm_input_tokens_metric_total{hashed_api_key="99ab",model="vllm/a",requested_model="chat",team="None",team_alias="None"} 10.0 20.0
# TYPE litellm_output_tokens_metric_total counter
litellm_output_tokens_metric_total{hashed_api_key="88dc",model="vllm/a",requested_model="chat",team="t1",team_alias="red"} 100.0 400.0
litellm_output_tokens_metric_total{hashed_api_key="99ab",model="vllm/a",requested_model="chat",team="None",team_alias="None"} 1.0 3.0
# TYPE litellm_total_tokens_metric_total counter
litellm_total_tokens_metric_total{hashed_api_key="88dc",model="vllm/a",requested_model="chat",team="t1",team_alias="red"} 1100.0 3900.0
# TYPE litellm_output_tokens_metric_created gauge
litellm_output_tokens_metric_created{hashed_api_key="88dc",model="vllm/a",requested_model="chat",team="t1",team_alias="red"} 1.75e+09 1.75e+09
"""  # noqa: E501 # a sample is one line

ENVOY_PAGE = """
# TYPE gen_ai_client_token_usage histogram
gen_ai_client_token_usage_bucket{gen_ai_request_model="M",gen_ai_token_type="input",le="+Inf"} 4 9
gen_ai_client_token_usage_sum{gen_ai_request_model="M",gen_ai_token_type="input"} 400 1000
gen_ai_client_token_usage_count{gen_ai_request_model="M",gen_ai_token_type="input"} 4 9
gen_ai_client_token_usage_sum{gen_ai_request_model="M",gen_ai_token_type="cached_input"} 100 300
gen_ai_client_token_usage_sum{gen_ai_request_model="M",gen_ai_token_type="cache_creation_input"} 10 20
gen_ai_client_token_usage_sum{gen_ai_request_model="M",gen_ai_token_type="output"} 50 309
gen_ai_client_token_usage_sum{gen_ai_request_model="M",gen_ai_token_type="reasoning"} 20 120
# TYPE gen_ai_server_request_duration_seconds histogram
gen_ai_server_request_duration_seconds_count{gen_ai_request_model="M"} 4 9
gen_ai_server_request_duration_seconds_count{gen_ai_request_model="M",error_type="_OTHER"} 0 2
"""

DYNAMO_PAGE = """
# TYPE dynamo_frontend_requests_total counter
dynamo_frontend_requests_total{endpoint="chat_completions",model="M",request_type="stream",status="success"} 10 30
dynamo_frontend_requests_total{endpoint="chat_completions",model="M",request_type="unary",status="error"} 0 1
# TYPE dynamo_frontend_output_tokens_total counter
dynamo_frontend_output_tokens_total{model="M"} 100 900
# TYPE dynamo_frontend_input_sequence_tokens histogram
dynamo_frontend_input_sequence_tokens_sum{model="M"} 1000 4000
dynamo_frontend_input_sequence_tokens_count{model="M"} 10 30
# TYPE dynamo_frontend_output_sequence_tokens histogram
dynamo_frontend_output_sequence_tokens_sum{model="M"} 100 880
# TYPE dynamo_frontend_inflight_requests gauge
dynamo_frontend_inflight_requests{model="M"} 1 3
dynamo_frontend_queued_requests{model="M"} 1 1
"""


def test_litellm_by_team_and_by_key_where_there_is_no_team() -> None:
    assert difference(LITELLM_PAGE, LITELLM) == {
        WorkKey("chat", "", "red"): {
            "requests_ok": 15,
            "requests_failed": 3,
            "prompt_tokens": 2500,
            "output_tokens": 300,
        },
        WorkKey("chat", "", "99ab"): {
            "requests_ok": 2,
            "requests_failed": 0,
            "prompt_tokens": 10,
            "output_tokens": 2,
        },
    }


def test_an_older_litellm_names_its_tokens_otherwise() -> None:
    older = LITELLM_PAGE.replace("_tokens_metric", "_tokens")
    assert difference(older, LITELLM) == difference(LITELLM_PAGE, LITELLM)


def test_envoys_cached_and_reasoning_tokens_are_part_of_the_input_and_the_output() -> None:
    counted = {
        "requests_ok": 5,
        "requests_failed": 2,
        "prompt_tokens": 600,
        "cached_tokens": 200,
        "output_tokens": 259,
    }
    assert difference(ENVOY_PAGE, ENVOY) == {WorkKey("M"): counted}


def test_dynamos_frontend() -> None:
    counted = {"requests_ok": 20, "requests_failed": 1, "prompt_tokens": 3000, "output_tokens": 800}
    assert difference(DYNAMO_PAGE, DYNAMO) == {WorkKey("M"): counted}
    reading = scrape(DYNAMO_PAGE, DYNAMO, 1)
    assert (reading.running, reading.queued) == (3, None)


@pytest.mark.parametrize(
    ("table", "text"), [(LITELLM, LITELLM_PAGE), (ENVOY, ENVOY_PAGE), (DYNAMO, DYNAMO_PAGE)], ids=lambda one: ""
)
def test_a_gateway_is_not_counted_beside_its_engines_unless_it_is_named(table: Table, text: str) -> None:
    assert table in GATEWAYS
    with pytest.raises(NotRecognised, match=f'software = "{table.software}"') as error:
        recognise(Parser().parse(page(text, 0)))
    assert error.value.code == "gateway"


PROXY_PAGE = """
joulefleet_proxy_alone 1 1
# TYPE joulefleet_proxy_requests_total counter
joulefleet_proxy_requests_total{model="m",outcome="ok",tenant="red"} 1 3
joulefleet_proxy_requests_total{model="m",outcome="failed",tenant="red"} 0 1
joulefleet_proxy_requests_total{model="m",outcome="aborted",tenant="red"} 0 2
joulefleet_proxy_requests_total{model="m",outcome="ok",tenant="key-3fa9c0ffee00"} 0 1
# TYPE joulefleet_proxy_prompt_tokens_total counter
joulefleet_proxy_prompt_tokens_total{model="m",tenant="red"} 26 52
# TYPE joulefleet_proxy_output_tokens_total counter
joulefleet_proxy_output_tokens_total{model="m",tenant="red"} 259 600
joulefleet_proxy_output_tokens_total{model="m",tenant="key-3fa9c0ffee00"} 0 7
# TYPE joulefleet_proxy_estimated_output_tokens_total counter
joulefleet_proxy_estimated_output_tokens_total{model="m",tenant="red"} 0 41
"""


def test_our_own_proxy_before_an_engine_that_shows_metrics_is_a_gateway() -> None:
    twice = page(PROXY_PAGE, 1).replace("joulefleet_proxy_alone 1\n", "")
    with pytest.raises(NotRecognised, match='`software = "joulefleet-proxy-front"`') as error:
        recognise(Parser().parse(twice))
    assert error.value.code == "gateway"
    assert PROXY_BEFORE_ENGINE.front


def test_our_own_proxy_counts_for_a_server_that_does_not() -> None:
    assert recognise(Parser().parse(page(PROXY_PAGE, 1))).software == "joulefleet-proxy"
    assert difference(PROXY_PAGE, PROXY)[WorkKey("m", "", "red")] == {
        "requests_ok": 2,
        "requests_failed": 1,
        "requests_aborted": 2,
        "prompt_tokens": 26,
        "output_tokens": 341,
    }
    assert scrape(PROXY_PAGE, PROXY, 1).counts[WorkKey("m", "", "key-3fa9c0ffee00")].output_tokens == 7
