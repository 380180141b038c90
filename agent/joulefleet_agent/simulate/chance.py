"""Chance that follows from a seed and names alone: a fleet is the same wherever and in whatever order it is made."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from joulefleet.describe import WHOLE

T = TypeVar("T")
_BITS = 53
"""What a float holds exactly, so that the share never rounds up to 1."""


def unit(seed: int, *names: str | int) -> float:
    """A number in [0, 1), evenly spread over names."""
    digest = hashlib.blake2b(repr((seed, *names)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> (64 - _BITS)) / (1 << _BITS)


def about_one(spread: float, seed: int, *names: str | int) -> int:
    """Parts per million in [1 - spread, 1 + spread), evenly spread."""
    return round(WHOLE * (1 + spread * (2 * unit(seed, *names) - 1)))


def pick(several: Sequence[T], number: int, seed: int, *names: str | int) -> list[T]:
    """So many of these, none twice, in an order of chance; all of them where there are fewer."""
    order = sorted(range(len(several)), key=lambda place: unit(seed, *names, place))
    return [several[place] for place in order[:number]]
