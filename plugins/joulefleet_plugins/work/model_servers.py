"""How servers of any model tell their work, most of which know requests and no tokens.

Sources: TensorFlow Serving's `servables/tensorflow/util.cc` and its guide to monitoring; OpenVINO Model Server's
`docs/metrics.md`.
"""

from joulefleet_plugins.work.table import Series, Table

INFERENCES = ("ModelInfer", "ModelInferStream", "Predict", "Unary", "Stream")
"""OpenVINO Model Server also counts questions for a model's state and its description."""

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

MODEL_SERVERS = (TENSORFLOW_SERVING, OPENVINO)
