"""Turns a server's page into its work counters, by a table that says which metrics tell them.

Rules that hold for every server. Of several names for one quantity the first that the page knows is taken, never two.
A counter is found with or without `_total`. Series that differ in labels the table does not name are added up (data
parallel ranks, labels of later releases), except ranks that repeat one count: of those the largest is taken.
`_created` and other series that are no counts are never touched, because a name is matched whole.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import msgspec

from joulefleet import Counts, Histogram, WorkKey, WorkReading
from joulefleet.units import s_to_ns, us_to_ns
from joulefleet_plugins.interfaces.exposition import BadPage, Page, Sample
from joulefleet_plugins.work.batch_busy import Batches
from joulefleet_plugins.work.rises import Rises, Shown

RANK_LABELS = frozenset({"tp_rank", "pp_rank", "moe_ep_rank"})
"""Tensor, pipeline and expert parallel ranks: each repeats the count of the whole engine."""
COUNTER_TYPES = frozenset({"counter", "unknown", "untyped"})
HISTOGRAM_TYPES = frozenset({"histogram", "summary"})
SUFFIXES = ("_total", "_bucket", "_sum", "_count")
PROCESS_START = "process_start_time_seconds"
MAX_LABEL_CHARACTERS = 200
"""Longer names of models and tenants are cut; what then bears one name is added up."""
NO_NAME = ("", "None", "unknown")
"""How servers write that a label has no value."""


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A counter, or those of its series that have (or, with `but`, have not) certain values of one label."""

    name: str
    """Without the table's prefix and without `_total`; of a histogram with its `_sum` or `_count`."""
    plus: tuple[str, ...] = ()
    """Other counters that are added to it."""
    unit: Literal["", "s", "us"] = ""
    """Of a counter of time: seconds or microseconds, read as nanoseconds."""
    label: str = ""
    only: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    from_start: bool = False
    """Whether a server that counts this shows the series from its start: without one, the next of the table is taken.
    Otherwise a metric without such a series stands at 0, because labelled series appear with their first event."""

    def takes(self, labels: Mapping[str, str]) -> bool:
        """Whether a series with these labels belongs to it."""
        value = labels.get(self.label, "")
        return value not in self.but and (not self.only or value in self.only)


class Batched(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counters of which the busy time is made where each request of a batch adds the whole batch's time."""

    time: Series
    executions: Series
    requests: Series


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one kind of inference server tells its work."""

    software: str
    prefixes: tuple[str, ...] = ("",)
    """What its metrics' names begin with; the first that the page knows is taken."""
    marks: tuple[str, ...] = ()
    """Metrics that a page must all have to be recognised as its own, where their names alone are too common."""
    lazy: bool = False
    """Whether it shows counters only from its first request on, so that before it its gauges tell whose page it is."""
    layer: int = 0
    """Of a page with the counters of several, those of the lowest layer are read: of the engine inside the others."""
    gathered: bool = False
    """Whether its page gathers many workers, whose series go when they end."""
    front: bool = False
    """Whether it passes requests on to engines that count them too, so that it is read only where it is named."""
    counters: dict[str, tuple[Series, ...]]
    """By field of Counts, in order of preference."""
    batched: Batched | None = None
    running: tuple[str, ...] = ()
    queued: tuple[str, ...] = ()
    latency: dict[str, tuple[str, ...]] = {}
    """Histograms in seconds by kind: `ttft`, `itl`, `e2e`."""
    model_labels: tuple[str, ...] = ("model_name", "model")
    revision_labels: tuple[str, ...] = ()
    tenant_labels: tuple[str, ...] = ()
    """The first of these labels that has a value tells it."""
    counts_at_finish: bool = False
    metrics_path: str = "/metrics"
    version_path: str = ""
    version_field: str = ""
    """Where the server tells its version: a path, and a field of the JSON object there."""
    model_fields: tuple[str, ...] = ()
    revision_field: str = ""
    """Fields of that object that tell the model, where the page does not."""
    mend: str = "is this its metrics page?"
    """What to do when a page has none of these metrics."""

    def __post_init__(self) -> None:
        unknown = sorted({*self.counters} - {*Counts.__struct_fields__})
        if unknown:
            raise ValueError(f"'{unknown[0]}' is no counter; one of {', '.join(Counts.__struct_fields__)}")


class Names(NamedTuple):
    """What models are called in place of what pages call them."""

    all: str = ""
    """Stands for every name, where it is given."""
    some: Mapping[str, str] = MappingProxyType({})
    """Other names by those of the page."""

    def of(self, told: str) -> str:
        """The name of the model that a page calls so."""
        return self.all or self.some.get(told, told)


AS_TOLD = Names()


class Unrecognised(ValueError):
    """A page that has none of the table's metrics."""

    code = "unrecognised"

    def __init__(self, table: Table) -> None:
        self.table = table
        super().__init__(table)

    def __str__(self) -> str:
        return f"the page has no metric of {self.table.software}; {self.table.mend}"


KeyOf = Callable[[Mapping[str, str]], WorkKey]
Choice = tuple[Series, list[list[Sample]]]


def read_page(
    page: Page, table: Table, engine: str, called: Names = AS_TOLD, rises: Rises | None = None
) -> WorkReading:
    """What a page says of an engine's work. Models of one name are added up.

    With `rises`, which is told every page, counters are what rose since the first, and the epoch is left to the caller.
    Raises Unrecognised, or BadPage where a counter has no countable value.
    """

    key_of = _keys(table, called)
    prefix = _prefix(page, table)
    counters = {name: choice for name, several in table.counters.items() if (choice := _choose(page, prefix, several))}
    running, queued = (_first_of(page, prefix, names) for names in (table.running, table.queued))
    buckets = {kind: _first_of(page, prefix, names, "_bucket") for kind, names in table.latency.items()}
    shown = [running, queued, *buckets.values(), *(samples for _, parts in counters.values() for samples in parts)]
    keys = {key_of(sample.labels) for samples in shown for sample in samples}
    if rises is None:
        sums = {name: _by_key(*choice, key_of) for name, choice in counters.items()}
    else:
        sums = rises.feed({name: _series(*choice, key_of) for name, choice in counters.items()})
        keys = keys.union(*sums.values())
    latency = {kind: _histograms(samples, key_of) for kind, samples in buckets.items()}
    return WorkReading(
        engine=engine,
        epoch=_epoch(page, [prefix + series.name for series, _ in counters.values()]),
        counts={one: Counts(**{name: of.get(one, 0) for name, of in sums.items()}) for one in sorted(keys)},
        latency={
            one: kinds
            for one in sorted(keys)
            if (kinds := {kind: of[one] for kind, of in latency.items() if one in of})
        },
        running=_gauge(running),
        queued=_gauge(queued),
    )


def read_batches(page: Page, table: Table, called: Names = AS_TOLD) -> dict[WorkKey, Batches]:
    """The counters of batches of each model that shows them. Raises BadPage."""
    if table.batched is None:
        return {}
    prefix, key_of = _prefix(page, table), _keys(table, called)
    parts = [
        _by_key(*choice, key_of) if (choice := _choose(page, prefix, (series,))) else {}
        for series in (table.batched.time, table.batched.executions, table.batched.requests)
    ]
    keys = set.intersection(*({*part} for part in parts))
    return {key: Batches(*(part[key] for part in parts)) for key in sorted(keys)}


def known_names(page: Page) -> set[str]:
    """The metrics that a page shows or declares, with and without the endings that a sample's name may have."""
    names = {*page.types, *page.samples}
    return names | {name.removesuffix("_total") for name in names} | {base(name) for name in names}


def base(name: str) -> str:
    """A metric's name without the ending of one of its samples."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def is_of(known: set[str], table: Table) -> bool:
    """Whether a page that knows these metrics has a counter of this table, and all that marks it."""
    names = {*_counters(table), *((*table.running, *table.queued) if table.lazy else ())}
    return any(
        any(_is_known(known, prefix + name) for name in names)
        and all(_is_known(known, prefix + mark) for mark in table.marks)
        for prefix in table.prefixes
    )


def _counters(table: Table) -> set[str]:
    return {series.name for several in table.counters.values() for series in several}


def _is_known(known: set[str], name: str) -> bool:
    return name in known or base(name) in known


def _keys(table: Table, called: Names) -> KeyOf:
    names = (*table.model_labels, *table.revision_labels, *table.tenant_labels)
    # A page has hundreds of samples and a few keys.
    known: dict[tuple[str | None, ...], WorkKey] = {}

    def named(labels: Mapping[str, str], names: tuple[str, ...]) -> str:
        told = (labels[name] for name in names if labels.get(name, "") not in NO_NAME)
        return next(told, "")[:MAX_LABEL_CHARACTERS]

    def key_of(labels: Mapping[str, str]) -> WorkKey:
        values = tuple(map(labels.get, names))
        key = known.get(values)
        if key is None:
            key = known[values] = WorkKey(
                called.of(named(labels, table.model_labels)),
                named(labels, table.revision_labels),
                named(labels, table.tenant_labels),
            )
        return key

    return key_of


def _prefix(page: Page, table: Table) -> str:
    latencies = (name for names in table.latency.values() for name in names)
    names = {*_counters(table), *table.running, *table.queued, *latencies}
    known: set[str] | None = None
    for prefix in table.prefixes:
        if any(prefix + name in page.samples or prefix + name in page.types for name in names):
            return prefix
        # Names with other endings: a page seldom has none as the table has it.
        known = known_names(page) if known is None else known
        if any(_is_known(known, prefix + name) for name in names):
            return prefix
    raise Unrecognised(table)


def _choose(page: Page, prefix: str, several: Iterable[Series]) -> Choice | None:
    """The first of several counters that the page knows."""
    for series in several:
        found = [_counter(page, prefix + name) for name in (series.name, *series.plus)]
        known = [samples for samples in found if samples is not None]
        taken = (series.takes(sample.labels) for samples in known for sample in samples)
        if known and (not series.from_start or any(taken)):
            return series, known
    return None


def _counter(page: Page, name: str) -> list[Sample] | None:
    """A counter's samples, by its name without `_total`; None where the page does not know it."""
    # A page with both forms shows one counter twice: only one of them is taken.
    forms = (name + "_total", name)
    found = next((page.samples[form] for form in forms if form in page.samples), None)
    declared = any(page.types.get(form) in COUNTER_TYPES for form in forms)
    declared |= name.endswith(("_sum", "_count")) and page.types.get(base(name)) in HISTOGRAM_TYPES
    return [] if found is None and declared else found


def _first_of(page: Page, prefix: str, names: Iterable[str], suffix: str = "") -> list[Sample]:
    return next((found for name in names if (found := page.samples.get(prefix + name + suffix))), [])


def _by_key(series: Series, parts: list[list[Sample]], key_of: KeyOf) -> dict[WorkKey, int]:
    sums: dict[WorkKey, int] = {}
    for _, key, count in _series(series, parts, key_of):
        sums[key] = sums.get(key, 0) + count
    return sums


def _series(series: Series, parts: list[list[Sample]], key_of: KeyOf) -> list[Shown]:
    return [
        ((series.name, part, frozenset(labels.items())), key_of(labels), count)
        for part, samples in enumerate(parts)
        for labels, count in _without_ranks([one for one in samples if series.takes(one.labels)], series.unit)
    ]


def _without_ranks(samples: list[Sample], unit: str = "") -> list[tuple[dict[str, str], int]]:
    """Labels and count of each series, one for all ranks that repeat it."""
    largest: dict[frozenset[tuple[str, str]], tuple[dict[str, str], int]] = {}
    for sample in samples:
        # A rank's process id is no other engine's.
        repeated = RANK_LABELS | {"pid"} if RANK_LABELS & sample.labels.keys() else RANK_LABELS
        labels = {name: value for name, value in sample.labels.items() if name not in repeated}
        series = frozenset(labels.items())
        count = _whole(sample, unit)
        if series not in largest or count > largest[series][1]:
            largest[series] = labels, count
    return list(largest.values())


def _whole(sample: Sample, unit: str = "") -> int:
    if not math.isfinite(sample.value) or sample.value < 0:
        raise BadPage("malformed", f"a counter stands at {sample.value}", sample.line)
    return s_to_ns(sample.value) if unit == "s" else us_to_ns(round(sample.value)) if unit else round(sample.value)


def _gauge(samples: list[Sample]) -> int | None:
    """The sum of a gauge over all its series; None where one of them has no value now."""
    if not samples or not all(math.isfinite(sample.value) and sample.value >= 0 for sample in samples):
        return None
    return sum(count for _, count in _without_ranks(samples))


def _histograms(samples: list[Sample], key_of: KeyOf) -> dict[WorkKey, Histogram]:
    """Requests in each bucket by key, from buckets that are cumulative over their edges."""
    _check_edges(samples)
    series: dict[frozenset[tuple[str, str]], dict[str, int]] = {}
    for labels, count in _without_ranks(samples):
        edge = labels.pop("le")
        series.setdefault(frozenset(labels.items()), {})[edge] = count
    histograms: dict[WorkKey, Histogram] = {}
    for key, cumulative in series.items():
        into = histograms.setdefault(key_of(dict(key)), {})
        for edge, count in _each(cumulative, samples[0].line).items():
            into[edge] = into.get(edge, 0) + count
    return histograms


def _check_edges(samples: list[Sample]) -> None:
    for sample in samples:
        try:
            good = not math.isnan(float(sample.labels.get("le", "")))
        except ValueError:
            good = False
        if not good:
            raise BadPage("malformed", "a bucket without an edge `le`", sample.line)


def _each(cumulative: dict[str, int], line: int) -> Histogram:
    """The count of each bucket alone. Raises BadPage where the counts are not cumulative or the last is missing."""
    edges = sorted(cumulative, key=float)
    if not math.isinf(float(edges[-1])):
        raise BadPage("malformed", "a histogram without its bucket +Inf", line)
    lower, each = 0, {}
    for edge in edges:
        each[edge], lower = cumulative[edge] - lower, cumulative[edge]
        if each[edge] < 0:
            raise BadPage("malformed", f"a histogram with fewer requests up to {edge} than below it", line)
    return each


def _epoch(page: Page, names: list[str]) -> str:
    """When the process began, as the page tells it; empty where it does not.

    Several process starts (a page gathered from many) say nothing: the restart of one is not one of all. The earliest
    creation of a counter is that of the process, because series are only ever added.
    """
    starts = page.samples.get(PROCESS_START, [])
    if not starts:
        starts = [sample for name in names for sample in page.samples.get(name + "_created", [])]
    elif len(starts) > 1:
        return ""
    times = [float(sample.value) for sample in starts if math.isfinite(sample.value)]
    return str(min(times)) if times else ""
