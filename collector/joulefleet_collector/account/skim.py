"""A window read for its numbers only: its declarations stay unread where the same ones were read before.

What `judge` would refuse in the numbers is refused here too, mostly by the decoder itself; whoever cannot skim a
window reads it whole and learns why. Declarations and names go into a digest: windows of one digest differ in their
numbers and their start alone.
"""

from hashlib import blake2b
from sys import float_info
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from joulefleet.latency import GRID
from joulefleet_collector.bounds import MAX_ENTRIES, MAX_TEXT

MAX_EXACT = 2**53
"""The largest number up to which every integer is a float too. Windows with larger sums are read whole."""


UNKNOWN = -1
"""In the place of None, so that all numbers are of one kind. A window that spells a None out is read whole."""

Sum = Annotated[int, Meta(ge=0, le=MAX_EXACT)]
Raw = Annotated[int, Meta(ge=-(2**61), le=2**61)]
Any64 = Annotated[int, Meta(ge=-(2**62), le=2**62)]
Measured = Annotated[float, Meta(ge=-float_info.max, le=float_info.max)]
"""Neither infinite nor NaN."""
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Gaps = Annotated[dict[Text, Sum], Meta(max_length=MAX_ENTRIES)]
Cells = Annotated[dict[Annotated[int, Meta(ge=0, le=len(GRID))], Sum], Meta(max_length=MAX_ENTRIES)]


# None of these can be part of a cycle, and looking for cycles among so many costs more than reading them.
class SkimmedMeter(msgspec.Struct, kw_only=True, gc=False):
    """The numbers of a `MeterWindow`."""

    meter: msgspec.Raw
    first_uj: Raw = 0
    last_uj: Raw = 0
    energy_uj: Sum = 0
    covered_ns: Sum = 0
    interpolated_ns: Sum = 0
    trace_mw: Annotated[tuple[Any64 | None, ...], Meta(max_length=MAX_ENTRIES)] = ()
    late_uj: Sum = 0
    late_from_ns: Any64 = 0
    late_to_ns: Any64 = 0
    rejected_uj: Sum = 0
    lower_bound_uj: Sum = 0
    gaps_ns: Gaps = {}
    idle_mw: Sum = UNKNOWN
    idle_learnt: bool = False
    gauge_uj: Annotated[int, Meta(ge=-MAX_EXACT, le=MAX_EXACT)] = 0
    gauge_ns: Sum = 0
    activity_ns: Annotated[dict[Text, Sum], Meta(max_length=MAX_ENTRIES)] = {}
    gauges: Annotated[dict[Text, Measured], Meta(max_length=MAX_ENTRIES)] = {}
    states: Annotated[tuple[Text, ...], Meta(max_length=MAX_ENTRIES)] = ()


class SkimmedCounts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The numbers of `Counts`."""

    requests_ok: Sum = UNKNOWN
    requests_failed: Sum = UNKNOWN
    requests_aborted: Sum = UNKNOWN
    prompt_tokens: Sum = UNKNOWN
    cached_tokens: Sum = UNKNOWN
    output_tokens: Sum = UNKNOWN
    busy_ns: Sum = UNKNOWN
    prefill_busy_ns: Sum = UNKNOWN


class SkimmedWork(msgspec.Struct, kw_only=True, gc=False):
    """The numbers of a `Work`."""

    key: msgspec.Raw
    counts: SkimmedCounts = SkimmedCounts()
    late: SkimmedCounts = SkimmedCounts()
    latency: Annotated[dict[Text, Cells], Meta(max_length=MAX_ENTRIES)] = {}


class SkimmedEngine(msgspec.Struct, kw_only=True, gc=False):
    """The numbers of an `EngineWindow`."""

    engine: msgspec.Raw
    work: tuple[SkimmedWork, ...] = ()
    covered_ns: Sum = 0
    restarts: Sum = 0
    gaps_ns: Gaps = {}
    running_start: Sum = UNKNOWN
    running_end: Sum = UNKNOWN
    running_ns: Sum = UNKNOWN
    queued_ns: Sum = UNKNOWN


class SkimmedLosses(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The numbers of `Losses`."""

    windows: Sum = 0
    seconds: Annotated[float, Meta(ge=0, le=MAX_EXACT)] = 0.0
    energy_uj: Sum = 0
    refused_windows: Sum = 0


class SkimmedCost(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The numbers of an `AgentCost`."""

    cpu_ns: Sum = 0
    rss_bytes: Sum = 0
    energy_uj: Sum = 0
    spool_windows: Sum = 0
    spool_bytes: Sum = 0
    clock_ahead_ns: Annotated[int, Meta(ge=-MAX_EXACT, le=MAX_EXACT)] | None = None
    clock_error_ns: Sum | None = None


class Skimmed(msgspec.Struct, kw_only=True, gc=False):
    """The numbers of a `Window`."""

    schema: Literal[1] = 1
    server: str
    timeline: int
    start_ns: Annotated[int, Meta(ge=0, le=2**62)]
    step_ns: int
    pool: str = ""
    site: str = ""
    labels: dict[str, str] = {}
    hardware: str = ""
    simulated: bool = False
    meters: tuple[SkimmedMeter, ...] = ()
    engines: tuple[SkimmedEngine, ...] = ()
    losses: SkimmedLosses = SkimmedLosses()
    agent: SkimmedCost = SkimmedCost()
    facts: dict[str, str] = {}


class Head(msgspec.Struct, frozen=True, gc=False):
    """The key of a window, without its numbers."""

    server: str
    timeline: int
    step_ns: int
    start_ns: int

    @property
    def key(self) -> tuple[str, int, int, int]:
        """As `Window.key`."""
        return (self.server, self.timeline, self.step_ns, self.start_ns)

    @property
    def end_ns(self) -> int:
        """First instant after the window."""
        return self.start_ns + self.step_ns


_DECODER = msgspec.msgpack.Decoder(Skimmed)
_ENCODER = msgspec.msgpack.Encoder()


def skim(body: bytes | msgspec.Raw) -> Skimmed | None:
    """The window's numbers, or None where it must be read whole. Its declarations are not judged."""
    try:
        window = _DECODER.decode(body)
        return window if _agrees(window) else None
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None


def head(window: Skimmed) -> Head:
    """The window's key, for whoever needs its numbers no more."""
    return Head(window.server, window.timeline, window.step_ns, window.start_ns)


def digest(window: Skimmed) -> bytes:
    """Equal for windows that differ in their numbers and their start alone, and otherwise not."""
    told_first = (window.server, window.timeline, window.step_ns, window.pool, window.site, window.hardware)
    works = [len(one.work) for one in window.engines]
    told = (*told_first, window.simulated, window.labels, window.facts, len(window.meters), works)
    # What follows is told apart, since every value of msgpack says where it ends.
    parts: list[bytes | msgspec.Raw] = [_ENCODER.encode(told), *[one.meter for one in window.meters]]
    if states := [(place, one.states) for place, one in enumerate(window.meters) if one.states]:
        parts.append(_ENCODER.encode(states))
    for one in window.engines:
        parts += (one.engine, *[work.key for work in one.work])
    return blake2b(b"".join(parts), digest_size=16).digest()


def _agrees(window: Skimmed) -> bool:
    step_ns = window.step_ns
    return (
        step_ns > 0
        and not window.start_ns % step_ns
        and all(_meter_agrees(one, step_ns) for one in window.meters)
        and all(one.covered_ns <= step_ns for one in window.engines)
    )


def _meter_agrees(one: SkimmedMeter, step_ns: int) -> bool:
    is_whole = one.first_uj + one.energy_uj + one.late_uj == one.last_uj
    return is_whole and one.interpolated_ns <= one.covered_ns <= step_ns
