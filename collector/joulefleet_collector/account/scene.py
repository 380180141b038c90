"""A window as accounting looks at it: engines in a fixed order, and what counts as covered."""

import msgspec

from joulefleet.describe import Meter
from joulefleet.window import EngineWindow, MeterWindow, Window
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.work import ModelWork, by_model


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """Meters and engines of one window, sorted by id, so that their order in the window changes nothing."""

    step_ns: int
    meters: tuple[MeterWindow, ...]
    engines: tuple[EngineWindow, ...]
    """An engine's number is its place here."""
    works: tuple[list[ModelWork], ...]
    """What each engine did, by model."""
    policy: Policy

    @property
    def declared(self) -> list[Meter]:
        """All meters, also those of no cover."""
        return [reading.meter for reading in self.meters]

    def is_covered(self, thing: MeterWindow | EngineWindow) -> bool:
        """Whether enough of the window is known of it."""
        return thing.covered_ns >= self.policy.pair_threshold * self.step_ns


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
