"""What the collector counts of itself, and the page on which Prometheus reads it.

The counts are plain numbers, added to once for a commit or an answer; the library gives them their form when they are
asked for. Those of windows and commits are written by the thread that stores, those of batches and streams by the loop.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from joulefleet.delivery import Rejected
from joulefleet.units import ns_to_s
from joulefleet_collector.fleet import Summary
from joulefleet_collector.store.store import Accounted, Store

PREFIX = "joulefleet_collector_"
COMMITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Edges of the histogram of commits, in seconds."""
REASONS = ("malformed", "wrong_schema", "too_old", "too_early", "not_accounted", "not_stored")
STATUSES = (200, 400, 401, 403, 413, 429, 503)
"""Reasons and statuses that are told from the start, so that the first of each is seen as a rise."""


class Meters:
    """Counts since the process started."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self.accepted = 0
        self.known = 0
        self.refused = dict.fromkeys(REASONS, 0)
        self.store_errors = 0
        self.commits = [0] * (len(COMMITS_S) + 1)
        self.commits_s = 0.0
        self.batches = dict.fromkeys(STATUSES, 0)
        self.batch_bytes = 0
        self.streams = 0
        self._writes_since_s: float | None = None

    @property
    def writes_s(self) -> float:
        """Seconds that the store has been writing a commit now; 0 where it writes none."""
        since_s = self._writes_since_s
        return 0.0 if since_s is None else self._now_s() - since_s

    def commit(self, store: Store, accounted: Sequence[Accounted], received_ns: int) -> None:
        """Write these windows to the store. Raises what the store raises."""
        began_s = self._writes_since_s = self._now_s()
        try:
            new = store.write(accounted, received_ns)
        except BaseException:
            self.store_errors += 1
            raise
        finally:
            self._writes_since_s = None
        took_s = self._now_s() - began_s
        self.commits[bisect_left(COMMITS_S, took_s)] += 1
        self.commits_s += took_s
        self.accepted += new
        self.known += len(accounted) - new

    def refuse(self, rejected: Iterable[Rejected]) -> None:
        """These windows were told to be refused."""
        for one in rejected:
            self.refused[one.code] = self.refused.get(one.code, 0) + 1

    def answered(self, status: int, size: int) -> None:
        """A batch of so many bytes, as they came, was answered."""
        self.batches[status] = self.batches.get(status, 0) + 1
        if status == 200:
            self.batch_bytes += size


class Page(list[Metric]):
    """Metrics in the form that the library asks for."""

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        return self


def page(metrics: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """The text and its content type, in the newest form of those that whoever asks takes."""
    encode, content_type = choose_encoder(accept)
    return encode(Page(metrics)), content_type


def process() -> Iterator[Metric]:
    """Memory, CPU time and open files of this process, under the names that all Prometheus clients use."""
    yield from ProcessCollector(registry=None).collect()


def counted(meters: Meters, store: Store) -> Iterator[Metric]:
    """Windows, batches, commits and streams."""
    yield _counter("windows_accepted", "Windows that were stored.", meters.accepted)
    if store.tells_known:
        yield _counter("windows_known", "Windows that were stored before and came again.", meters.known)
    yield _counters("windows_refused", "Windows that were not taken, by reason.", "reason", dict(meters.refused))
    yield _counters("batches", "Answers to batches, and to streams that were refused.", "status", dict(meters.batches))
    yield _counter("batch_bytes", "Bytes of batches that were taken, as they came.", meters.batch_bytes)
    yield _commits(meters)
    yield _counter("store_errors", "Commits that failed.", meters.store_errors)
    if store.lines_set_aside is not None:
        yield _counter("set_aside_lines", "Lines that InfluxDB refused for good.", store.lines_set_aside)
    yield _gauge("streams_open", "Agents' streams that are open.", meters.streams)


def waiting(batches: int, size: int) -> Iterator[Metric]:
    """Batches in hand."""
    yield _gauge("batches_waiting", "Batches in hand that are not answered yet.", batches)
    yield _gauge("batches_waiting_bytes", "Their bytes, opened.", size)


def of_fleet(summary: Summary, now_ns: int) -> Iterator[Metric]:
    """The agents as the store knows them. What no agent told is left out."""
    agents = GaugeMetricFamily(f"{PREFIX}agents", "Agents by status.", labels=["status"])
    for status, number in summary.by_status.items():
        agents.add_metric([status], number)
    yield agents
    if summary.spool_windows is not None:
        yield _gauge(
            "agents_spool_windows",
            "Windows that wait with agents that are not retired, as last told.",
            summary.spool_windows,
        )
    if summary.newest_end_ns is not None:
        age_s = ns_to_s(now_ns - summary.newest_end_ns)
        yield _gauge("newest_window_age_seconds", "Time since the end of the newest window of any agent.", age_s)


def _commits(meters: Meters) -> Metric:
    names = (*map(str, COMMITS_S), "+Inf")
    buckets = list(zip(names, accumulate(list(meters.commits)), strict=True))
    return HistogramMetricFamily(
        f"{PREFIX}commit_duration_seconds",
        "Time that the store took to commit a group of batches.",
        buckets,
        meters.commits_s,
    )


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, meaning, value)


def _counters(name: str, meaning: str, label: str, values: dict[str, int] | dict[int, int]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, meaning, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, meaning, value)
