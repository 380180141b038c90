"""The rows that accounting writes and stores keep: which tags make their key, which fields they sum.

Every field is a sum, so that rows add up over time, servers and models; ratios are made when a report is. A field that
is missing from a row is unknown, not zero. Energy is in joules (`_j`), time in seconds (`_s`). Fields that are often
equal stand behind each other: the embedded store then keeps one number for them.
"""

import msgspec

from joulefleet.describe import GRADES, SENSOR_CLASSES

BOUNDARIES = ("accelerator", "compute", "server")
WIDER_BOUNDARIES = ("fleet", "facility")
"""Made when asked for by name, of hours at `server`; no row has them."""
METHODS = ("exclusive", "activity", "busy", "running", "work", "equal", "reservation", "accelerator")
"""How an engine's share of a device or host was found; ACCOUNTING section 4. `accelerator` is the host's dynamic energy
in proportion to that of the accelerators."""

WINDOW_TAGS = ("timeline", "step_s")
"""Tags that keep rows of different windows apart; rollups drop them, save for `agent`."""
SERVER_TAGS = ("server", "pool", "site", "simulated")
"""Tags of every row; a window's own labels (rack, owner) stand beside them under their own names."""

COUNT_FIELDS = (
    "requests_ok",
    "requests_failed",
    "requests_aborted",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
)
FRONT = "gateway"
"""Layer of work that engines behind it count too; that of engines themselves is empty."""
SENSOR_SUMS = (
    "unvalidated_j",  # metered by counters that have not yet agreed with their gauge
    "disagreeing_j",  # metered by sensors that disagree with others
    "faulty_s",  # of all meters of a boundary together: stuck, implausible, hung, stale
)
"""Fields of a ledger that tell of sensors which are not well; which ones, the rows of meters say."""


class Row(msgspec.Struct, frozen=True):
    """Sums of one key in one window. `start_ns` and `tags` are the key."""

    kind: str
    start_ns: int
    tags: dict[str, str]
    fields: dict[str, float]


class RowKind(msgspec.Struct, frozen=True):
    """The shape of one kind of row."""

    tags: tuple[str, ...]
    """Tags beside those of SERVER_TAGS, WINDOW_TAGS and the labels."""
    sums: tuple[str, ...]
    """Fields that add up."""
    latest: tuple[str, ...] = ()
    """Fields of which only the newest value means anything (sizes, totals of a timeline)."""


USAGE = RowKind(
    tags=("boundary", "software", "version", "model", "revision", "hardware", "group"),
    sums=(
        "window_s",  # seconds of windows in which the engine was declared
        "paired_s",  # covered seconds of those that pair whole; paired_s / window_s is the coverage
        "idle_j",  # attributed idle of the own reservation; the full figure is active + idle
        "idle_default_j",  # the part of idle_j that rests on a catalogue value
        "active_j",  # attributed, idle part left out
        "requests_active_j",
        "output_tokens_active_j",
        "total_tokens_active_j",
        *(f"{grade}_j" for grade in GRADES),  # active + idle by grade
        *(f"class_{name}_j" for name in SENSOR_CLASSES),  # active + idle by class of sensor
        *(f"by_{method}_j" for method in METHODS),  # active + idle by method
        "requests_j",  # active + idle of work whose requests are counted: the numerator of J per request
        "output_tokens_j",  # the same for output tokens
        "total_tokens_j",  # the same where computed prompt tokens and output tokens are known
        "prefill_active_j",  # of active_j what is known to have gone into prompts; what is in neither is of no phase
        "prefill_idle_j",
        "decode_active_j",
        "decode_idle_j",
        "prefill_low_j",  # active + idle of prefill at the ends of `Policy.decode_weight_range`
        "prefill_high_j",
        "reserved_s",  # device-seconds held, of windows that pair: one device held whole for a second is 1
        "group_s",  # seconds of windows times the declared size of the replica group
        *COUNT_FIELDS,  # work of windows that pair
        "total_tokens",  # prompt - cached + output
        *(f"unmetered_{name}" for name in COUNT_FIELDS),  # work of windows that do not pair
        *(f"late_{name}" for name in COUNT_FIELDS),  # work of windows sent before it was known
        "running_s",  # integral of running requests
        "running_delta",  # signed change of running + queued over the paired windows
        "independent_j2",  # sum of squares of the independent terms of uncertainty
        "allocation_j",  # half range over methods of shared devices
        "restarts",
    ),
)
WORK = RowKind(
    tags=("software", "version", "model", "revision", "hardware", "group", "tenant", "layer"),
    sums=(*COUNT_FIELDS, *(f"late_{name}" for name in COUNT_FIELDS), "window_s", "covered_s"),
)
LEDGER = RowKind(
    tags=("boundary",),
    sums=(
        "window_s",
        "covered_s",  # seconds in which every meter of the boundary was covered
        "active_j",
        "idle_j",
        "idle_unallocated_j",
        "unattributed_j",
        "unmatched_j",
        "residual_uj",  # metered less all of the above, in microjoules: 0
        "other_j",  # server less its known parts, signed; only at `server`
        "late_j",
        "rejected_j",
        "metered_j",
        *SENSOR_SUMS,
        *(f"{grade}_j" for grade in GRADES),  # metered by grade
        *(f"class_{name}_j" for name in SENSOR_CLASSES),
        *(f"unmetered_{name}" for name in COUNT_FIELDS),
    ),
)
METER = RowKind(
    tags=("meter", "kind", "grade", "hw_model"),
    sums=(
        "window_s",
        "covered_s",
        "gauge_s",
        "energy_j",
        "gauge_j",
        "interpolated_s",
        "late_j",
        "rejected_j",
        "lower_bound_j",
        "gap_s",
        "unvalidated_j",  # of a counter that has not yet agreed with its gauge
        "disagreeing_j",  # of a sensor that disagrees with another
        "stuck_s",  # in which the counter stood still, its gauge being told or not
        "implausible_s",  # in which readings were refused
        "hung_s",
        "stale_s",  # in which the sensor made no new value
    ),
)
AGENT = RowKind(
    tags=("timeline",),
    sums=("windows", "window_s", "cpu_s", "energy_j"),
    latest=(
        "rss_bytes",
        "spool_windows",
        "spool_bytes",
        "clock_ahead_s",  # the agent's clock less the collector's
        "clock_error_s",
        "lost_windows",
        "lost_s",
        "lost_j",
        "refused_windows",
    ),
)
FACTS = RowKind(tags=("fact", "value"), sums=("seen",))

KINDS: dict[str, RowKind] = {
    "usage": USAGE,
    "work": WORK,
    "ledger": LEDGER,
    "meter": METER,
    "agent": AGENT,
    "facts": FACTS,
}

RESERVED_TAGS = frozenset(SERVER_TAGS) | frozenset(WINDOW_TAGS) | {tag for kind in KINDS.values() for tag in kind.tags}
"""Names that a label may not take."""
