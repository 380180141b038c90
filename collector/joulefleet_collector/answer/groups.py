"""Replica groups: engines on several servers that answer one request together, joined hour by hour.

The energy is that of all members, the work that of those that count it. An hour is paired only if every member is
covered in it; else its energy is left out, and its work is unmetered. How much of an hour is covered is told as of one
engine, by its least covered member.

- Members are missed by the declared `group_size`; where none is declared, by the servers that were seen in the group on
  that day of UTC: so whole days have to be given.
- In an hour beside which the group is not seen (it began or ended there, or the question does) the time of the group is
  that of its longest member; in all others it is the whole hour.
- Where members do one phase each, all of them count the same requests: prompt tokens are taken from prefill, everything
  else from decode. Where none does, those that count are believed.
- Members that count nothing take model, revision, software and version of those that do, by their work units where
  these have several; their energy is of the phases in the same proportion.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from joulefleet.grid import HOUR_NS, floor_to
from joulefleet.units import ns_to_s, uj_to_j
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.share import share_out
from joulefleet_collector.answer.hours import JOINT
from joulefleet_collector.answer.parts import SQUARES, energy_uj, parts
from joulefleet_collector.answer.weights import computed, weights
from joulefleet_collector.rows import COUNT_FIELDS
from joulefleet_collector.store.store import DAY_NS, Total
from joulefleet_collector.usage import OK_COVERAGE

HOUR_S = ns_to_s(HOUR_NS)
LEFT_OUT_J = "left_out_j"
"""Field of an hour without a figure: the joules of those members that were covered."""
_OF_GROUP = ("boundary", "simulated", "group")
_OF_WORK = ("model", "revision", "software", "version")
"""Tags that members which count nothing take from those that do."""
NEEDED = (*_OF_GROUP, "server", *_OF_WORK)
"""Tags without which members cannot be told apart and joined."""
_MODEL = ("model", "revision")
_APART = frozenset({"prefill", "decode"})
_PROMPTS = frozenset({"prompt_tokens", "cached_tokens"})
_NUMERATORS = {"requests": "requests_ok", "output_tokens": "output_tokens", "total_tokens": "total_tokens"}
"""Energy of what counts something, by the count that has to be known."""
_PAID_FOR = frozenset(name + end for name in _NUMERATORS for end in ("_j", "_active_j"))
_WITH_ENERGY = frozenset((SQUARES, "reserved_s", "running_s", "running_delta", "total_tokens"))
"""What a row that does not pair has none of, beside joules and counts."""

Fields = dict[str, float]
Tags = Mapping[str, str]
Key = tuple[str, ...]


class _Life(NamedTuple):
    """What is seen of one group at one boundary, in all the time that was given."""

    hours: set[int]
    servers: set[tuple[int, str]]
    """By day."""
    energy_uj: dict[tuple[Key, str], int]
    """Of each member and phase; under the empty phase all of it."""


class _Row(NamedTuple):
    """One member's sum of an hour, with the counts that the group believes."""

    tags: Tags
    fields: Fields

    @property
    def counts(self) -> bool:
        """Whether it tells of requests or output, paired or not."""
        return any(name.removeprefix("unmetered_") in ("requests_ok", "output_tokens") for name in self.fields)


def joined(usage: Sequence[Total], policy: Policy) -> list[Total]:
    """Sums of single hours with the members of each group joined; sums without a group as they are.

    `usage` has the tags NEEDED and any other (pool, site, hardware, labels): of these, and of `server`, a joined sum
    has all names of its members, sorted, with `+` between them.
    """
    lives: dict[Key, _Life] = {}
    hours: dict[tuple[int, Key], list[Total]] = {}
    for total in usage:
        if total.tags["group"]:
            key = _of(total.tags, _OF_GROUP)
            _see(lives.setdefault(key, _Life(set(), set(), {})), total)
            hours.setdefault((_start(total), key), []).append(total)
    together = [one for (_, key), members in hours.items() for one in _hour(members, lives[key], policy)]
    return [*(total for total in usage if not total.tags["group"]), *together]


def _start(total: Total) -> int:
    return total.start_ns or 0


def _of(tags: Tags, names: Iterable[str]) -> Key:
    return tuple(tags.get(name, "") for name in names)


def _member(tags: Tags) -> Key:
    """One engine through all its versions and models."""
    return tuple(value for tag, value in sorted(tags.items()) if tag not in (*_MODEL, "version"))


def _see(life: _Life, total: Total) -> None:
    life.hours.add(_start(total))
    life.servers.add((floor_to(_start(total), DAY_NS), total.tags["server"]))
    for phase, bucket in (("", ""), ("prefill", "prefill_"), ("decode", "decode_")):
        seen = _member(total.tags), phase
        energy = energy_uj(total.fields, f"{bucket}active_j", f"{bucket}idle_j")
        life.energy_uj[seen] = life.energy_uj.get(seen, 0) + energy


def _phase(tags: Tags, life: _Life) -> str:
    """The one phase in which a member used all its energy; empty where it is none or both."""
    member = _member(tags)
    whole = life.energy_uj[member, ""]
    # Sums of many windows may be a microjoule off one another.
    pure = (phase for phase in sorted(_APART) if whole and abs(whole - life.energy_uj[member, phase]) <= 1e-9 * whole)
    return next(pure, "")


def _hour(members: Sequence[Total], life: _Life, policy: Policy) -> list[Total]:
    """One group's hour: a sum for each model and version that it worked for."""
    rows, apart = _rows(members, life)
    targets = _targets(rows)
    led = {key: _sums([row.fields for row in leading]) for key, leading in targets.items()}
    shared = {key: [fields] for key, fields in led.items()}
    for row in rows if any(row.counts for row in rows) else ():
        if not row.counts:
            for key, part in _followed(row, led, policy).items():
                shared[key].append(part)
    span_s, coverage = _cover(members, life)
    alike = {tag: _names(rows, tag) for tag in members[0].tags}
    done = []
    for key, leading in targets.items():
        window_s = span_s if len(targets) == 1 else min(span_s, max(row.fields.get("window_s", 0.0) for row in leading))
        fields = _sums(shared[key])
        fields |= _total_tokens(fields) if apart else {}
        tags = alike | dict(zip(_OF_WORK, key, strict=True))
        done.append(Total(members[0].start_ns, tags, _covered(fields, window_s, coverage)))
    return done


def _rows(members: Sequence[Total], life: _Life) -> tuple[list[_Row], bool]:
    """What is believed of each member, and whether prefill and decode are apart."""
    phases = [_phase(total.tags, life) for total in members]
    apart = set(phases) >= _APART
    return [
        _Row(total.tags, _believed(total.fields, phase if apart else ""))
        for total, phase in zip(members, phases, strict=True)
    ], apart


def _believed(fields: Fields, phase: str) -> Fields:
    """Without the counts that another phase's members tell of the same requests."""
    if not phase:
        return fields
    others = frozenset(COUNT_FIELDS) - _PROMPTS if phase == "prefill" else _PROMPTS
    numerators = _PAID_FOR if phase == "prefill" else {"total_tokens_j", "total_tokens_active_j"}
    dropped = {"total_tokens", *others, *numerators}
    return {
        name: value
        for name, value in fields.items()
        if name.removeprefix("unmetered_").removeprefix("late_") not in dropped
    }


def _targets(rows: Sequence[_Row]) -> dict[Key, list[_Row]]:
    """Those that count, by model and version; all of them, under all their names, where none does."""
    targets: dict[Key, list[_Row]] = {}
    for row in rows:
        if row.counts:
            targets.setdefault(_of(row.tags, _OF_WORK), []).append(row)
    return targets or {tuple(_names(rows, tag) for tag in _OF_WORK): list(rows)}


def _names(rows: Iterable[_Row], tag: str) -> str:
    return JOINT.join(sorted({name for row in rows for name in row.tags.get(tag, "").split(JOINT)} - {""}))


def _followed(row: _Row, led: Mapping[Key, Fields], policy: Policy) -> dict[Key, Fields]:
    """A member that counts nothing, as parts of those that count: of its own model where it has one of theirs."""
    keys = [key for key in led if key[0] == row.tags["model"]] or list(led)
    by_work = weights([_all_work(led[key]) for key in keys], policy)
    parted: list[Fields] = [{} for _ in keys]
    for name, value in row.fields.items():
        if name not in _PAID_FOR:
            for fields, part in zip(parted, parts(name, value, by_work), strict=True):
                fields[name] = part
    return {
        key: fields | _paid_for(fields, led[key]) | _lent(fields, led[key])
        for key, fields in zip(keys, parted, strict=True)
    }


def _all_work(fields: Fields) -> Fields:
    """Counts, paired or not."""
    counts = {name: [fields[one] for one in (name, f"unmetered_{name}") if one in fields] for name in COUNT_FIELDS}
    return {name: sum(known) for name, known in counts.items() if known}


def _paid_for(fields: Fields, leader: Fields) -> Fields:
    """All energy of a member paid for what its group counted."""
    active = fields.get("active_j", 0.0)
    whole = uj_to_j(energy_uj(fields, "active_j", "idle_j"))
    known = [name for name, count in _NUMERATORS.items() if count in leader]
    return {f"{name}_j": whole for name in known} | {f"{name}_active_j": active for name in known}


def _lent(fields: Fields, leader: Fields) -> Fields:
    """Energy by phase of a member that tells none: as that of those that count the work."""
    if "prefill_active_j" in fields or "prefill_active_j" not in leader:
        return {}
    lent: Fields = {}
    for bucket in ("active_j", "idle_j"):
        names = (f"prefill_{bucket}", f"decode_{bucket}")
        known = [energy_uj(leader, name) for name in names]
        ways = [*known, max(energy_uj(leader, bucket) - sum(known), 0)]
        lent |= dict(zip(names, map(uj_to_j, _share(energy_uj(fields, bucket), ways)), strict=False))
    whole, mine = energy_uj(leader, "active_j", "idle_j"), energy_uj(fields, "active_j", "idle_j")
    for name in ("prefill_low_j", "prefill_high_j"):
        part = min(energy_uj(leader, name), whole)
        lent[name] = uj_to_j(_share(mine, (part, whole - part))[0])
    return lent


def _share(total_uj: int, ways: Sequence[int]) -> list[int]:
    return share_out(total_uj, ways) if any(ways) else [0] * len(ways)


def _cover(members: Sequence[Total], life: _Life) -> tuple[float, float]:
    """For how many seconds the group was there, and in which part of them its least covered member was."""
    times = _times(members)
    start_ns = _start(members[0])
    inside = {start_ns - HOUR_NS, start_ns + HOUR_NS} <= life.hours
    span_s = HOUR_S if inside else min(HOUR_S, max(window_s for window_s, _ in times.values()))
    if not span_s:
        return 0.0, 0.0
    missing_s = max(_missing_s(members, times, life, span_s), 0.0)
    covered = [paired_s / window_s for window_s, paired_s in times.values() if window_s]
    return span_s, max(min(1 - missing_s / span_s, *covered), 0.0)


def _times(members: Sequence[Total]) -> dict[str, tuple[float, float]]:
    """Seconds of windows and covered ones, by server: versions follow one another, models stand beside each other."""
    found: dict[str, dict[Key, tuple[float, float]]] = {}
    for total in members:
        lives = found.setdefault(total.tags["server"], {})
        life = tuple(value for tag, value in sorted(total.tags.items()) if tag not in _MODEL)
        time_s = total.fields.get("window_s", 0.0), total.fields.get("paired_s", 0.0)
        lives[life] = max(lives.get(life, (0.0, 0.0)), time_s)
    return {
        server: (sum(window_s for window_s, _ in lives.values()), sum(paired_s for _, paired_s in lives.values()))
        for server, lives in found.items()
    }


def _missing_s(members: Sequence[Total], times: Mapping[str, tuple[float, float]], life: _Life, span_s: float) -> float:
    """How many seconds of members are missing; of a group that declares no size, of servers seen on that day."""
    size = max(total.fields.get("group_s", 0.0) / (total.fields.get("window_s") or math.inf) for total in members)
    if size:
        return size * span_s - sum(window_s for window_s, _ in times.values())
    day_ns = floor_to(_start(members[0]), DAY_NS)
    seen = [server for day, server in life.servers if day == day_ns]
    return sum(span_s - min(times.get(server, (0.0, 0.0))[0], span_s) for server in seen)


def _sums(several: Sequence[Mapping[str, float]]) -> Fields:
    names = dict.fromkeys(name for fields in several for name in fields)
    return {name: math.fsum(fields[name] for fields in several if name in fields) for name in names}


def _total_tokens(fields: Fields) -> Fields:
    """Tokens of which prefill counted one part and decode the other."""
    if not {"prompt_tokens", "cached_tokens", "output_tokens"} <= fields.keys():
        return {}
    total_tokens = computed(fields) + fields["output_tokens"]
    return {"total_tokens": total_tokens} | _paid_for(fields, {"total_tokens": total_tokens})


def _covered(fields: Fields, window_s: float, coverage: float) -> Fields:
    """As one engine's row; without energy, and its work unmetered, where members were missing too long."""
    fields = {name: value for name, value in fields.items() if name != "group_s"}
    used_j = uj_to_j(energy_uj(fields, "active_j", "idle_j"))
    if coverage >= OK_COVERAGE:
        # What a member used while it was not covered is missing beside work that was counted.
        unsure_j2 = fields.get(SQUARES, 0.0) + (used_j * (1 - coverage)) ** 2 / 3
        return fields | {"window_s": window_s, "paired_s": window_s * coverage, SQUARES: unsure_j2}
    nothing = {name: 0.0 for name in fields if name.endswith("_j") or name in _WITH_ENERGY}
    known = [name for name in COUNT_FIELDS if name in fields]
    unmetered = {f"unmetered_{name}": fields[name] + fields.get(f"unmetered_{name}", 0.0) for name in known}
    left_out = {LEFT_OUT_J: used_j}
    time = {"window_s": window_s, "paired_s": 0.0}
    return fields | nothing | unmetered | dict.fromkeys(known, 0.0) | left_out | time
