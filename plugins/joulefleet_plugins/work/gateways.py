"""How servers that pass requests on to engines tell their work; where these count too they are read only if named.

Sources: LiteLLM's `docs/proxy/prometheus`; Envoy AI Gateway's `docs/capabilities/observability/metrics`; Dynamo's
`docs/observability/metrics`.
"""

import msgspec

from joulefleet_plugins.work.table import Series, Table

LITELLM = Table(
    software="litellm",
    prefixes=("litellm_",),
    front=True,
    counters={
        "requests_ok": (Series("proxy_total_requests_metric", label="status_code", only=("200",)),),
        "requests_failed": (Series("proxy_failed_requests_metric"),),
        "prompt_tokens": (Series("input_tokens_metric"), Series("input_tokens")),
        "output_tokens": (Series("output_tokens_metric"), Series("output_tokens")),
    },
    # A request of which a fallback served another model is told under the one that was asked for.
    model_labels=("requested_model", "model"),
    tenant_labels=("team_alias", "team", "api_key_alias", "hashed_api_key"),
    counts_at_finish=True,
    version_path="/health/readiness",
    version_field="litellm_version",
    metrics_path="/metrics/",
    mend='is this the page of a LiteLLM proxy, with `callbacks: ["prometheus"]`?',
)

ENVOY = Table(
    software="envoy-ai-gateway",
    prefixes=("gen_ai_",),
    front=True,
    counters={
        # Of the kinds of tokens, cached ones are part of the input and reasoning of the output.
        "prompt_tokens": (Series("client_token_usage_sum", label="gen_ai_token_type", only=("input",)),),
        "cached_tokens": (Series("client_token_usage_sum", label="gen_ai_token_type", only=("cached_input",)),),
        "output_tokens": (Series("client_token_usage_sum", label="gen_ai_token_type", only=("output",)),),
        "requests_ok": (Series("server_request_duration_seconds_count", label="error_type", only=("",)),),
        "requests_failed": (Series("server_request_duration_seconds_count", label="error_type", but=("",)),),
    },
    latency={
        "ttft": ("server_time_to_first_token_seconds",),
        "itl": ("server_time_per_output_token_seconds",),
        "e2e": ("server_request_duration_seconds",),
    },
    model_labels=("gen_ai_request_model", "gen_ai_response_model"),
    counts_at_finish=True,
    mend="is this the page of Envoy AI Gateway's external processor?",
)

DYNAMO = Table(
    software="dynamo",
    prefixes=("dynamo_frontend_",),
    front=True,
    counters={
        "requests_ok": (Series("requests", label="status", only=("success",)),),
        "requests_failed": (Series("requests", label="status", but=("success",)),),
        "prompt_tokens": (Series("input_sequence_tokens_sum"),),
        "output_tokens": (Series("output_tokens"), Series("output_sequence_tokens_sum")),
    },
    # Its queued requests are in flight too.
    running=("inflight_requests",),
    latency={
        "ttft": ("time_to_first_token_seconds",),
        "itl": ("inter_token_latency_seconds",),
        "e2e": ("request_duration_seconds",),
    },
    model_labels=("model",),
    counts_at_finish=True,
    mend="is this the page of a Dynamo frontend?",
)

PROXY = Table(
    software="joulefleet-proxy",
    prefixes=("joulefleet_proxy_",),
    # It says so where the server behind shows no metrics: then its counts are the engine's.
    marks=("alone",),
    counters={
        "requests_ok": (Series("requests", label="outcome", only=("ok",)),),
        "requests_failed": (Series("requests", label="outcome", only=("failed",)),),
        "requests_aborted": (Series("requests", label="outcome", only=("aborted",)),),
        "prompt_tokens": (Series("prompt_tokens"),),
        "cached_tokens": (Series("cached_tokens"),),
        # Those that are estimated, which it counts apart too, are in them.
        "output_tokens": (Series("output_tokens"),),
    },
    running=("requests_running",),
    latency={
        "ttft": ("time_to_first_token_seconds",),
        "itl": ("inter_token_latency_seconds",),
        "e2e": ("request_duration_seconds",),
    },
    model_labels=("model",),
    tenant_labels=("tenant",),
    counts_at_finish=True,
    mend="is this the page that `joulefleet agent proxy` names as it starts?",
)

PROXY_BEFORE_ENGINE = msgspec.structs.replace(PROXY, software="joulefleet-proxy-front", marks=(), front=True)

GATEWAYS = (LITELLM, ENVOY, DYNAMO, PROXY, PROXY_BEFORE_ENGINE)
