"""Phases: an hour's joules and counts divided into reading prompts (prefill) and writing answers (decode).

How much energy went into each phase is known from accounting; what is of no phase (idle windows, engines that count no
tokens) stays apart under an empty name. Prompt and cached tokens are of prefill, output tokens of decode. Every request
goes through all of it: each of the three has all requests, so that their joules per request add up to the whole.
"""

from collections.abc import Iterable, Mapping, Sequence

from joulefleet.units import j_to_uj, uj_to_j
from joulefleet_collector.answer.parts import OF_TIME, energy_uj, parts
from joulefleet_collector.rows import USAGE
from joulefleet_collector.store.store import Total

TAG = "phase"
PREFILL, DECODE, NONE = "prefill", "decode", ""
PHASES = (PREFILL, DECODE, NONE)
COMPUTED = "computed_tokens"
"""Prompt tokens that were computed, for the energy of `COMPUTED_J`: fields that prefill alone has."""
COMPUTED_J = "computed_tokens_j"

_OF_REQUESTS = frozenset((*OF_TIME, "requests_ok", "requests_failed", "requests_aborted", "running_s", "running_delta"))
"""What is whole in every phase: time, and requests, finished or in flight."""
_LEFT_OUT = "left_out"
"""Energy of a replica group that is in no figure, of no phase either: each misses it."""
_OF_PHASE = {"prompt_tokens": PREFILL, "cached_tokens": PREFILL, "output_tokens": DECODE}
"""What one phase alone has, and the numerators that belong to it."""
_OF_NONE = frozenset({"total_tokens"})
"""What is of two phases at once, so that no figure of one of them can be made with it."""
_ALL_OF_NONE = (0, 0, 1)

Fields = dict[str, float]


def split(usage: Iterable[Total]) -> list[Total]:
    """Sums of single hours divided into phases, which stand in the tag `phase`.

    A total of which no energy has a phase stays as it is, under the empty name; but one without any energy is missing
    in the phases that the same work has in other hours, so that their coverage is no better than that of the whole.
    Energy adds up to the undivided total to the microjoule. To `allocation_j` of prefill and decode comes half the
    range in which that split may lie.
    """
    hours = [(total, _Shares(total.fields)) for total in usage]
    with_phases = {_work(total) for total, shares in hours if any(shares.of_phases)}
    return [part for total, shares in hours for part in _divided(total, shares, _work(total) in with_phases)]


def _work(total: Total) -> tuple[tuple[str, str], ...]:
    return tuple(total.tags.items())


def worth_telling(usage: Sequence[Total]) -> list[Total]:
    """Without the rows of no phase that have nothing, where the phases beside them have all of it."""
    divided = {_key(total) for total in usage if total.tags[TAG]}
    return [total for total in usage if total.tags[TAG] or _key(total) not in divided or _has_something(total.fields)]


def _key(total: Total) -> tuple[int | None, tuple[str, ...]]:
    return total.start_ns, tuple(value for tag, value in total.tags.items() if tag != TAG)


def _has_something(fields: Mapping[str, float]) -> bool:
    """Energy, or tokens of any kind: requests stand in every phase."""
    told = (name for name, value in fields.items() if value and name.endswith(("_j", "_tokens")))
    return any(name.removesuffix("_j") != _LEFT_OUT for name in told)


def _divided(total: Total, shares: "_Shares", has_phases: bool) -> list[Total]:
    if not any(shares.of_phases) and (any(shares.whole) or not has_phases):
        return [Total(total.start_ns, {**total.tags, TAG: NONE}, total.fields)]
    divided: dict[str, Fields] = {phase: {} for phase in PHASES}
    for name, value in total.fields.items():
        having, is_whole = _BELONGS.get(name) or _belongs(name)
        each = dict.fromkeys(having, value) if is_whole or value == 0 else shares.of(name, value, having)
        for phase, part in each.items():
            divided[phase][name] = part
    _add_range(divided, total.fields)
    _add_computed(divided[PREFILL], shares)
    return [Total(total.start_ns, {**total.tags, TAG: phase}, fields) for phase, fields in divided.items()]


def _belongs(name: str) -> tuple[tuple[str, ...], bool]:
    """Which phases have a field, and whether they have all of it."""
    about = name.removeprefix("unmetered_").removeprefix("late_").removesuffix("_j").removesuffix("_active")
    if about in _OF_REQUESTS or about == _LEFT_OUT or name == "restarts":
        return PHASES, True
    if about in _OF_NONE or name.startswith((PREFILL, DECODE)):
        return (), True
    if about in _OF_PHASE:
        return (_OF_PHASE[about],), not name.endswith("_j")
    return PHASES, False


_BELONGS = {name: _belongs(name) for name in USAGE.sums}


class _Shares:
    """How much of one total's energy is of each phase, in microjoules in the order of PHASES."""

    def __init__(self, fields: Mapping[str, float]) -> None:
        self.active = _by_phase_uj(fields, "active_j")
        self.idle = _by_phase_uj(fields, "idle_j")
        self.whole = [active + idle for active, idle in zip(self.active, self.idle, strict=True)]

    @property
    def of_phases(self) -> list[int]:
        """What prefill and decode have."""
        return self.whole[:2]

    def of(self, name: str, value: float, having: Sequence[str]) -> Fields:
        """A field by phase, for those that have it."""
        weights = self.active if name.endswith("active_j") else self.idle if name.startswith("idle_") else self.whole
        if len(having) == 1:
            # Only what counts its tokens has energy in a phase: of a numerator it is the phase's, not a proportion.
            return {having[0]: uj_to_j(min(j_to_uj(value), weights[PHASES.index(having[0])]))}
        ways = (weights, self.whole, _ALL_OF_NONE)
        return dict(zip(PHASES, parts(name, value, next(way for way in ways if any(way))), strict=True))


def _by_phase_uj(fields: Mapping[str, float], bucket: str) -> list[int]:
    known = [energy_uj(fields, f"{phase}_{bucket}") for phase in (PREFILL, DECODE)]
    # Sums of many windows may be a microjoule off one another.
    return [*known, max(energy_uj(fields, bucket) - sum(known), 0)]


def _add_range(divided: Mapping[str, Fields], whole: Mapping[str, float]) -> None:
    """What one phase has too much, the other has too little."""
    half_j = (whole.get("prefill_high_j", 0.0) - whole.get("prefill_low_j", 0.0)) / 2
    for phase in (PREFILL, DECODE):
        divided[phase]["allocation_j"] = divided[phase].get("allocation_j", 0.0) + abs(half_j)


def _add_computed(prefill: Fields, shares: _Shares) -> None:
    if "prompt_tokens" in prefill:
        # Two counters read at one instant need not agree: what was computed is not less than nothing.
        prefill[COMPUTED] = max(prefill["prompt_tokens"] - prefill.get("cached_tokens", 0.0), 0.0)
        prefill[COMPUTED_J] = uj_to_j(shares.whole[0])
