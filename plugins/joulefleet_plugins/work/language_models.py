"""How servers of language models tell their work: the names of their metrics, and what has to be read with care.

Sources: SGLang's `observability/metrics_collector.py` and `docs/references/production_metrics.md`; TGI's
`router/src/server.rs`, `validation.rs` and its reference of metrics; llama.cpp's `tools/server`; TensorRT-LLM's
`tensorrt_llm/metrics/collector.py`; NVIDIA's page on the observability of NIM; LMDeploy's `metrics/loggers.py`.
"""

from joulefleet_plugins.work.table import Series, Table

CANCELLED = ("cancelled", "abort")
LMDEPLOY_FINISHED = ("ResponseType.SUCCESS", "ResponseType.FINISH", "stop", "length")
LMDEPLOY_CANCELLED = ("ResponseType.CANCEL", "abort")

SGLANG = Table(
    software="sglang",
    # Behind its gRPC sidecar the colon is an underscore.
    prefixes=("sglang:", "sglang_"),
    lazy=True,
    counters={
        "requests_ok": (Series("num_requests"),),
        "requests_aborted": (Series("num_aborted_requests"),),
        # Not the real-time prefill counts: what is computed again after a retraction is in them.
        "prompt_tokens": (Series("prompt_tokens"),),
        # A page that shows the total shows its parts too.
        "cached_tokens": (
            Series("cached_tokens", label="cache_source", only=("total",), from_start=True),
            Series("cached_tokens", label="cache_source", but=("total",)),
        ),
        # Counted as the steps go; the other counts a request's tokens when it ends. A page that has real-time counts
        # has them from its first prefill on, before any output token is counted at either place.
        "output_tokens": (
            Series("realtime_tokens", label="mode", only=("decode",)),
            Series("generation_tokens"),
        ),
    },
    running=("num_running_reqs",),
    queued=("num_queue_reqs",),
    latency={
        "ttft": ("time_to_first_token_seconds",),
        "itl": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
        "e2e": ("e2e_request_latency_seconds",),
    },
    model_labels=("model_name", "name"),
    counts_at_finish=True,
    version_path="/get_server_info",
    version_field="version",
    mend="is this the page of an SGLang server, started with --enable-metrics?",
)

TGI = Table(
    software="tgi",
    prefixes=("tgi_",),
    lazy=True,
    counters={
        # `tgi_request_count` counts a chat twice.
        "requests_ok": (Series("request_success"),),
        "requests_failed": (Series("request_failure", label="err", but=("dropped",)),),
        "requests_aborted": (Series("request_failure", label="err", only=("dropped",)),),
        "prompt_tokens": (Series("request_input_length_sum"),),
        "output_tokens": (Series("request_generated_tokens_sum"),),
    },
    running=("batch_current_size",),
    queued=("queue_size",),
    latency={
        "itl": ("request_mean_time_per_token_duration",),
        "e2e": ("request_duration",),
    },
    counts_at_finish=True,
    version_path="/info",
    version_field="version",
    model_fields=("model_id",),
    revision_field="model_sha",
    mend="is this the page of a Text Generation Inference server?",
)

LLAMA_CPP = Table(
    software="llama.cpp",
    prefixes=("llamacpp:", "llamacpp_"),
    counters={
        # Tokens that were found in its cache are not in it, and it counts no requests.
        "prompt_tokens": (Series("prompt_tokens"),),
        "output_tokens": (Series("tokens_predicted"),),
        "busy_ns": (Series("prompt_seconds", plus=("tokens_predicted_seconds",), unit="s"),),
        "prefill_busy_ns": (Series("prompt_seconds", unit="s"),),
    },
    running=("requests_processing",),
    queued=("requests_deferred",),
    counts_at_finish=True,
    version_path="/props",
    version_field="build_info",
    model_fields=("model_alias", "model_path"),
    mend="is this the page of a llama.cpp server, started with --metrics?",
)

TENSORRT_LLM = Table(
    software="tensorrt-llm",
    prefixes=("trtllm_", "trtllm:"),
    counters={
        "requests_ok": (Series("request_success", label="finished_reason", but=CANCELLED),),
        "requests_failed": (Series("request_error"),),
        "requests_aborted": (Series("request_success", label="finished_reason", only=CANCELLED),),
        "prompt_tokens": (Series("prompt_tokens"),),
        "cached_tokens": (Series("prompt_cached_tokens"),),
        "output_tokens": (Series("generation_tokens"),),
    },
    running=("num_requests_running",),
    queued=("num_requests_waiting",),
    latency={
        "ttft": ("time_to_first_token_seconds",),
        "itl": ("time_per_output_token_seconds",),
        "e2e": ("e2e_request_latency_seconds",),
    },
    counts_at_finish=True,
    metrics_path="/prometheus/metrics",
    version_path="/version",
    version_field="version",
    mend="is this /prometheus/metrics of trtllm-serve, with `return_perf_metrics: true`?",
)

NIM = Table(
    software="nim",
    # Its names bear no prefix, and any web service may have a `request_success_total`.
    marks=("prompt_tokens", "generation_tokens", "num_requests_running"),
    counters={
        "requests_ok": (Series("request_success"),),
        "requests_failed": (Series("request_failure"),),
        "prompt_tokens": (Series("prompt_tokens"),),
        "output_tokens": (Series("generation_tokens"),),
    },
    running=("num_requests_running",),
    queued=("num_requests_waiting",),
    latency={
        "ttft": ("time_to_first_token_seconds",),
        "itl": ("time_per_output_token_seconds",),
        "e2e": ("e2e_request_latency_seconds",),
    },
    metrics_path="/v1/metrics",
    version_path="/v1/version",
    version_field="release",
    mend="is this /v1/metrics (of older ones /metrics) of a NIM?",
)

LMDEPLOY = Table(
    software="lmdeploy",
    prefixes=("lmdeploy:", "lmdeploy_"),
    counters={
        # It shows every reason from its start, the many kinds of errors among them.
        "requests_ok": (Series("request_success", label="finished_reason", only=LMDEPLOY_FINISHED),),
        "requests_failed": (
            Series(
                "request_success",
                label="finished_reason",
                but=(*LMDEPLOY_FINISHED, *LMDEPLOY_CANCELLED),
                from_start=True,
            ),
        ),
        "requests_aborted": (Series("request_success", label="finished_reason", only=LMDEPLOY_CANCELLED),),
        "prompt_tokens": (Series("prompt_tokens"),),
        "cached_tokens": (Series("cached_tokens"),),
        "output_tokens": (Series("generation_tokens"),),
    },
    running=("num_requests_running",),
    queued=("num_requests_waiting",),
    latency={
        "ttft": ("time_to_first_token_seconds",),
        "itl": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
        "e2e": ("e2e_request_latency_seconds",),
    },
    mend="is this the page of an LMDeploy server, started with --enable-metrics?",
)

LANGUAGE_MODELS = (SGLANG, TGI, LLAMA_CPP, TENSORRT_LLM, NIM, LMDEPLOY)
