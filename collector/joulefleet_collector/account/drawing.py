"""What windows tell of the watts that models draw: each board's joules above idle beside its models' busy seconds."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from joulefleet.units import ns_to_s, uj_to_j
from joulefleet.window import EngineWindow, MeterWindow, Window
from joulefleet_collector.account.fit import BOTH, DECODE, PREFILL, Fit, Label, Sums, fits, gathered, sums_of
from joulefleet_collector.account.identity import is_simulated
from joulefleet_collector.account.layout import Declared, Layout, layout_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.residence import Seat
from joulefleet_collector.account.scene import Scene, scene_of
from joulefleet_collector.account.split import pot_of
from joulefleet_collector.account.work import ModelWork
from joulefleet_collector.rows import BOUNDARIES

MAX_LAYOUTS = 2_048
"""As many as accounting keeps."""


class Sample(NamedTuple):
    """One board in one window."""

    hardware: str
    seconds: dict[Label, float]
    joules: float
    """Above idle."""


class Drawing:
    """All that windows told so far. Its size goes by the sets of models that were seen on boards, not by windows."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._layout = lru_cache(MAX_LAYOUTS)(layout_of)
        self._sums: dict[tuple[bool, str, tuple[Label, ...]], Sums] = {}
        """By whether they are simulated, hardware and labels."""

    def add(self, window: Window) -> None:
        """One more window."""
        simulated = is_simulated(window)
        for sample in samples(window, self._policy, self._layout):
            labels = tuple(sorted(sample.seconds))
            seconds = np.array([[sample.seconds[label] for label in labels]])
            told = sums_of(labels, seconds, np.array([sample.joules]))
            key = simulated, sample.hardware, labels
            self._sums[key] = gathered([self._sums[key], told]) if key in self._sums else told

    def fits(self) -> list[Fit]:
        """The fits of every hardware, in the order of its name; simulated windows tell only where no real one does."""
        simulated = all(key[0] for key in self._sums)
        told = [(name, sums) for (is_so, name, _), sums in self._sums.items() if is_so == simulated]
        hardware = sorted({name for name, _ in told})
        return [found for name in hardware for found in fits(name, [sums for its, sums in told if its == name])]


def samples(window: Window, policy: Policy, layout: Callable[[Declared], Layout] = layout_of) -> Iterator[Sample]:
    """The boards of a window that tell something: their sensors are well and their idle power is learnt, and they and
    all their engines, of which each told how long it was busy and none restarted, are covered, and no processes of
    others worked there."""
    scene = scene_of(window, policy)
    laid_out = layout(Declared(scene.declared, scene.served, window.step_ns, window.hardware))
    for placed, residence in zip(laid_out.covers, laid_out.residences, strict=True):
        if placed.boundary == BOUNDARIES[0] and not residence.unplaced:
            for place, seat in zip(placed.devices, residence.by_device, strict=True):
                yield from _sample(scene.meters[place], seat, scene)


def _sample(device: MeterWindow, seat: Seat, scene: Scene) -> Iterator[Sample]:
    engines = [scene.engines[engine] for engine in seat.engines]
    well = device.meter.hw_model and device.idle_learnt and not device.states and scene.is_covered(device)
    if not engines or not well or not all(scene.is_covered(each) and not each.restarts for each in engines):
        return
    works = [work for engine in seat.engines for work in scene.works[engine]]
    if not _strangers(device, engines, scene) and all(work.model and work.counts.busy_ns is not None for work in works):
        yield Sample(device.meter.hw_model, _seconds(works), uj_to_j(pot_of(device).dynamic_uj))


def _strangers(device: MeterWindow, engines: list[EngineWindow], scene: Scene) -> bool:
    """Whether processes are known to have worked there that are none of the engines'."""
    told_ns = scene.activity_of(device) or {}
    return any(told_ns[name] for name in told_ns.keys() - {each.engine.id for each in engines})


def _seconds(works: list[ModelWork]) -> dict[Label, float]:
    by_phase = all(work.counts.prefill_busy_ns is not None for work in works)
    seconds: dict[Label, float] = {}
    for work in works:
        busy_ns, prefill_ns = work.counts.busy_ns or 0, work.counts.prefill_busy_ns or 0
        prefill_ns = min(prefill_ns, busy_ns)
        told = {PREFILL: prefill_ns, DECODE: busy_ns - prefill_ns} if by_phase else {BOTH: busy_ns}
        for phase, time_ns in told.items():
            label = (work.model, phase)
            seconds[label] = seconds.get(label, 0.0) + ns_to_s(time_ns)
    return seconds
