"""What the collector counts of itself, and the page on which Prometheus reads it.

Counts lie in memory that all processes of one collector share. Each process adds to its own, and whichever is asked
tells the sums; the library gives them their form then. There are no locks: a count of a process is written by one of
its threads alone, those of windows and commits by the thread that stores, all others by the loop.
"""

import mmap
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum, auto
from functools import partial
from itertools import accumulate, groupby

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
STATUSES = (200, 400, 401, 403, 411, 413, 415, 421, 429, 500, 503)
"""Reasons and statuses that are told from the start, so that the first of each is seen as a rise."""
OTHER = "other"
"""Any reason or status besides."""
_BYTES = 8
"""Of one count: a float, exact for whole numbers up to 2**53."""

Counts = Sequence["memoryview[float]"]
"""The counts of each process of one collector."""


class _Count(IntEnum):
    """The place of a count among those of its process."""

    PROCESS = 0
    ACCEPTED = auto()
    KNOWN = auto()
    STORE_ERRORS = auto()
    SET_ASIDE = auto()
    COMMITS_S = auto()
    BATCH_BYTES = auto()
    STREAMS = auto()
    WAITING = auto()
    WAITING_BYTES = auto()


def _places(first: int, keys: Sequence[int | str]) -> dict[int | str, int]:
    return {key: first + number for number, key in enumerate((*keys, OTHER))}


_REFUSED = _places(len(_Count), REASONS)
_BATCHES = _places(_REFUSED[OTHER] + 1, STATUSES)
_COMMITS = range(_BATCHES[OTHER] + 1, _BATCHES[OTHER] + 2 + len(COMMITS_S))


def shared(processes: int) -> Counts:
    """Zeros for so many processes, which whatever is forked from this one shares with it."""
    size = _COMMITS.stop
    memory = memoryview(mmap.mmap(-1, processes * size * _BYTES)).cast("d")
    return [memory[first : first + size] for first in range(0, len(memory), size)]


class Meters:
    """Counts since the collector started."""

    def __init__(
        self, now_s: Callable[[], float] = time.monotonic, counts: Counts | None = None, place: int = 0
    ) -> None:
        """`counts` are those of all processes, and at `place` this one's; it is alone where they are left out."""
        self._now_s = now_s
        self._writes_since_s: float | None = None
        self._counts = counts or shared(1)
        self._own = self._counts[place]
        self._own[_Count.PROCESS] = os.getpid()

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
            self._own[_Count.STORE_ERRORS] += 1
            raise
        finally:
            self._writes_since_s = None
        took_s = self._now_s() - began_s
        self._own[_COMMITS[bisect_left(COMMITS_S, took_s)]] += 1
        self._own[_Count.COMMITS_S] += took_s
        self._own[_Count.ACCEPTED] += new
        self._own[_Count.KNOWN] += len(accounted) - new
        self._own[_Count.SET_ASIDE] = store.lines_set_aside or 0

    def refuse(self, rejected: Iterable[Rejected]) -> None:
        """These windows were told to be refused; called by the thread that stores."""
        for one in rejected:
            self._own[_REFUSED.get(one.code, _REFUSED[OTHER])] += 1

    def answered(self, status: int, size: int) -> None:
        """A batch of so many bytes, as they came, was answered."""
        self._own[_BATCHES.get(status, _BATCHES[OTHER])] += 1
        if status == 200:
            self._own[_Count.BATCH_BYTES] += size

    def stream(self, opened: int) -> None:
        """A stream was opened (1) or ended (-1)."""
        self._own[_Count.STREAMS] += opened

    def waiting(self, batches: int, size: int) -> None:
        """So many batches are in hand now, and so many bytes of them, opened."""
        self._own[_Count.WAITING] = batches
        self._own[_Count.WAITING_BYTES] = size

    def sums(self) -> list[float]:
        """Each count, summed over all processes."""
        return [sum(several) for several in zip(*self._counts, strict=True)]

    @property
    def processes(self) -> list[int]:
        """The numbers of all processes that have begun to count."""
        return [int(own[_Count.PROCESS]) for own in self._counts if own[_Count.PROCESS]]


class Page(list[Metric]):
    """Metrics in the form that the library asks for."""

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        return self


def page(metrics: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """The text and its content type, in the newest form of those that whoever asks takes."""
    encode, content_type = choose_encoder(accept)
    return encode(Page(metrics)), content_type


def process(numbers: Sequence[int]) -> Iterator[Metric]:
    """Memory, CPU time and open files of these processes together, under the names that all Prometheus clients use.

    What one of them does not tell is left out.
    """
    told = [one for number in numbers for one in ProcessCollector(pid=partial(int, number), registry=None).collect()]
    for _, each in groupby(sorted(told, key=lambda one: one.name), key=lambda one: one.name):
        first, *others = each
        if len(others) == len(numbers) - 1:
            yield _together(first, others)


def _together(first: Metric, others: Sequence[Metric]) -> Metric:
    values = [one.samples[0].value for one in (first, *others)]
    total = min(values) if first.name == "process_start_time_seconds" else sum(values)
    first.samples = [first.samples[0]._replace(value=total)]
    return first


def counted(meters: Meters, store: Store) -> Iterator[Metric]:
    """Windows, batches, commits and streams."""
    sums = meters.sums()
    yield _counter("windows_accepted", "Windows that were stored.", sums[_Count.ACCEPTED])
    if store.tells_known:
        yield _counter("windows_known", "Windows that were stored before and came again.", sums[_Count.KNOWN])
    yield _counters("windows_refused", "Windows that were not taken, by reason.", "reason", _REFUSED, sums)
    yield _counters("batches", "Answers to batches, and to streams that were refused.", "status", _BATCHES, sums)
    yield _counter("batch_bytes", "Bytes of batches that were taken, as they came.", sums[_Count.BATCH_BYTES])
    yield _commits(sums)
    yield _counter("store_errors", "Commits that failed.", sums[_Count.STORE_ERRORS])
    if store.lines_set_aside is not None:
        yield _counter("set_aside_lines", "Lines that InfluxDB refused for good.", sums[_Count.SET_ASIDE])
    yield _gauge("streams_open", "Agents' streams that are open.", sums[_Count.STREAMS])
    yield _gauge("batches_waiting", "Batches in hand that are not answered yet.", sums[_Count.WAITING])
    yield _gauge("batches_waiting_bytes", "Their bytes, opened.", sums[_Count.WAITING_BYTES])


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


def _commits(sums: Sequence[float]) -> Metric:
    names = (*map(str, COMMITS_S), "+Inf")
    buckets = list(zip(names, accumulate(sums[place] for place in _COMMITS), strict=True))
    return HistogramMetricFamily(
        f"{PREFIX}commit_duration_seconds",
        "Time that the store took to commit a group of batches.",
        buckets,
        sums[_Count.COMMITS_S],
    )


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, meaning, value)


def _counters(name: str, meaning: str, label: str, places: Mapping[int | str, int], sums: Sequence[float]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, meaning, labels=[label])
    for key, place in places.items():
        family.add_metric([str(key)], sums[place])
    return family


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, meaning, value)
