"""Sums of single hours, on their way to the time and the tags that were asked about."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter

from joulefleet.grid import floor_to
from joulefleet_collector.store.store import STEP_NS, Step, Total

JOINT = "+"
"""Between the names of several servers, or several kinds of hardware, of which one sum is made."""


def added_up(totals: Iterable[Total], by: Sequence[str], step: Step) -> list[Total]:
    """These sums by fewer tags and longer steps, ordered by step and tags. Unknown plus known is known."""
    step_ns = STEP_NS[step]
    several: dict[tuple[int, tuple[str, ...]], list[Mapping[str, float]]] = {}
    for total in totals:
        start_ns = floor_to(total.start_ns or 0, step_ns) if step_ns else 0
        key = start_ns, tuple(total.tags.get(tag, "") for tag in by)
        several.setdefault(key, []).append(total.fields)
    return [
        Total(start_ns if step_ns else None, dict(zip(by, tags, strict=True)), _sums(several[start_ns, tags]))
        for start_ns, tags in sorted(several)
    ]


def matching(totals: Iterable[Total], where: Mapping[str, Collection[str]]) -> list[Total]:
    """Those of which each of these tags has one of its values; where several names were joined, one of them."""
    return [total for total in totals if all(_is_one_of(total.tags.get(tag, ""), where[tag]) for tag in where)]


def _is_one_of(tag: str, values: Collection[str]) -> bool:
    return tag in values or any(name in values for name in tag.split(JOINT))


def _sums(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    if len(several) == 1:
        return dict(several[0])
    shapes = dict.fromkeys(map(tuple, several))
    return {
        name: math.fsum(map(itemgetter(name), several if len(shapes) == 1 else [one for one in several if name in one]))
        for name in dict.fromkeys(chain.from_iterable(shapes))
    }
