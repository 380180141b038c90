"""The proxy's own metrics page, on which the agent reads its work: Prometheus text or OpenMetrics."""

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from joulefleet_agent.proxy.tally import EDGES_S, OUTCOMES, Spread, Tally

PREFIX = "joulefleet_proxy_"
KEY = ("model", "tenant")
TOKENS = {
    "prompt": ("prompt_tokens", "Tokens of prompts, cached ones included"),
    "cached": ("cached_tokens", "Tokens of prompts that were in the server's cache"),
    "output": ("output_tokens", "Tokens of answers, reasoning and estimates included"),
    "estimated": ("estimated_output_tokens", "Those output tokens that are parts counted, since no tokens were told"),
}
LATENCIES = {
    "ttft": ("time_to_first_token_seconds", "To the first part of an answer in parts"),
    "itl": ("inter_token_latency_seconds", "Between two parts of an answer"),
    "e2e": ("request_duration_seconds", "Of requests that ended well"),
}
_EDGES = [f"{edge_s:.12g}" for edge_s in EDGES_S]


def page(tally: Tally, began_s: float, accept: str) -> tuple[bytes, str]:
    """The text and its content type, in the newest form of those that whoever asks takes.

    `began_s` is when this process began to count, in seconds since 1970.
    """
    encode, content_type = choose_encoder(accept)
    return encode(
        _Page([*_requests(tally), *_tokens(tally), *_latencies(tally), *_process(tally, began_s)])
    ), content_type


class _Page(list[Metric]):
    """Metrics in the form that the library asks for."""

    def collect(self) -> Iterable[Metric]:
        return self


def _counter(name: str, text: str, labels: tuple[str, ...]) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, labels=labels)


def _requests(tally: Tally) -> Iterator[Metric]:
    ended = _counter("requests", "Requests that have ended", (*KEY, "outcome"))
    untold = _counter("requests_without_tokens", "Requests served whose tokens are not known", (*KEY, "tokens"))
    for key, line in tally.lines.items():
        for outcome in OUTCOMES:
            ended.add_metric((*key, outcome), line.requests[outcome])
        for kind, count in line.untold.items():
            untold.add_metric((*key, kind), count)
    running = GaugeMetricFamily(PREFIX + "requests_running", "Requests in hand", labels=KEY)
    for key, count in tally.running_by_key().items():
        running.add_metric(key, count)
    yield from (ended, untold, running)


def _tokens(tally: Tally) -> Iterator[Metric]:
    """A kind of tokens that nobody ever told is not there: it is not 0."""
    for kind, (name, text) in TOKENS.items():
        family = _counter(name, text, KEY)
        for key, line in tally.lines.items():
            if kind in line.tokens:
                family.add_metric(key, line.tokens[kind])
        if family.samples:
            yield family


def _latencies(tally: Tally) -> Iterator[Metric]:
    for kind, (name, text) in LATENCIES.items():
        family = HistogramMetricFamily(PREFIX + name, text, labels=KEY)
        for key, line in tally.lines.items():
            spread = line.latency[kind]
            if not spread.is_empty:
                family.add_metric(key, _buckets(spread), spread.sum_s)
        yield family


def _buckets(spread: Spread) -> list[tuple[str, float]]:
    return list(zip([*_EDGES, "+Inf"], accumulate(spread.counts), strict=True))


def _process(tally: Tally, began_s: float) -> Iterator[Metric]:
    if tally.alone:
        yield GaugeMetricFamily(PREFIX + "alone", "The server behind shows no metrics of its own", value=1)
    for name, text, counts in (
        ("refused", "Requests that were not passed on", tally.refused),
        ("upstream_failures", "Requests that the server did not answer to the end", tally.upstream),
    ):
        family = _counter(name, text, ("reason",))
        for reason, count in counts.items():
            family.add_metric((reason,), count)
        yield family
    yield GaugeMetricFamily("process_start_time_seconds", "When this process began to count", value=began_s)
