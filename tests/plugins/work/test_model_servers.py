"""Pages of servers of any model: two scrapes with their known difference, and what must not be counted."""

from fixtures.scrapes import difference, page, scrape
from joulefleet.reading import WorkKey
from joulefleet_plugins.work.exposition import Parser
from joulefleet_plugins.work.model_servers import OPENVINO, TENSORFLOW_SERVING
from joulefleet_plugins.work.recognise import recognise

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
