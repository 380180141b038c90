"""Which process of a soak is killed when, and how long it stays down: all of it follows from the seed."""

import random
from collections.abc import Sequence

import msgspec

CALM_BEFORE_S, CALM_AFTER_S = 3.0, 15.0
"""No kill so soon after the beginning, nor so late that something might not run when the last window closes."""
BETWEEN_S = 3.0
"""A process lives at least so long."""
SPARED_FROM = 0.4
"""Part of the time after which those that are spared live on, so that their memory can be watched."""
LONG_SHARE = 0.1
SHORT_S, LONG_S = (0.0, 3.0), (5.0, 12.0)
"""How long a process stays down, mostly and now and then."""


class Prey(msgspec.Struct, frozen=True, kw_only=True):
    """Processes of one kind."""

    kind: str
    names: tuple[str, ...]
    every_s: float
    """Mean time between kills of the kind."""
    spared: tuple[str, ...] = ()
    """Those of them that are killed in the first part of the time only."""


class Kill(msgspec.Struct, frozen=True):
    """`kill -9` of one process, so many seconds after the beginning."""

    at_s: float
    kind: str
    victim: str
    down_s: float


def plan(seed: int, seconds: float, preys: Sequence[Prey]) -> list[Kill]:
    """All kills in their order; the same for the same arguments."""
    return sorted((kill for prey in preys for kill in _of(prey, seed, seconds)), key=lambda kill: kill.at_s)


def _of(prey: Prey, seed: int, seconds: float) -> list[Kill]:
    chance = random.Random(f"{seed} {prey.kind}")
    free_s = dict.fromkeys(prey.names, CALM_BEFORE_S)
    at_s, kills = CALM_BEFORE_S, list[Kill]()
    while (at_s := at_s + prey.every_s * chance.uniform(0.5, 1.5)) < seconds - CALM_AFTER_S:
        down_s = chance.uniform(*(LONG_S if chance.random() < LONG_SHARE else SHORT_S))
        spared = prey.spared if at_s > SPARED_FROM * seconds else ()
        if within := [name for name in prey.names if free_s[name] <= at_s and name not in spared]:
            kills.append(Kill(at_s, prey.kind, chance.choice(within), down_s))
            free_s[kills[-1].victim] = at_s + down_s + BETWEEN_S
    return kills
