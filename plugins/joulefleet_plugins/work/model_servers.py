"""How servers of any model tell their work, most of which know requests and no tokens.

Sources: Triton's guide to metrics, `src/metrics.cc` and `src/infer_stats.cc`; TensorFlow Serving's
`servables/tensorflow/util.cc` and its guide to monitoring; OpenVINO Model Server's `docs/metrics.md`;
Ray's list of the metrics of Serve.
"""

import msgspec

from joulefleet_plugins.work.table import Batched, Series, Table
from joulefleet_plugins.work.vllm import VLLM

INFERENCES = ("ModelInfer", "ModelInferStream", "Predict", "Unary", "Stream")
"""OpenVINO Model Server also counts questions for a model's state and its description."""

TRITON = Table(
    software="triton",
    prefixes=("nv_",),
    # With its vLLM backend the page has vLLM's counters too, which know tokens.
    layer=1,
    counters={
        # A request is one whatever its batch; `nv_inference_count` counts what is in it.
        "requests_ok": (Series("inference_request_success"),),
        "requests_failed": (Series("inference_request_failure", label="reason", but=("CANCELED",)),),
        "requests_aborted": (Series("inference_request_failure", label="reason", only=("CANCELED",), from_start=True),),
    },
    batched=Batched(
        time=Series("inference_compute_infer_duration_us", unit="us"),
        executions=Series("inference_exec_count"),
        requests=Series("inference_request_success"),
    ),
    queued=("inference_pending_request_count",),
    model_labels=("model",),
    revision_labels=("version",),
    version_field="version",
    mend="is this Triton's metrics port (8002)?",
)

TENSORFLOW_SERVING = Table(
    software="tensorflow-serving",
    prefixes=(":tensorflow:serving:",),
    counters={
        "requests_ok": (Series("request_count", label="status", only=("OK",)),),
        "requests_failed": (Series("request_count", label="status", but=("OK",)),),
    },
    metrics_path="/monitoring/prometheus/metrics",
    mend="is this the REST port of TensorFlow Serving, started with --monitoring_config_file?",
)

OPENVINO = Table(
    software="ovms",
    prefixes=("ovms_",),
    counters={
        "requests_ok": (Series("requests_success", label="method", only=INFERENCES),),
        "requests_failed": (Series("requests_fail", label="method", only=INFERENCES),),
    },
    running=("current_requests",),
    model_labels=("name",),
    revision_labels=("version",),
    version_path="/v2",
    version_field="version",
    mend="is this the REST port of an OpenVINO Model Server, started with --metrics_enable?",
)

RAY_LLM = msgspec.structs.replace(
    VLLM,
    software="ray-vllm",
    prefixes=("ray_vllm:", "ray_vllm_"),
    layer=1,
    gathered=True,
    latency={},
    version_path="",
    mend="is this the metrics page of the Ray agent of this server?",
)
"""vLLM under Ray Serve, whose counters Ray passes on under names of its own."""

RAY_SERVE = Table(
    software="ray-serve",
    prefixes=("ray_serve_",),
    layer=2,
    gathered=True,
    counters={
        "requests_ok": (Series("deployment_request_counter"),),
        "requests_failed": (Series("deployment_error_counter"),),
    },
    model_labels=("deployment",),
    mend="is this the metrics page of the Ray agent of this server?",
)

MODEL_SERVERS = (TRITON, RAY_LLM, RAY_SERVE, TENSORFLOW_SERVING, OPENVINO)
