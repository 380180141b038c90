"""The window: one server's whole, final and self-contained account of one interval.

SCHEMA rises when a reader of the older form would misread the newer one: a field that changes its meaning or unit, or
one without which sums go wrong. A field that older readers may ignore does not raise it.

Energy is in integer microjoules, time in integer nanoseconds since 1970 or of length. In JSON, raw counters
(`first_uj`, `last_uj`) are strings, since a JSON number is not safe beyond 2**53.
"""

from math import frexp, ldexp

import msgspec

from joulefleet.describe import Engine, Meter
from joulefleet.latency import Cells
from joulefleet.reading import Counts, WorkKey

SCHEMA = 1
RAW_COUNTERS = ("first_uj", "last_uj")
COARSE_BITS = 12


class MeterWindow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One meter's joules in a window.

    `first_uj` and `last_uj` are the meter's running total at the start and the end as far as they were known when the
    window closed: last - first = energy + late, and `last_uj` of one window is `first_uj` of the next. The total
    follows the counter through wraps and stands still over resets, gaps and refused readings.
    """

    meter: Meter
    first_uj: int = 0
    last_uj: int = 0
    energy_uj: int = 0
    covered_ns: int = 0
    interpolated_ns: int = 0
    """Covered time inside pairs of readings so far apart that the place of the joules in time is uncertain."""
    trace_mw: tuple[int | None, ...] = ()
    """Mean power of each 10 s, `coarse`; None where nothing is known."""
    late_uj: int = 0
    """Joules of windows that were already sent, revealed since."""
    late_from_ns: int = 0
    late_to_ns: int = 0
    rejected_uj: int = 0
    """Joules of readings that were refused as implausible."""
    lower_bound_uj: int = 0
    """Joules that were at least used in gaps (a counter that began anew at 0)."""
    gaps_ns: dict[str, int] = {}
    """Uncovered time by reason code."""
    idle_mw: int | None = None
    """Idle power as learnt on this server, or from the catalogue; None where neither is known."""
    idle_learnt: bool = False
    gauge_uj: int = 0
    """Integral of the gauge beside the counter, over `gauge_ns`: the cross-check."""
    gauge_ns: int = 0
    activity_ns: dict[str, int] | None = None
    """Time for which each engine's processes kept it busy, by engine; an engine that was found and did nothing has 0,
    processes of no engine stand under the empty name. None where it is not known."""
    gauges: dict[str, float] = {}
    """Means over the readings of the window, `coarse`."""
    states: tuple[str, ...] = ()
    """What is wrong with the sensor although it answers: `unvalidated`, `sensor_disagreement`, `stuck`. What cost time
    stands in `gaps_ns`."""


def coarse(value: float) -> float:
    """A mean as it travels: to 1 in 4,096, which no sensor knows better, and with zeros behind that cost nothing."""
    part, exponent = frexp(value)
    return ldexp(round(ldexp(part, COARSE_BITS)), exponent - COARSE_BITS)


NOTHING = Counts()
"""No count of anything; this very object is left out of what is encoded."""


class Work(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What an engine did for one key in a window.

    Counts are None where the engine does not count them, and where nothing of the window is known.
    """

    key: WorkKey
    counts: Counts = NOTHING
    late: Counts = NOTHING
    """Counts of windows that were already sent, revealed since."""
    latency: dict[str, Cells] = {}
    """Requests by cell of the fixed grid, for `ttft`, `itl` and `e2e`."""


class EngineWindow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One engine's work in a window."""

    engine: Engine
    work: tuple[Work, ...] = ()
    """At least one entry once the engine was ever read: its last known model, with counts 0 if nothing was done."""
    covered_ns: int = 0
    restarts: int = 0
    """Restarts seen: what the engine counted between its last reading and each of them is not known."""
    gaps_ns: dict[str, int] = {}
    running_start: int | None = None
    """Running and queued requests at the start and the end of the window."""
    running_end: int | None = None
    running_ns: int | None = None
    """Integral of running requests over the window, in request-nanoseconds."""
    queued_ns: int | None = None


class Losses(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What this agent has lost, cumulative over its timeline."""

    windows: int = 0
    seconds: float = 0.0
    energy_uj: int = 0
    refused_windows: int = 0
    """Windows that a collector refused for good; they are kept aside."""


class AgentCost(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What measuring itself cost in a window, and how the agent's clock stood at its end."""

    cpu_ns: int = 0
    rss_bytes: int = 0
    energy_uj: int = 0
    """Estimated from CPU time and the watts of one core under load."""
    spool_windows: int = 0
    spool_bytes: int = 0
    clock_ahead_ns: int | None = None
    """The agent's clock less the collector's; None where no collector answered since the window before."""
    clock_error_ns: int | None = None
    """The true offset lies within so much of it: half the round trip of that answer."""


class Window(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One server's whole account of the interval [start_ns, start_ns + step_ns).

    The key is (server, timeline, step_ns, start_ns); no two windows of one key ever differ.
    """

    schema: int = SCHEMA
    server: str
    timeline: int
    """Random 32 bits, new with each spool and with each step of the clock backwards."""
    start_ns: int
    step_ns: int
    pool: str = ""
    site: str = ""
    labels: dict[str, str] = {}
    hardware: str = ""
    """The server's name for its own hardware, used where no device tells it."""
    simulated: bool = False
    meters: tuple[MeterWindow, ...] = ()
    engines: tuple[EngineWindow, ...] = ()
    losses: Losses = msgspec.field(default_factory=Losses)
    agent: AgentCost = msgspec.field(default_factory=AgentCost)
    facts: dict[str, str] = {}
    """Versions, driver, power limits, hash of the config: what may explain a change."""

    @property
    def key(self) -> tuple[str, int, int, int]:
        """(server, timeline, step_ns, start_ns)."""
        return (self.server, self.timeline, self.step_ns, self.start_ns)

    @property
    def end_ns(self) -> int:
        """First instant after the window."""
        return self.start_ns + self.step_ns

    def encode(self) -> bytes:
        """As msgpack."""
        return _MSGPACK.encode(self)

    def encode_json(self) -> bytes:
        """As JSON, raw counters as strings."""
        return msgspec.json.encode(msgspec.structs.replace(self, meters=tuple(map(_raw_as_strings, self.meters))))


class WrongSchema(ValueError):
    """The window was written in a form that this version does not read."""

    def __init__(self, schema: object) -> None:
        self.schema = schema
        super().__init__(schema)

    def __str__(self) -> str:
        return f"window of schema {self.schema!r}; this version reads schema {SCHEMA}"


class _Head(msgspec.Struct):
    schema: object = SCHEMA


_MSGPACK = msgspec.msgpack.Encoder()
_FROM_MSGPACK = msgspec.msgpack.Decoder(Window)
_FROM_JSON = msgspec.json.Decoder(Window, strict=False)
_HEAD_MSGPACK = msgspec.msgpack.Decoder(_Head)
_HEAD_JSON = msgspec.json.Decoder(_Head)


def decode(body: bytes | memoryview | msgspec.Raw) -> Window:
    """A window from msgpack. Raises WrongSchema, or msgspec.ValidationError or DecodeError where it is malformed."""
    _check_schema(_HEAD_MSGPACK.decode(body).schema)
    return _FROM_MSGPACK.decode(body)


def decode_json(body: bytes | str | msgspec.Raw) -> Window:
    """A window from JSON. Raises as `decode`."""
    _check_schema(_HEAD_JSON.decode(body).schema)
    return _FROM_JSON.decode(body)


def _check_schema(schema: object) -> None:
    if schema != SCHEMA:
        raise WrongSchema(schema)


def _raw_as_strings(meter: MeterWindow) -> MeterWindow:
    # A field that is replaced is not checked against its type; what stands here is encoded at once and never read.
    digits = {name: str(value) for name in RAW_COUNTERS if (value := getattr(meter, name))}
    return msgspec.structs.replace(meter, **digits)
