"""Pages of servers of any model: two scrapes with their known difference, and what must not be counted."""

import pytest

from fixtures.engine_pages import TRITON_PAGE
from fixtures.scrapes import difference, page, scrape
from joulefleet.reading import WorkKey
from joulefleet_plugins.interfaces.exposition import Parser
from joulefleet_plugins.work.batch_busy import BatchBusy
from joulefleet_plugins.work.model_servers import OPENVINO, RAY_LLM, RAY_SERVE, TENSORFLOW_SERVING, TRITON
from joulefleet_plugins.work.recognise import recognise
from joulefleet_plugins.work.rises import Rises
from joulefleet_plugins.work.table import read_batches, read_page
from joulefleet_plugins.work.vllm import VLLM

TENSORFLOW_PAGE = """
# TYPE :tensorflow:cc:saved_model:load_attempt_count counter
:tensorflow:cc:saved_model:load_attempt_count{model_path="/models/demo/1",status="success"} 1 1
# TYPE :tensorflow:serving:request_count counter
:tensorflow:serving:request_count{model_name="demo",status="INVALID_ARGUMENT"} 2 5
:tensorflow:serving:request_count{model_name="demo",status="OK"} 7 27
:tensorflow:serving:request_count{model_name="iris",status="OK"} 4 5
# TYPE :tensorflow:serving:request_latency histogram
:tensorflow:serving:request_latency_bucket{model_name="demo",API="predict",entrypoint="REST",le="+Inf"} 7 27
:tensorflow:serving:request_latency_sum{model_name="demo",API="predict",entrypoint="REST"} 70 270
:tensorflow:serving:request_latency_count{model_name="demo",API="predict",entrypoint="REST"} 7 27
"""

OPENVINO_PAGE = """
# TYPE ovms_requests_success counter
ovms_requests_success{api="KServe",interface="gRPC",method="ModelInfer",name="resnet",version="1"} 10 40
ovms_requests_success{api="TensorFlowServing",interface="REST",method="Predict",name="resnet",version="1"} 1 6
ovms_requests_success{api="KServe",interface="gRPC",method="ModelReady",name="resnet",version="1"} 500 900
ovms_requests_success{api="TensorFlowServing",interface="REST",method="GetModelMetadata",name="resnet",version="1"} 7 9
# TYPE ovms_requests_fail counter
ovms_requests_fail{api="KServe",interface="gRPC",method="ModelInfer",name="resnet",version="1"} 0 2
# TYPE ovms_requests_accepted counter
ovms_requests_accepted{api="V3",interface="REST",method="Unary",name="resnet"} 11 48
# TYPE ovms_current_requests gauge
ovms_current_requests{name="resnet",version="1"} 0 3
"""


def test_tensorflow_serving() -> None:
    assert difference(TENSORFLOW_PAGE, TENSORFLOW_SERVING) == {
        WorkKey("demo"): {"requests_ok": 20, "requests_failed": 3},
        WorkKey("iris"): {"requests_ok": 1, "requests_failed": 0},
    }
    assert recognise(Parser().parse(page(TENSORFLOW_PAGE, 0))) is TENSORFLOW_SERVING


def test_questions_for_an_openvino_models_state_are_no_requests() -> None:
    assert difference(OPENVINO_PAGE, OPENVINO) == {WorkKey("resnet", "1"): {"requests_ok": 35, "requests_failed": 2}}
    assert scrape(OPENVINO_PAGE, OPENVINO, 1).running == 3
    assert recognise(Parser().parse(page(OPENVINO_PAGE, 0))) is OPENVINO


def test_tritons_busy_time_is_that_of_batches_and_not_of_requests() -> None:
    busy = BatchBusy()
    first, second = (Parser().parse(page(TRITON_PAGE, column)) for column in (0, 1))
    resnet50, bert = WorkKey("resnet50", "1"), WorkKey("bert", "2")
    assert busy.feed(read_batches(first, TRITON)) == {resnet50: 0, bert: 0}, "an ensemble is not computed itself"
    told = busy.feed(read_batches(second, TRITON))
    assert told == {resnet50: 1_333_333_333, bert: 1_500_000_000}
    energy_j = 4883831.328000044 - 4879631.328000044
    shares_j = {key: energy_j * ns / sum(told.values()) for key, ns in told.items()}
    assert shares_j[resnet50] == pytest.approx(1976.47, abs=5e-3)
    assert shares_j[bert] == pytest.approx(2223.53, abs=5e-3)
    counted = difference(TRITON_PAGE, TRITON)
    assert shares_j[resnet50] / counted[resnet50]["requests_ok"] == pytest.approx(3.2941, abs=5e-5)
    assert shares_j[bert] / counted[bert]["requests_ok"] == pytest.approx(11.1176, abs=5e-5)
    assert counted[resnet50]["requests_failed"] == 4
    assert recognise(first) is TRITON


def test_the_vllm_inside_a_triton_is_the_engine() -> None:
    vllm = 'vllm:generation_tokens_total{model="m",version="1"} 7\n'
    assert recognise(Parser().parse(page(TRITON_PAGE, 0) + vllm)) is VLLM


RAY_PAGE = """
# TYPE ray_vllm_generation_tokens_total counter
ray_vllm_generation_tokens_total{Component="core_worker",SessionName="s",WorkerId="a",model_name="M"} 100 130
ray_vllm_generation_tokens_total{Component="core_worker",SessionName="s",WorkerId="b",model_name="M"} 50 50
# TYPE ray_vllm_request_success_total counter
ray_vllm_request_success_total{WorkerId="a",finished_reason="stop",model_name="M"} 10 13
# TYPE ray_serve_deployment_request_counter_total counter
ray_serve_deployment_request_counter_total{WorkerId="a",application="x",deployment="LLM",replica="r"} 10 13
ray_serve_deployment_request_counter_total{WorkerId="c",application="x",deployment="Ingress",replica="r"} 10 13
# TYPE ray_serve_num_http_requests_total counter
ray_serve_num_http_requests_total{WorkerId="d",application="x",method="POST",status_code="200"} 10 13
"""


def test_the_vllm_under_ray_is_counted_and_not_what_passes_it_on() -> None:
    assert difference(RAY_PAGE, RAY_LLM) == {
        WorkKey("M"): {"requests_ok": 3, "requests_aborted": 0, "output_tokens": 30}
    }
    assert recognise(Parser().parse(page(RAY_PAGE, 0))) is RAY_LLM
    vllm = "vllm:generation_tokens_total 7\n"
    assert recognise(Parser().parse(page(RAY_PAGE, 0) + vllm)) is VLLM


def test_a_worker_of_ray_that_ends_makes_nothing_anew() -> None:
    rises = Rises()
    texts = [page(RAY_PAGE, 0), page(RAY_PAGE, 1)]
    texts.append("\n".join(line for line in texts[1].splitlines() if 'WorkerId="b"' not in line) + "\n")
    told = [read_page(Parser().parse(text), RAY_LLM, "e", rises=rises).counts[WorkKey("M")] for text in texts]
    assert [one.output_tokens for one in told] == [0, 30, 30]
    assert [one.requests_ok for one in told] == [0, 3, 3]


def test_ray_serve_by_deployment() -> None:
    text = "\n".join(line for line in RAY_PAGE.splitlines() if "vllm" not in line)
    assert difference(text, RAY_SERVE) == {WorkKey("Ingress"): {"requests_ok": 3}, WorkKey("LLM"): {"requests_ok": 3}}
    assert recognise(Parser().parse(page(text, 0))) is RAY_SERVE
