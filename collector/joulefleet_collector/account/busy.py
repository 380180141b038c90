"""Busy time weighed with the watts that each model draws in it, since a second of a large one costs more.

Prompts draw other watts than the writing of answers, too. The watts are fitted ones of `Policy.busy_watts`.
"""

from collections.abc import Sequence

from joulefleet.describe import Engine, Meter
from joulefleet.topology import DEVICE_KINDS
from joulefleet.units import w_to_mw
from joulefleet_collector.account.policy import BusyWatts, Policy
from joulefleet_collector.account.work import ModelWork


def busy_weights(works: Sequence[ModelWork], hardware: str, policy: Policy) -> list[int] | None:
    """What each model of one hardware drew above idle while it was busy, in mW * ns.

    None where the policy does not name all of them, where one does not tell what the weight needs, and where all
    weights are 0.
    """
    named = {each.model: each for each in policy.busy_watts if each.hardware == hardware}
    if not named or not all(work.model in named for work in works):
        return None
    weights = [_weight(work, named[work.model]) for work in works]
    known = [weight for weight in weights if weight is not None]
    return known if len(known) == len(weights) and any(known) else None


def _weight(work: ModelWork, watts: BusyWatts) -> int | None:
    busy_ns, prefill_ns = work.counts.busy_ns, work.counts.prefill_busy_ns
    if busy_ns is None:
        return None
    if watts.prefill_w == watts.decode_w:
        return busy_ns * w_to_mw(watts.decode_w)
    if prefill_ns is None:
        return None
    # Two counters read at one instant need not agree.
    prefill_ns = min(prefill_ns, busy_ns)
    return prefill_ns * w_to_mw(watts.prefill_w) + (busy_ns - prefill_ns) * w_to_mw(watts.decode_w)


def hardware_of(engine: Engine, meters: Sequence[Meter]) -> str:
    """The one model of the devices of an engine, of all devices where it names none; empty where they differ."""
    named = {reservation.meter for reservation in engine.devices}
    devices = [meter for meter in meters if meter.kind in DEVICE_KINDS]
    models = {each.hw_model for each in devices if not named or named & {each.id, *(one.id for one in each.slices)}}
    return models.pop() if len(models) == 1 else ""
