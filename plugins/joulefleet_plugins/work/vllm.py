"""How vLLM tells its work: the names of its metrics, from its V0 and V1 engines and inside Triton.

Source: vLLM's `vllm/v1/metrics/loggers.py` and the documents on its production metrics.
"""

from joulefleet_plugins.work.table import Series, Table

VLLM = Table(
    software="vllm",
    # Gateways write the colon as an underscore.
    prefixes=("vllm:", "vllm_"),
    counters={
        # Every other reason (stop, length, repetition, and what later releases add) is an answer that was finished.
        "requests_ok": (Series("request_success", label="finished_reason", but=("abort", "error")),),
        # The V1 engine shows all reasons that it knows from its start, so that one without `error` does not count it.
        "requests_failed": (Series("request_success", label="finished_reason", only=("error",), from_start=True),),
        "requests_aborted": (Series("request_success", label="finished_reason", only=("abort",)),),
        "prompt_tokens": (Series("prompt_tokens"),),
        # `prefix_cache_hits` is left out on purpose: it counts a request anew each time that scheduling it is tried
        # (vllm-project/vllm#43736), which makes more tokens cached than were ever asked.
        "cached_tokens": (
            Series("prompt_tokens_by_source", label="source", only=("local_cache_hit", "external_kv_transfer")),
            Series("prompt_tokens_cached"),
        ),
        "output_tokens": (Series("generation_tokens"),),
    },
    running=("num_requests_running",),
    queued=("num_requests_waiting",),
    latency={
        "ttft": ("time_to_first_token_seconds",),
        # Releases in between show both names for the same observations.
        "itl": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
        "e2e": ("e2e_request_latency_seconds",),
    },
    version_path="/version",
    version_field="version",
    mend="is this the metrics page of a vLLM server, started without --disable-log-stats?",
)
"""Prompt tokens include cached ones; output tokens are counted at each step, those of later aborted requests too."""
