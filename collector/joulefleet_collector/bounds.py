"""Bounds of every text, number and list in a window, wherever it stands.

They are checked by types: those of the window once more, each leaf with its bound, so that msgspec checks them all at
once. Only where that finds something is it looked for one by one, to say where it stands.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from joulefleet.window import Window

MAX_ENTRIES = 512
"""Entries of any list or table inside a window: traces, facts, gauges, cells, gaps."""
MAX_TEXT = 256
"""Characters of any name or value."""
MAX_INTEGER = 2**63 - 1
"""The largest integer that stores keep."""
_MAX_FLOAT = 1.7e308
"""The comparison that msgspec makes refuses what is no number, too."""


def unbounded(window: Window) -> Iterator[str]:
    """Texts, numbers and lists that are too long or no numbers, one sentence each."""
    try:
        msgspec.convert(window, _bounded(Window), from_attributes=True)
    except msgspec.ValidationError:
        yield from _leaves(window, "window")


@cache
def _bounded(kind: Any) -> Any:
    """This type with a bound at each leaf."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = msgspec.structs.fields(kind)
        hints = get_type_hints(kind)
        return msgspec.defstruct(kind.__name__, [(one.name, _bounded(hints[one.name])) for one in fields], gc=False)
    if kind is str:
        return Annotated[str, Meta(max_length=MAX_TEXT)]
    if kind is int:
        return Annotated[int, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
    if kind is float:
        return Annotated[float, Meta(ge=-_MAX_FLOAT, le=_MAX_FLOAT)]
    return _bounded_parts(get_origin(kind), get_args(kind)) if get_args(kind) else kind


def _bounded_parts(origin: Any, parts: tuple[Any, ...]) -> Any:
    if origin in (UnionType, Union):
        return reduce(or_, map(_bounded, parts))
    if origin in (dict, tuple):
        several = origin[tuple(part if part is ... else _bounded(part) for part in parts)]
        return Annotated[several, Meta(max_length=MAX_ENTRIES)]
    return origin[parts]


def _leaves(value: object, path: str) -> Iterator[str]:
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _leaves(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, dict | tuple):
        yield from at_most(MAX_ENTRIES, f"entries of {path}", value)
        parts = (part for item in value.items() for part in item) if isinstance(value, dict) else value
        for part in parts:
            yield from _leaves(part, path)
    elif fault := _leaf(value):
        yield f"{path}: {fault}"


def at_most(bound: int, what: str, several: Sequence[object] | Mapping[str, object]) -> Iterator[str]:
    """A sentence where there are more than this."""
    if len(several) > bound:
        yield f"{len(several)} {what}; at most {bound} are taken"


def _leaf(value: object) -> str:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{len(value)} characters; at most {MAX_TEXT} are taken"
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return "not an integer of 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    return ""
