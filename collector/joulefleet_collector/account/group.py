"""Accounting of many windows at once, all of one plan: `account` in numbers side by side.

`account` is the definition, and this gives its rows. Arrays have a line for each window. Energy stays in whole
microjoules up to the last step, and windows whose numbers ask for more than the plan can say are left to `account`.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from math import sqrt
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from joulefleet import units
from joulefleet.describe import GRADES, SENSOR_CLASSES
from joulefleet_collector.account.models import by_model, share_in_range, share_signed, weights_of
from joulefleet_collector.account.numbers import Bools, Numbers, Told
from joulefleet_collector.account.phases import by_phase, ways_of
from joulefleet_collector.account.plan import NOBODY, CoverPlan, Plan
from joulefleet_collector.account.policy import Idle, Policy
from joulefleet_collector.account.share import share_out
from joulefleet_collector.account.side_by_side import Columns, agent, by_fault, by_state, meters
from joulefleet_collector.rows import COUNT_FIELDS as ROW_COUNTS
from joulefleet_collector.rows import METHODS
from joulefleet_collector.sheet import COLUMNS, Floats

Ints = NDArray[np.int64]

_j = cast("Callable[[Any], Floats]", units.uj_to_j)
_s = cast("Callable[[Any], Floats]", units.ns_to_s)
_uj = cast("Callable[[Any], Ints]", units.mw_ns_to_uj)


class Charge(NamedTuple):
    """One meter's energy as far as it goes to one engine, or to nobody: idle and dynamic, in uJ by window."""

    source: int
    engine: int
    idle_uj: Ints
    dynamic_uj: Ints
    learnt: Bools
    idle_method: str
    dynamic_method: str


def values_of(plan: Plan, windows: Sequence[Told], numbers: Numbers, policy: Policy) -> Floats:
    """All numbers of the rows of these windows, a line each, as `SheetRows` has them. Every window must fit."""
    pots = _Pots(numbers)
    counts, late = by_model(plan, numbers.counts, numbers.late)
    used = numbers._replace(counts=counts, late=late)
    books = [_charges(cover, pots, policy.idle) for cover in plan.covers]
    parts = [
        _table("usage", plan.usage_rows, _usage(plan, used, books, policy), len(windows)),
        _table("work", plan.work_rows, _work(plan, numbers), len(windows)),
        *(
            _line("ledger", _ledger(cover, charges, plan, used, policy), len(windows))
            for cover, charges in zip(plan.covers, books, strict=True)
        ),
        meters(plan, numbers),
        _line("agent", agent(plan, windows), len(windows)),
        np.ones((len(windows), plan.facts)),
    ]
    return np.concatenate(parts, axis=1)


class _Pots:
    """Idle and dynamic energy of each meter (`split.pot_of`)."""

    def __init__(self, numbers: Numbers) -> None:
        self.energy_uj = numbers.meters["energy_uj"].astype(np.int64)
        self.knows_idle = ~np.isnan(numbers.meters["idle_mw"])
        idle_mw = np.where(self.knows_idle, numbers.meters["idle_mw"], 0.0).astype(np.int64)
        covered_ns = numbers.meters["covered_ns"].astype(np.int64)
        self.idle_uj = np.minimum(self.energy_uj, _uj(idle_mw * covered_ns))
        self.learnt = numbers.meters["idle_learnt"] > 0


def _charges(cover: CoverPlan, pots: _Pots, idle: Idle) -> list[Charge]:
    """All energy of a boundary (`books.keep`), where each device is free or held by one engine."""
    charges = _charged(cover, pots, idle == "by_use")
    if idle != "separate":
        return charges
    nobodys = [charge._replace(engine=NOBODY, dynamic_uj=charge.dynamic_uj * 0) for charge in charges]
    return nobodys + [charge._replace(idle_uj=charge.idle_uj * 0) for charge in charges]


def _charged(cover: CoverPlan, pots: _Pots, by_use: bool) -> list[Charge]:
    devices = [
        Charge(
            device if cover.whole is None else cover.whole,
            holder,
            pots.idle_uj[:, device],
            pots.energy_uj[:, device] - pots.idle_uj[:, device],
            pots.learnt[:, device],
            "exclusive",
            "exclusive",
        )
        for device, holder in zip(cover.devices, cover.holders, strict=True)
    ]
    if cover.whole is not None:
        return devices + _host(cover, devices, cover.whole, *_host_pot(cover.whole, cover.devices, pots), by_use)
    rests = [(rest, pots.energy_uj[:, rest], pots.idle_uj[:, rest], pots.learnt[:, rest]) for rest in cover.rest]
    return devices + [charge for rest in rests for charge in _host(cover, devices, *rest, by_use)]


def _host_pot(whole: int, devices: tuple[int, ...], pots: _Pots) -> tuple[Ints, Ints, Bools]:
    """What a server's meter measured beyond its devices: energy, its idle part, and whether that was learnt
    (`split.host_pot`)."""
    every = (whole, *devices)
    energy = pots.energy_uj[:, whole] - pots.energy_uj[:, devices].sum(axis=1)
    idle = np.maximum(pots.idle_uj[:, whole] - pots.idle_uj[:, devices].sum(axis=1), 0)
    known = np.all(pots.knows_idle[:, every], axis=1)
    return energy, np.where(known, np.minimum(energy, idle), 0), np.all(pots.learnt[:, every], axis=1)


def _host(  # noqa: PLR0913, PLR0917 one meter's energy and those who share it
    cover: CoverPlan, devices: list[Charge], source: int, energy: Ints, idle: Ints, learnt: Bools, by_use: bool
) -> list[Charge]:
    """A host's idle part by the devices that each engine holds, its dynamic part as theirs; by use both as theirs."""
    if set(cover.holders) == {cover.holders[0]} != {NOBODY}:
        return [Charge(source, cover.holders[0], idle, energy - idle, learnt, "exclusive", "exclusive")]
    engines = sorted(set(cover.holders) - {NOBODY})
    takers = [*engines, NOBODY]
    idle_parts = _share_evenly(idle, [cover.holders.count(taker) for taker in takers])
    dynamic_parts = _follow(energy - idle, devices, takers)
    charges = [
        Charge(source, taker, idle_parts[:, k], dynamic_parts[:, k], learnt, "reservation", "accelerator")
        for k, taker in enumerate(takers)
    ]
    if not by_use:
        return charges
    used = (energy > idle) & np.any([device.dynamic_uj > 0 for device in devices if device.engine != NOBODY], axis=0)
    followed = _follow(idle, devices, takers)
    return [charge._replace(idle_uj=np.where(used, 0, charge.idle_uj)) for charge in charges] + [
        charge._replace(idle_uj=np.where(used, followed[:, k], 0), dynamic_uj=idle * 0, idle_method="accelerator")
        for k, charge in enumerate(charges)
    ]


def _share_evenly(total: Ints, weights: Sequence[int]) -> Ints:
    """`share_out` by the same weights in every window; a column for each weight."""
    exact = total[:, None] * np.array(weights)
    parts = exact // sum(weights)
    rest = exact - parts * sum(weights)
    rank = np.argsort(np.argsort(-rest, axis=1, kind="stable"), axis=1, kind="stable")
    return cast("Ints", parts + (rank < (total - parts.sum(axis=1))[:, None]))


def _follow(total: Ints, devices: list[Charge], takers: list[int]) -> Ints:
    """Parts in proportion to the devices' dynamic energy (`split.following`); all to nobody where they have none."""
    parts = np.zeros((len(total), len(takers)), np.int64)
    dynamic = np.stack([device.dynamic_uj for device in devices], axis=1).tolist()
    for line, (amount, weights) in enumerate(zip(total.tolist(), dynamic, strict=True)):
        claims: dict[int, int] = {}
        for device, weight in zip(devices, weights, strict=True):
            if weight:
                claims[device.engine] = claims.get(device.engine, 0) + weight
        if not claims:
            claims[NOBODY] = 1
        for taker, part in zip(claims, share_out(amount, list(claims.values())), strict=True):
            parts[line, takers.index(taker)] = part
    return parts


def _usage(plan: Plan, numbers: Numbers, books: list[list[Charge]], policy: Policy) -> Iterator[Columns]:
    ways = ways_of(plan, numbers.counts, policy)
    for cover, charges in zip(plan.covers, books, strict=True):
        for engine in range(len(plan.engines)):
            mine = [charge for charge in charges if charge.engine == engine]
            paired_ns = _paired_ns(engine, cover, numbers)
            load = _load(engine, numbers) | {"reserved_ns": cover.holders.count(engine) * paired_ns}
            for part in _parts(engine, mine, load, plan, numbers, policy):
                yield {
                    "window_s": units.ns_to_s(plan.step_ns),
                    "paired_s": _s(paired_ns),
                    "group_s": _group_s(engine, plan),
                    **_energy(part.charges, plan),
                    **by_phase(ways[part.model], *_active_and_idle(part.charges)),
                    **_paid_for(part.model, part.charges, numbers),
                    "restarts": part.load["restarts"],
                    "reserved_s": _s(part.load["reserved_ns"]),
                    "running_s": _s(part.load["running_ns"]),
                    "running_delta": part.load["running_delta"],
                    "independent_j2": _independent_j2(part.charges, paired_ns, plan, numbers, policy),
                    "allocation_j": part.half_range_j,
                }


def _group_s(engine: int, plan: Plan) -> float:
    size = plan.group_sizes[engine]
    return units.ns_to_s(plan.step_ns * size) if size else np.nan


class _Part(NamedTuple):
    """What one model of an engine has of it."""

    model: int
    charges: list[Charge]
    load: Columns
    half_range_j: Floats | float


def _parts(  # noqa: PLR0913, PLR0917 an engine with all that its models share
    engine: int, mine: list[Charge], load: Columns, plan: Plan, numbers: Numbers, policy: Policy
) -> list[_Part]:
    models = plan.models_of(engine)
    if len(models) == 1:
        return [_Part(models[0], mine, load, 0.0)]
    weights = weights_of(plan, engine, numbers.counts, policy)
    energy_uj = np.array([each for charge in mine for each in (charge.idle_uj, charge.dynamic_uj)], np.int64)
    shared_uj, ranges_uj = share_in_range(energy_uj.reshape(-1, len(weights.usual)), weights)
    loads = share_signed(load, weights.usual)
    return [
        _Part(model, _charges_of(mine, shared_uj[:, :, place]), loads[place], _j(ranges_uj[:, place]) / 2)
        for place, model in enumerate(models)
    ]


def _charges_of(mine: list[Charge], shared_uj: Ints) -> list[Charge]:
    by_charge = zip(mine, shared_uj[::2], shared_uj[1::2], strict=True)
    return [charge._replace(idle_uj=idle_uj, dynamic_uj=dynamic_uj) for charge, idle_uj, dynamic_uj in by_charge]


def _paired_ns(engine: int, cover: CoverPlan, numbers: Numbers) -> Floats:
    own = tuple(device for device, holder in zip(cover.devices, cover.holders, strict=True) if holder == engine)
    needed = own + cover.rest if cover.whole is None else (cover.whole,)
    covered_ns: Floats = numbers.meters["covered_ns"][:, needed].min(axis=1, initial=np.inf)
    return np.minimum(numbers.engines["covered_ns"][:, engine], covered_ns)


def _active_and_idle(mine: list[Charge]) -> tuple[Ints, Ints]:
    return _total(charge.dynamic_uj for charge in mine), _total(charge.idle_uj for charge in mine)


def _energy(mine: list[Charge], plan: Plan) -> Columns:
    active_uj, idle_uj = _active_and_idle(mine)
    methods: dict[str, Any] = dict.fromkeys(METHODS, 0)
    for charge in mine:
        methods[charge.idle_method] = methods[charge.idle_method] + charge.idle_uj
        methods[charge.dynamic_method] = methods[charge.dynamic_method] + charge.dynamic_uj
    return {
        "active_j": _j(active_uj),
        "idle_j": _j(idle_uj),
        "idle_default_j": _j(_total(np.where(charge.learnt, 0, charge.idle_uj) for charge in mine)),
        **_by_sensor(((charge.source, charge.idle_uj + charge.dynamic_uj) for charge in mine), plan),
        **{f"by_{method}_j": _j(energy_uj) for method, energy_uj in methods.items()},
    }


def _by_sensor(energies: Any, plan: Plan) -> Columns:
    sums: dict[str, Any] = dict.fromkeys((*(f"{g}_j" for g in GRADES), *(f"class_{c}_j" for c in SENSOR_CLASSES)), 0)
    for source, energy_uj in energies:
        for name in (f"{plan.grades[source]}_j", f"class_{plan.sensor_classes[source]}_j"):
            sums[name] = sums[name] + energy_uj
    return {name: _j(energy_uj) for name, energy_uj in sums.items()}


def _paid_for(model: int, mine: list[Charge], numbers: Numbers) -> Columns:
    """Work beside the energy that paid for each count that is known."""
    done = {name: numbers.counts[name][:, model] for name in ROW_COUNTS}
    computed = np.maximum(done["prompt_tokens"] - done["cached_tokens"], 0.0)
    done["total_tokens"] = computed + done["output_tokens"]
    active_uj, idle_uj = _active_and_idle(mine)
    whole, active = _j(active_uj + idle_uj), _j(active_uj)
    columns: Columns = dict(done)
    for what, count in (("requests", "requests_ok"), ("output_tokens",) * 2, ("total_tokens",) * 2):
        known = ~np.isnan(done[count])
        columns[f"{what}_j"] = np.where(known, whole, np.nan)
        columns[f"{what}_active_j"] = np.where(known, active, np.nan)
    columns |= {f"unmetered_{name}": done[name] * 0.0 for name in ROW_COUNTS}
    return columns | {f"late_{name}": numbers.late[name][:, model] for name in ROW_COUNTS}


def _load(engine: int, numbers: Numbers) -> Columns:
    read = {name: values[:, engine] for name, values in numbers.engines.items()}
    return {
        "restarts": read["restarts"],
        "running_ns": read["running_ns"],
        "running_delta": read["running_end"] - read["running_start"],
    }


def _independent_j2(
    mine: list[Charge], paired_ns: Floats, plan: Plan, numbers: Numbers, policy: Policy
) -> Floats | float:
    """As `uncertainty.independent_j2`."""
    total: Floats | float = 0.0
    for source in {charge.source for charge in mine}:
        parts = [charge for charge in mine if charge.source == source]
        energy_j = _j(_total(charge.idle_uj + charge.dynamic_uj for charge in parts))
        idle_j = sum(
            _j(charge.idle_uj) * np.where(charge.learnt, policy.idle_learnt_error, policy.idle_catalogue_error)
            for charge in parts
        )
        total = total + _edges_j2(source, energy_j, plan, numbers) + idle_j**2
    energy_j = _j(_total(charge.idle_uj + charge.dynamic_uj for charge in mine))
    return total + (energy_j * (1 - paired_ns / plan.step_ns) / sqrt(3)) ** 2


def _edges_j2(source: int, energy_j: Floats, plan: Plan, numbers: Numbers) -> Floats:
    covered_ns, whole_uj = numbers.meters["covered_ns"][:, source], numbers.meters["energy_uj"][:, source]
    known = (covered_ns > 0) & (whole_uj > 0)
    time_j = energy_j * plan.blur_ns[source] / np.where(known, covered_ns, 1.0)
    step_j = energy_j * plan.resolution_uj[source] / np.where(known, whole_uj, 1.0)
    return np.where(known, (time_j**2 + step_j**2) / 6, 0.0)


def _ledger(cover: CoverPlan, charges: list[Charge], plan: Plan, numbers: Numbers, policy: Policy) -> Columns:
    """As `ledger.ledger`, of which nothing is unmatched here."""
    held, free = [c for c in charges if c.engine != NOBODY], [c for c in charges if c.engine == NOBODY]
    read, of = numbers.meters, list(cover.meters)
    metered_uj = read["energy_uj"][:, of].astype(np.int64).sum(axis=1)
    sums = {
        "active_j": _total(charge.dynamic_uj for charge in held),
        "idle_j": _total(charge.idle_uj for charge in held),
        "idle_unallocated_j": _total(charge.idle_uj for charge in free),
        "unattributed_j": _total(charge.dynamic_uj for charge in free),
    }
    known = {name: ~np.isnan(numbers.counts[name]).all(axis=1) for name in ROW_COUNTS}
    return {
        "window_s": units.ns_to_s(plan.step_ns),
        "covered_s": _s(read["covered_ns"][:, of].min(axis=1)),
        "metered_j": _j(metered_uj),
        **{name: _j(energy_uj) for name, energy_uj in sums.items()},
        "unmatched_j": 0.0,
        "residual_uj": metered_uj - _total(sums.values()),
        "other_j": _other_j(cover, metered_uj, plan, numbers, policy),
        "late_j": _j(read["late_uj"][:, of].sum(axis=1)),
        "rejected_j": _j(read["rejected_uj"][:, of].sum(axis=1)),
        **{name: joules[:, of].sum(axis=1) for name, joules in by_state(plan, read["energy_uj"]).items()},
        "faulty_s": sum(seconds[:, of].sum(axis=1) for seconds in by_fault(plan, numbers).values()),
        **_by_sensor(((meter, read["energy_uj"][:, meter]) for meter in of), plan),
        **{f"unmetered_{name}": np.where(each, 0.0, np.nan) for name, each in known.items()},
    }


def _other_j(cover: CoverPlan, metered_uj: Ints, plan: Plan, numbers: Numbers, policy: Policy) -> Floats | float:
    if cover.boundary != "server":
        return np.nan
    parts = list(cover.parts)
    enough_ns = policy.pair_threshold * plan.step_ns
    seen = np.all(numbers.meters["covered_ns"][:, parts] >= enough_ns, axis=1)
    other_uj = metered_uj - numbers.meters["energy_uj"][:, parts].astype(np.int64).sum(axis=1)
    return np.where(seen, _j(other_uj), np.nan)


def _work(plan: Plan, numbers: Numbers) -> Iterator[Columns]:
    for number, model in enumerate(plan.work_models):
        yield {
            **{name: numbers.counts[name][:, number] for name in ROW_COUNTS},
            **{f"late_{name}": numbers.late[name][:, number] for name in ROW_COUNTS},
            "window_s": units.ns_to_s(plan.step_ns),
            "covered_s": _s(numbers.engines["covered_ns"][:, plan.model_engines[model]]),
        }


def _table(kind: str, places: Sequence[int], rows: Iterator[Columns], windows: int) -> Floats:
    """Rows at their places, side by side; those of one place are summed, where unknown plus known is known."""
    by_place: dict[int, Floats] = {}
    for place, columns in zip(places, rows, strict=True):
        line = _line(kind, columns, windows)
        by_place[place] = _plus(by_place[place], line) if place in by_place else line
    return np.concatenate([by_place[place] for place in sorted(by_place)], axis=1)


def _plus(one: Floats, other: Floats) -> Floats:
    return np.where(np.isnan(one), other, np.where(np.isnan(other), one, one + other))


def _line(kind: str, columns: Columns, windows: int) -> Floats:
    line = np.full((windows, len(COLUMNS[kind])), np.nan)
    for number, name in enumerate(COLUMNS[kind]):
        if name in columns:
            line[:, number] = columns[name]
    return line


def _total(energies: Any) -> Any:
    return reduce(np.add, energies, 0)
