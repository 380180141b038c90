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
- Where nothing is known of who had the work, all of it is of the tenant without a name.
"""

from collections.abc import Iterable, Sequence
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
OF_ENGINE = ("server", "software", "version", "model", "revision", "hardware")
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
        return next((shares for shares in told if shares and any(shares.tenants)), Shares())

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
    divided: list[dict[str, float]] = [{} for _ in shares.tenants]
    for name, value in total.fields.items():
        shared = parts(name, value, each.of(name)) if value else [value] * len(divided)
        for fields, part in zip(divided, shared, strict=True):
            fields[name] = part
    for fields, unsure_j in zip(divided, each.unsure_j(total.fields), strict=True):
        if unsure_j:
            fields["allocation_j"] = fields.get("allocation_j", 0.0) + unsure_j
    return [
        Total(total.start_ns, {**total.tags, TAG: tenant}, fields)
        for tenant, fields in zip(shares.tenants, divided, strict=True)
    ]


class _Weights:
    """By which weights each field of one total is divided."""

    def __init__(self, fields: Fields, shares: Shares) -> None:
        self._shares = shares
        self._prompts = shares.prompts if any(shares.prompts) else shares.units
        self._outputs = shares.outputs if any(shares.outputs) else shares.units
        self._active = self._energy_uj(fields, "active_j")
        self._idle = self._energy_uj(fields, "idle_j")
        self._whole = [active + idle for active, idle in zip(self._active, self._idle, strict=True)]

    def of(self, name: str) -> Sequence[int]:
        """Weights of a field, not all 0: the best that tell, down to the work units."""
        ways = (self._of_energy(name), self._whole, self._shares.units)
        if not name.endswith("_j"):
            ways = (self._shares.counts.get(name.removeprefix("unmetered_"), ()), *ways[1:])
        return next(way for way in ways if any(way))

    def unsure_j(self, fields: Fields) -> list[float]:
        """By how much each tenant's energy depends on what a prompt token costs against an output token: half the range
        of prefill's energy, as far as the tenant has another part of the prompts than of the output."""
        half_j = abs(fields.get("prefill_high_j", 0.0) - fields.get("prefill_low_j", 0.0)) / 2
        prompts, outputs = sum(self._prompts), sum(self._outputs)
        ways = zip(self._prompts, self._outputs, strict=True)
        return [half_j * abs(prompt / prompts - output / outputs) for prompt, output in ways]

    def _of_energy(self, name: str) -> Sequence[int]:
        if name.startswith("prefill_"):
            return self._prompts
        if name.startswith("decode_"):
            return self._outputs
        if name.endswith("active_j"):
            return self._active
        return self._idle if name.startswith("idle_") else self._whole

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
