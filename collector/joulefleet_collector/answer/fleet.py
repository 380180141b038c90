"""The boundary `fleet`: the servers that work, and what their pool uses while nobody does.

What nobody holds of a pool in an hour is idle power of devices that no engine reserved, and all that servers without
any engine use: spare, starting or being emptied, they are there for the pool. It is shared among the engines of that
pool, site and hour in proportion to the device-seconds that each holds (ACCOUNTING section 5), to the microjoule.
Energy above idle of servers with engines that no engine explains (`unattributed`), and energy of which the use is not
known (`unmatched`), stay apart. Declared watts of what has no agent are added in proportion to energy.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from joulefleet.describe import GRADES, SENSOR_CLASSES
from joulefleet.grid import HOUR_NS
from joulefleet.units import j_to_uj, ns_to_s, s_to_ns, uj_to_j, w_s_to_uj
from joulefleet_collector.account.share import share_out
from joulefleet_collector.answer.overhead import Fields, Overhead, energy_j, grown
from joulefleet_collector.rows import COUNT_FIELDS
from joulefleet_collector.store.store import Total

POOL_TAGS = ("pool", "site", "simulated")
"""Tags that hours of usage must bear to be brought to this boundary, beside those that are asked for."""
LEDGER_TAGS = ("boundary", "server", *POOL_TAGS)
"""Tags by which the hours of the ledger are asked for."""
_GRADES = tuple(f"{grade}_j" for grade in GRADES)
_CLASSES = tuple(f"class_{name}_j" for name in SENSOR_CLASSES)
_UNMETERED = tuple(f"unmetered_{name}" for name in COUNT_FIELDS)
LEDGER_FIELDS = (
    *("window_s", "covered_s", "active_j", "idle_j", "idle_unallocated_j", "unattributed_j", "unmatched_j"),
    *(*_GRADES, *_CLASSES, *_UNMETERED),
)
"""Fields of these that are needed."""
EVERYONE_FIELDS = ("active_j", "idle_j", "reserved_s")
"""Fields of the usage of all that is in a pool, by POOL_TAGS."""
_PARTS: tuple[tuple[str, tuple[str, ...], bool], ...] = (
    ("requests_j", ("requests_j",), True),
    ("output_tokens_j", ("output_tokens_j",), True),
    ("total_tokens_j", ("total_tokens_j",), True),
    ("prefill_idle_j", ("prefill_active_j", "prefill_idle_j"), False),
    ("decode_idle_j", ("decode_active_j", "decode_idle_j"), False),
    ("prefill_low_j", ("prefill_low_j",), False),
    ("prefill_high_j", ("prefill_high_j",), False),
)
"""Fields that are a part of the energy: which one idle energy goes to, which ones tell how large a part that is, and
whether it is all where there is no energy yet."""


class Place(NamedTuple):
    """A pool at a site in one hour; simulated and real ones are never added."""

    start_ns: int
    pool: str
    site: str
    simulated: str


class PoolHour(msgspec.Struct):
    """What a pool has beside what its engines are charged with, in one hour."""

    reserved_ns: int = 0
    """Device-nanoseconds that its engines hold; 0 where none does, or where it is not known."""
    engines_uj: int = 0
    """What they are charged with at the boundary `server`."""
    spare_uj: int = 0
    """What nobody holds."""
    unattributed_uj: int = 0
    unmatched_uj: int = 0
    overhead_uj: int = 0
    """Declared."""
    seconds: float = 0.0
    """The part of the hour of which its servers told."""
    mix: dict[str, int] = msgspec.field(default_factory=dict)
    """How `spare_uj` is known: weights by field of grade and class."""

    @property
    def is_held(self) -> bool:
        """Whether anybody is there to take what nobody holds."""
        return self.reserved_ns > 0

    @property
    def factor(self) -> float:
        """By which declared overhead raises the energy of those who are there."""
        base_uj = self.engines_uj + (self.spare_uj if self.is_held else 0)
        return 1 + self.overhead_uj / base_uj if base_uj else 1.0


Pools = dict[Place, PoolHour]


def place_of(total: Total) -> Place:
    """Where and when a sum of one hour belongs."""
    return Place(total.start_ns or 0, *(total.tags.get(tag, "") for tag in POOL_TAGS))


def has_engine(fields: Mapping[str, float]) -> bool:
    """Whether an entry of a server's ledger tells of any engine: of energy for it, or of work."""
    return bool(energy_j(fields)) or any(name in fields for name in _UNMETERED)


def pool_hours(ledger: Iterable[Total], everyone: Iterable[Total], overheads: Sequence[Overhead]) -> Pools:
    """All pools by hour, from the ledger by LEDGER_TAGS and the usage of all by POOL_TAGS, both at `server`."""
    pools: Pools = {}
    for total in ledger:
        if total.tags.get("boundary") == "server":
            _add_server(pools.setdefault(place_of(total), PoolHour()), total.fields)
    for total in everyone:
        if total.tags.get("boundary") == "server":
            pool = pools.setdefault(place_of(total), PoolHour())
            pool.reserved_ns += s_to_ns(total.fields.get("reserved_s", 0.0))
            pool.engines_uj += j_to_uj(energy_j(total.fields))
    for overhead in overheads:
        _add_overhead(pools, overhead)
    return pools


def _add_server(pool: PoolHour, fields: Mapping[str, float]) -> None:
    idle_uj, unattributed_uj = (
        j_to_uj(fields.get("idle_unallocated_j", 0.0)),
        j_to_uj(fields.get("unattributed_j", 0.0)),
    )
    # Idle power is learnt after a while only, and a server that starts is not idle: without an engine all is spare.
    spare_uj = idle_uj if has_engine(fields) else idle_uj + unattributed_uj
    pool.spare_uj += spare_uj
    pool.unattributed_uj += idle_uj + unattributed_uj - spare_uj
    pool.unmatched_uj += j_to_uj(fields.get("unmatched_j", 0.0))
    pool.seconds = max(pool.seconds, min(fields.get("window_s", 0.0), ns_to_s(HOUR_NS)))
    if spare_uj:
        for names in (_GRADES, _CLASSES):
            _add_mix(pool.mix, spare_uj, {name: fields[name] for name in names if fields.get(name, 0.0) > 0})


def _add_mix(mix: dict[str, int], spare_uj: int, known: Mapping[str, float]) -> None:
    """As the server's energy is known: these are weights, and need not add up to the microjoule."""
    whole_j = sum(known.values())
    for name, joules in known.items():
        mix[name] = mix.get(name, 0) + round(spare_uj * joules / whole_j)


def _add_overhead(pools: Pools, overhead: Overhead) -> None:
    """Among the pools that it serves, in proportion to the energy of their engines."""
    hours: dict[tuple[int, str], list[PoolHour]] = {}
    for place, pool in pools.items():
        if overhead.serves(place.pool, place.site):
            hours.setdefault((place.start_ns, place.simulated), []).append(pool)
    for served in hours.values():
        energy_uj = w_s_to_uj(overhead.watts, max(pool.seconds for pool in served))
        weights = [pool.engines_uj for pool in served]
        parts = share_out(energy_uj, weights if any(weights) else [1] * len(weights))
        for pool, part_uj in zip(served, parts, strict=True):
            pool.overhead_uj += part_uj


def with_fleet(usage: Iterable[Total], pools: Pools) -> list[Total]:
    """Sums of usage at `server`, each of one hour and with POOL_TAGS, as they are at `fleet`; other boundaries are left
    out. Who is in a pool and not among them takes its part all the same."""
    found: dict[Place, list[Total]] = {}
    for total in usage:
        if total.tags.get("boundary") == "server":
            found.setdefault(place_of(total), []).append(total)
    return [
        Total(total.start_ns, total.tags | {"boundary": "fleet"}, fields)
        for place, totals in found.items()
        for total, fields in zip(totals, _of_pool(totals, pools.get(place, PoolHour())), strict=True)
    ]


def _of_pool(totals: Sequence[Total], pool: PoolHour) -> Iterable[Fields]:
    weights = [s_to_ns(total.fields.get("reserved_s", 0.0)) for total in totals]
    others = max(pool.reserved_ns - sum(weights), 0)
    parts_uj = share_out(pool.spare_uj if any(weights) else 0, [*weights, others])
    for total, part_uj in zip(totals, parts_uj, strict=False):
        fields = with_idle(total.fields, part_uj, pool.mix)
        yield grown(fields, pool.factor) if pool.factor > 1 else fields


def with_idle(fields: Mapping[str, float], idle_uj: int, mix: Mapping[str, int]) -> Fields:
    """The fields of a sum with so much more idle energy, which is known as `mix` tells."""
    if not idle_uj:
        return dict(fields)
    out, known_j = dict(fields), energy_j(fields)
    added_uj = {"idle_j": idle_uj, "by_reservation_j": idle_uj}
    for names in (_GRADES, _CLASSES):
        weights = [mix.get(name, 0) for name in names]
        added_uj |= zip(names, share_out(idle_uj if any(weights) else 0, weights), strict=True)
    for name, known, else_all in _PARTS:
        if name in fields:
            part = sum(fields.get(each, 0.0) for each in known) / known_j if known_j else float(else_all)
            added_uj[name] = round(idle_uj * part)
    for name, each_uj in added_uj.items():
        out[name] = uj_to_j(j_to_uj(out.get(name, 0.0)) + each_uj)
    return out
