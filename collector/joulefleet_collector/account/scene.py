"""A window as accounting looks at it: engines in a fixed order, and what counts as covered."""

from functools import cached_property

import msgspec

from joulefleet.describe import Engine, Meter
from joulefleet.window import EngineWindow, MeterWindow, Window
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.share import share_out
from joulefleet_collector.account.work import ModelWork, by_model, engine_weights, model_weights


class Scene(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Meters and engines of one window, sorted by id, so that their order in the window changes nothing.

    Several boundaries hold the same joules of the same engines; what they ask twice is found once.
    """

    step_ns: int
    meters: tuple[MeterWindow, ...]
    engines: tuple[EngineWindow, ...]
    """An engine's number is its place here."""
    works: tuple[list[ModelWork], ...]
    """What each engine did, by model."""
    policy: Policy

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

    def engine_weights(self, engines: tuple[int, ...]) -> tuple[str, list[int]]:
        """`work.engine_weights` of the engines of these numbers."""
        if engines not in self._engine_weights:
            told = [self.engines[engine] for engine in engines]
            self._engine_weights[engines] = engine_weights(told, self.policy)
        return self._engine_weights[engines]

    def asked_for_tokens(self) -> bool:
        """Whether energy was so far split among engines by tokens, so that their weights matter."""
        return any(method == "work" for method, _ in self._engine_weights.values())

    @cached_property
    def model_weights(self) -> tuple[list[int], ...]:
        """`work.model_weights` of each engine."""
        return tuple(model_weights(works, self.policy) for works in self.works)

    def among_models(self, engine: int, energy_uj: int) -> list[int]:
        """An engine's energy as its models share it, to the microjoule."""
        if len(self.model_weights[engine]) == 1:
            return [energy_uj]
        asked = (engine, energy_uj)
        if asked not in self._among_models:
            self._among_models[asked] = share_out(energy_uj, self.model_weights[engine])
        return self._among_models[asked]

    @cached_property
    def in_range(self) -> tuple["Scene", ...]:
        """The scene at both ends of `Policy.decode_weight_range`."""
        policies = [
            msgspec.structs.replace(self.policy, decode_weight=weight) for weight in self.policy.decode_weight_range
        ]
        return tuple(msgspec.structs.replace(self, policy=policy) for policy in policies)

    @cached_property
    def _enough_ns(self) -> float:
        return self.policy.pair_threshold * self.step_ns

    @cached_property
    def _engine_weights(self) -> dict[tuple[int, ...], tuple[str, list[int]]]:
        return {}

    @cached_property
    def _among_models(self) -> dict[tuple[int, int], list[int]]:
        return {}


def scene_of(window: Window, policy: Policy) -> Scene:
    """The window under this policy."""
    engines = sorted(window.engines, key=lambda e: e.engine.id)
    return Scene(
        step_ns=window.step_ns,
        meters=tuple(sorted(window.meters, key=lambda m: m.meter.id)),
        engines=tuple(engines),
        works=tuple(by_model(engine) for engine in engines),
        policy=policy,
    )
