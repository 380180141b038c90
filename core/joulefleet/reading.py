"""What a meter or an engine said at one instant."""

import msgspec

Histogram = dict[str, int]
"""Requests by upper bucket edge in seconds, as written by the engine ("0.25", "+Inf"); not cumulative over buckets."""


class MeterReading(msgspec.Struct, frozen=True, kw_only=True):
    """A cumulative energy counter (preferred), a power gauge, or both side by side."""

    meter: str
    at_ns: int = 0
    """Agent time in nanoseconds since 1970; 0 where the sampler shall stamp it."""
    age_ns: int = 0
    """How old the value was when it was read, where the interface tells; counts only where the sampler stamps."""
    counter_uj: int | None = None
    power_mw: int | None = None
    epoch: str = ""
    """Life of the counter: changes when it may have begun anew (boot, driver load)."""
    activity_ns: dict[str, int] | None = None
    """Time for which each process kept it busy since the reading before that told, by process id; a process that runs
    and did nothing has 0. None where this reading does not tell. The agent puts engines in the place of processes."""
    processes: dict[str, str] | None = None
    """Those that run on it now, by process id, each with the slice in which it runs; empty where the meter has no
    slices. None where this reading does not tell."""
    gauges: dict[str, float] = {}
    """Values beside it, each name with its unit: `utilisation_pct`, `temperature_c`."""


class WorkKey(msgspec.Struct, frozen=True, order=True, omit_defaults=True):
    """Who and what a piece of work was for."""

    model: str
    revision: str = ""
    tenant: str = ""


class Counts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Cumulative work counters of one key. None where the engine does not count it: absent is never zero."""

    requests_ok: int | None = None
    requests_failed: int | None = None
    requests_aborted: int | None = None
    prompt_tokens: int | None = None
    """All prompt tokens, cached ones included."""
    cached_tokens: int | None = None
    output_tokens: int | None = None
    busy_ns: int | None = None
    """Time in which the engine computed."""
    prefill_busy_ns: int | None = None
    """The part of `busy_ns` in which it read prompts, where it tells both."""


COUNT_FIELDS: tuple[str, ...] = Counts.__struct_fields__
TIME_FIELDS = ("busy_ns", "prefill_busy_ns")
"""Those that are times, which a source may work out itself; the others are counted by the engine."""


class WorkReading(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine's page said: cumulative counters by key, and the requests in it now."""

    engine: str
    at_ns: int = 0
    age_ns: int = 0
    """How long ago it was so, where the source tells of the past; counts only where the sampler stamps."""
    epoch: str = ""
    """Life of the engine's process; empty where it does not tell. A change means that its counters began at 0."""
    counts: dict[WorkKey, Counts] = {}
    latency: dict[WorkKey, dict[str, Histogram]] = {}
    """By key and kind: `ttft`, `itl`, `e2e`; cumulative over time."""
    running: int | None = None
    queued: int | None = None
    version: str = ""
    """The engine's version where the page or another endpoint of it tells."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A meter or an engine that gave no value now, and why."""

    subject: str
    """Id of the meter or engine; empty for every one of the source."""
    code: str
    """Stable reason code, such as `gpu_lost`, `permission`, `scrape_failed`."""
    detail: str = ""


Reading = MeterReading | WorkReading | Failure
