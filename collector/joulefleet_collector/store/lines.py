"""Rows as InfluxDB's line protocol: one row a line, `kind,tag=value field=number time`.

Line protocol has no way to write a line break, or a backslash before a comma, in a tag. Such characters travel as
`%XX`, and a percent sign as `%25`, so that every tag comes back as it was. An empty tag is left out: absent counts as
empty. Numbers are always floats, since a field that is once an integer and once a float is refused by InfluxDB.
"""

import math
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import unquote

import msgspec

from joulefleet_collector.rows import KINDS, Row

SERIES_KEPT = 65_536
"""Combinations of tags whose beginning of the line is remembered."""
RENAMED = "label_"
"""Before the name of a label that would be taken for a field, for the time, or for InfluxDB's own."""

_UNSAFE = re.compile(r"[%\\\x00-\x1f\x7f]")
_SPECIAL = re.compile(r"([ ,=])")
_FIELDS = {kind: frozenset((*shape.sums, *shape.latest)) for kind, shape in KINDS.items()}
_TAKEN = frozenset({"time"}).union(*_FIELDS.values())
_EQUALS = bytes.maketrans(b":", b"=")
_JSON = msgspec.json.Encoder()


def lines(rows: Iterable[Row], grain: str = "") -> list[bytes]:
    """Each row that knows a field as one line without its end, in nanoseconds since 1970.

    Its measurement is the row's kind, with the name of a rollup's grain behind it where one is given. Raises ValueError
    where a field is no finite number, or none of its kind; then none of the rows may be sent.
    """
    known = [row for row in rows if row.fields]
    for row in known:
        if not row.fields.keys() <= _FIELDS[row.kind]:
            unknown = ", ".join(sorted(row.fields.keys() - _FIELDS[row.kind]))
            raise ValueError(f"{unknown}: no fields of '{row.kind}' rows")
    # Names of fields are ours and hold nothing to escape: only quotes, braces and colons part JSON's tables from the
    # fields of lines, and writing all of them at once is several times faster than formatting each number.
    tables = _JSON.encode_lines([row.fields for row in known]).translate(_EQUALS, b'"{}')
    # JSON has no sign for what is no finite number and says null.
    if b"=null" in tables:
        _refuse_infinite(known)
    tags = _JSON.encode_lines([row.tags for row in known]).split(b"\n")
    return [
        b"%b %b %d" % (_series(row.kind, grain, of_row), numbers, row.start_ns)
        for row, of_row, numbers in zip(known, tags, tables.split(b"\n"), strict=False)
    ]


def _refuse_infinite(rows: Iterable[Row]) -> None:
    row = next(row for row in rows if not all(map(math.isfinite, row.fields.values())))
    wrong = ", ".join(name for name, value in row.fields.items() if not math.isfinite(value))
    raise ValueError(f"{wrong}: not a finite number, in a row of '{row.kind}' of {row.tags}")


def measurement(kind: str, grain: str = "") -> str:
    """The name under which rows of this kind are kept in this grain; the rows themselves without one."""
    return f"{kind}_{grain}" if grain else kind


def column(tag: str) -> str:
    """The name under which a tag is kept."""
    return RENAMED + tag if tag in _TAKEN or tag.startswith(("_", RENAMED)) else tag


def tag_of(column_name: str) -> str:
    """The tag that is kept under this name."""
    return column_name.removeprefix(RENAMED)


def kept(value: str) -> str:
    """The value of a tag as it is kept; `unkept` gives it back."""
    return _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", value)


def unkept(value: str) -> str:
    """The value of a tag from what is kept of it."""
    return unquote(value) if "%" in value else value


@lru_cache(maxsize=SERIES_KEPT)
def _series(kind: str, grain: str, tags: bytes) -> bytes:
    """Measurement and tags, in the order that InfluxDB prefers."""
    named = {column(name): kept(value) for name, value in msgspec.json.decode(tags, type=dict[str, str]).items()}
    pairs = [f"{_escaped(name)}={_escaped(named[name])}" for name in sorted(named) if named[name]]
    return ",".join([measurement(kind, grain), *pairs]).encode()


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
