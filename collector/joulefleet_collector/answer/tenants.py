"""Tenants: the joules and counts of an hour, divided among those for whom the work was done.

Each total is divided by what the tenants did in its hour. One layer alone tells that: a front (a gateway before the
engines) where it names tenants of this group and model, else the engines themselves.

- Energy that is known to have gone into prompts goes by the prompt tokens computed for each tenant, that of decode by
  its output tokens; all other energy by work units (prefill weight x computed prompt tokens + decode weight x output
  tokens), else by requests, else equally among those who had any work. Active and idle energy alike.
- Each count of requests and tokens goes by the tenants' own counts of the same field: an engine's own counts come out
  as they are, and a front's as ratios of the engine's.
- Everything adds up to the undivided total. Only time stays whole (`parts.OF_TIME`): how much of an hour is covered is
  the same for each tenant.
- What a prompt token costs against an output token is not measured everywhere: the range in which prefill's energy may
  lie goes into `allocation_j` of tenants whose prompts and output are unlike the others'.
- Where nothing is known of who had the work, all of it is of the tenant without a name. An hour in which nothing was
  read of an engine, and that has no energy for it, is missing from all of its tenants.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.share import share_out
from joulefleet_collector.answer.parts import Fields, energy_uj, parts
from joulefleet_collector.answer.weights import all_tell, computed, weights
from joulefleet_collector.rows import COUNT_FIELDS, FRONT
from joulefleet_collector.store.store import Total

TAG = "tenant"
NOBODY = ""
"""Tenant of work without a name."""
OF_GROUP = ("simulated", "group", "model")
"""What engines of one replica group have in common for one model."""
OF_KIND = ("software", "version", "model", "revision", "hardware")
"""What tells engines apart that count other things or draw other watts. Tenants are always divided by it: what of a
tenant's joules is counted, measured or idle would else depend on the tags of the question."""
OF_ENGINE = ("server", *OF_KIND)
"""What tells engines without a group apart, so that none pays for another's tenants."""
_OWN = frozenset({TAG, "layer", "boundary"})
"""Tags that do not tell which engine it was."""
_COUNTS = (*COUNT_FIELDS, *(f"late_{name}" for name in COUNT_FIELDS))

Scope = tuple[int | None, tuple[str, ...]]


class Shares(NamedTuple):
    """What each tenant had of an hour's work, as weights in the order of `tenants`; `units` are not all 0."""

    tenants: tuple[str, ...] = (NOBODY,)
    units: Sequence[int] = (1,)
    prompts: Sequence[int] = ()
    """Computed prompt tokens; without any, they do not tell."""
    outputs: Sequence[int] = ()
    counts: dict[str, list[int]] = {}  # noqa: RUF012 nobody changes it
    """Empty where only the names of tenants are known."""


def split(usage: Sequence[Total], work: Sequence[Total], policy: Policy) -> list[Total]:
    """Sums of single hours divided among tenants, who stand in the tag `tenant`.

    `usage` has the tags boundary, simulated, group and model, and any other. `work` is the rows of work of the same
    hours by simulated, group, model, tenant and layer. Where both have more tags in common (server, version), engines
    without a group are told apart by these too; a replica group and a front never are, since not all members count.
    """
    apart = _in_common(usage, work)
    hours = _Hours(work, apart, policy)
    return [part for total in usage for part in _divided(total, hours.shares_of(total))]


def engines_tell(work: Iterable[Total]) -> bool:
    """Whether engines without a group name tenants themselves.

    Then usage and work have to be by OF_ENGINE too, whatever is asked: else a tenant's joules would depend on the tags
    that are kept apart.
    """
    return any(
        total.tags.get(TAG) and not total.tags.get("group") and total.tags.get("layer") != FRONT for total in work
    )


def _in_common(usage: Sequence[Total], work: Sequence[Total]) -> tuple[str, ...]:
    if not usage or not work:
        return OF_GROUP
    return tuple(sorted((usage[0].tags.keys() & work[0].tags.keys()) - _OWN))


class _Hours:
    """Who had the work of each hour, by the layer that tells it."""

    def __init__(self, work: Sequence[Total], apart: tuple[str, ...], policy: Policy) -> None:
        self._apart = apart
        fronts: dict[Scope, list[Total]] = {}
        engines: dict[Scope, list[Total]] = {}
        for total in work:
            if total.tags.get("layer") == FRONT:
                fronts.setdefault(_scope(total, OF_GROUP), []).append(total)
            else:
                engines.setdefault(_scope(total, self._tags(total)), []).append(total)
        self._fronts = _shares(fronts, policy)
        self._engines = _shares(engines, policy)

    def shares_of(self, total: Total) -> Shares:
        """A front of the group, else one that names no group, else the engines; the first that names a tenant."""
        everywhere = Total(total.start_ns, {**total.tags, "group": ""}, {})
        told = (
            self._fronts.get(_scope(total, OF_GROUP)),
            self._fronts.get(_scope(everywhere, OF_GROUP)),
            self._engines.get(_scope(total, self._tags(total))),
        )
        used = energy_uj(total.fields, "active_j", "idle_j") > 0
        return next((one for one in told if one and any(one.tenants) and (one.counts or not used)), Shares())

    def _tags(self, total: Total) -> tuple[str, ...]:
        return OF_GROUP if total.tags.get("group") else self._apart


def _scope(total: Total, tags: Iterable[str]) -> Scope:
    return total.start_ns, tuple(total.tags.get(tag, "") for tag in tags)


def _shares(by_scope: dict[Scope, list[Total]], policy: Policy) -> dict[Scope, Shares]:
    return {scope: _shares_in(totals, policy) for scope, totals in by_scope.items()}


def _shares_in(totals: Sequence[Total], policy: Policy) -> Shares:
    """The shares of one layer in one hour; tenants who had nothing to do with it have none."""
    by_tenant: dict[str, dict[str, int]] = {}
    for total in totals:
        sums = by_tenant.setdefault(total.tags.get(TAG, NOBODY), {})
        for name in _COUNTS:
            if name in total.fields:
                sums[name] = sums.get(name, 0) + round(total.fields[name])
    tenants = tuple(tenant for tenant in sorted(by_tenant) if any(by_tenant[tenant].values()))
    if not any(by_tenant.values()):
        return Shares(tuple(sorted(by_tenant)), [1] * len(by_tenant))
    if not tenants:
        return Shares()
    works = [by_tenant[tenant] for tenant in tenants]
    prompts = [computed(work) for work in works] if all_tell(works, "prompt_tokens") else []
    outputs = [work["output_tokens"] for work in works] if all_tell(works, "output_tokens") else []
    counts = {name: [work.get(name, 0) for work in works] for name in _COUNTS}
    counts["total_tokens"] = [computed(work) + work.get("output_tokens", 0) for work in works]
    return Shares(tenants, weights(works, policy), prompts, outputs, counts)


def _divided(total: Total, shares: Shares) -> list[Total]:
    each = _Weights(total.fields, shares)
    columns = [each.parts(name, value) for name, value in total.fields.items()]
    divided = [dict(zip(total.fields, column, strict=True)) for column in zip(*columns, strict=True)]
    for fields, unsure_j in zip(divided, each.unsure_j(total.fields), strict=False):
        if unsure_j:
            fields["allocation_j"] = fields.get("allocation_j", 0.0) + unsure_j
    return [
        Total(total.start_ns, {**total.tags, TAG: tenant}, fields)
        for tenant, fields in zip(shares.tenants, divided, strict=True)
    ]


@cache
def _way(name: str) -> str:
    """What a field is divided by: its name for a count, else what it has in common with other fields."""
    if not name.endswith("_j"):
        return name.removeprefix("unmetered_")
    for start, way in (("prefill_", "prefill"), ("decode_", "decode"), ("idle_", "idle")):
        if name.startswith(start):
            return way
    return "active" if name.endswith("active_j") else "whole"


class _Weights:
    """By which weights each field of one total is divided."""

    def __init__(self, fields: Fields, shares: Shares) -> None:
        self._shares = shares
        self._prompts = shares.prompts if any(shares.prompts) else shares.units
        self._outputs = shares.outputs if any(shares.outputs) else shares.units
        active, idle = self._energy_uj(fields, "active_j"), self._energy_uj(fields, "idle_j")
        self._whole = [one + other for one, other in zip(active, idle, strict=True)]
        self._energy = {"prefill": self._prompts, "decode": self._outputs, "active": active, "idle": idle}
        self._known: dict[tuple[str, float], list[float]] = {}

    def parts(self, name: str, value: float) -> list[float]:
        """A field's parts. Many fields are equal, since they are of the same joules: they are divided once."""
        if not value:
            return [value] * len(self._shares.tenants)
        key = _way(name), value
        if key not in self._known:
            self._known[key] = parts(name, value, self._of(key[0]))
        return self._known[key]

    def _of(self, way: str) -> Sequence[int]:
        """Weights, not all 0: the best that tell, down to the work units."""
        best: Sequence[int] = self._energy.get(way, self._shares.counts.get(way, ()))
        return next(one for one in (best, self._whole, self._shares.units) if any(one))

    def unsure_j(self, fields: Fields) -> list[float]:
        """By how much each tenant's energy depends on what a prompt token costs against an output token: half the range
        of prefill's energy, as far as the tenant has another part of the prompts than of the output."""
        half_j = abs(fields.get("prefill_high_j", 0.0) - fields.get("prefill_low_j", 0.0)) / 2
        prompts, outputs = sum(self._prompts), sum(self._outputs)
        ways = zip(self._prompts, self._outputs, strict=True)
        return [half_j * abs(prompt / prompts - output / outputs) for prompt, output in ways]

    def _energy_uj(self, fields: Fields, bucket: str) -> list[int]:
        """Microjoules of each tenant: those of a known phase by its tokens, the others by work units."""
        whole = energy_uj(fields, bucket)
        prefill, decode = energy_uj(fields, f"prefill_{bucket}"), energy_uj(fields, f"decode_{bucket}")
        # Sums of many windows may be a microjoule off one another.
        ways = (
            (prefill, self._prompts),
            (decode, self._outputs),
            (max(whole - prefill - decode, 0), self._shares.units),
        )
        shared = [share_out(amount, weights) for amount, weights in ways]
        each = [sum(several) for several in zip(*shared, strict=True)]
        return share_out(whole, each) if any(each) else each
