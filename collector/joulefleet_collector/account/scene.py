"""A window as accounting looks at it: engines in a fixed order, and what counts as covered."""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from joulefleet.describe import Engine, Meter
from joulefleet.window import EngineWindow, MeterWindow, Window
from joulefleet_collector.account.busy import busy_weights, hardware_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.share import share_out
from joulefleet_collector.account.work import ModelWork, Ways, by_model, model_ways, own_work

Found = TypeVar("Found")


class Scene(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Meters and engines of one window, sorted by id, so that their order in the window changes nothing.

    Several boundaries hold the same joules of the same engines; what they ask twice is found once.
    """

    step_ns: int
    meters: tuple[MeterWindow, ...]
    engines: tuple[EngineWindow, ...]
    """An engine's number is its place here."""
    fronts: tuple[EngineWindow, ...]
    """Gateways before engines: what they count is counted by the engines too, so that they hold nothing."""
    works: tuple[list[ModelWork], ...]
    """What each engine did, by model."""
    policy: Policy
    preferred: str = ""
    """The method by which energy is split wherever it is known there, in place of the best."""

    @property
    def declared(self) -> tuple[Meter, ...]:
        """All meters, also those of no cover."""
        return tuple([reading.meter for reading in self.meters])

    @property
    def served(self) -> tuple[Engine, ...]:
        """What the engines declare, by number."""
        return tuple([reading.engine for reading in self.engines])

    def is_covered(self, thing: MeterWindow | EngineWindow) -> bool:
        """Whether enough of the window is known of it."""
        return thing.covered_ns >= self._enough_ns

    def activity_of(self, device: MeterWindow) -> dict[str, int] | None:
        """What is told of the processes on a device, in ns by engine: by its meter or another one of the same thing, or
        by all devices inside it. None where that is not known."""
        if device.activity_ns is not None:
            return device.activity_ns
        own = device.meter
        same = [m for m in self.meters if own.device and m.meter.device == own.device and m.activity_ns is not None]
        if same:
            return same[0].activity_ns
        return _summed(
            [m.activity_ns for m in self.meters if m.meter.inside == own.id and m.meter.kind == "accelerator"]
        )

    def once(self, key: Hashable, find: Callable[[], Found]) -> Found:
        """What was found under this key before, else what is found now."""
        if key not in self._found:
            self._found[key] = find()
        found: Found = self._found[key]
        return found

    @cached_property
    def model_weights(self) -> tuple[list[int], ...]:
        """By which the models of each engine share what is the engine's."""
        return tuple(self.chosen(ways)[1] for ways in self.model_ways)

    @cached_property
    def model_ways(self) -> tuple[Ways, ...]:
        """`work.model_ways` of each engine, busy time weighed with watts where they are known."""
        return tuple(
            self._with_watts(model_ways(works, self.policy), engine, works)
            for engine, works in zip(self.served, self.works, strict=True)
        )

    def _with_watts(self, ways: Ways, engine: Engine, works: list[ModelWork]) -> Ways:
        if not self.policy.busy_watts or "busy" not in ways:
            return ways
        watts = busy_weights(works, hardware_of(engine, self.declared), self.policy)
        return ways if watts is None else ways | {"busy": watts}

    def chosen(self, ways: dict[str, Found]) -> tuple[str, Found]:
        """One of these ways and its method: the preferred one, else the first."""
        method = self.preferred if self.preferred in ways else next(iter(ways))
        return method, ways[method]

    def among_models(self, engine: int, energy_uj: int) -> list[int]:
        """An engine's energy as its models share it, to the microjoule."""
        weights = self.model_weights[engine]
        return self.once(("models", engine, energy_uj), lambda: share_out(energy_uj, weights))

    def varied(self, preferred: str, decode_weight: int) -> "Scene":
        """The scene with another method preferred, and another weight of output tokens."""
        policy = msgspec.structs.replace(self.policy, decode_weight=decode_weight)
        return self.once(
            ("varied", preferred, decode_weight),
            lambda: msgspec.structs.replace(self, policy=policy, preferred=preferred),
        )

    @cached_property
    def _enough_ns(self) -> float:
        return self.policy.pair_threshold * self.step_ns

    @cached_property
    def _found(self) -> dict[Hashable, Any]:
        return {}


def _summed(parts: Sequence[dict[str, int] | None]) -> dict[str, int] | None:
    """Sums by engine; None where there is none to add, or one is not known."""
    sums: dict[str, int] = {}
    for part in parts:
        if part is None:
            return None
        sums = {name: sums.get(name, 0) + part.get(name, 0) for name in {**sums, **part}}
    return sums if parts else None


def scene_of(window: Window, policy: Policy) -> Scene:
    """The window under this policy."""
    every = [own_work(each) for each in sorted(window.engines, key=lambda e: e.engine.id)]
    engines = [each for each in every if not each.engine.front]
    return Scene(
        step_ns=window.step_ns,
        meters=tuple(sorted(window.meters, key=lambda m: m.meter.id)),
        engines=tuple(engines),
        fronts=tuple([each for each in every if each.engine.front]),
        works=tuple(by_model(engine) for engine in engines),
        policy=policy,
    )
