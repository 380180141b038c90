"""Line protocol: what is escaped, what is refused, and that every row can be read back from its line."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.rows import KINDS, Row
from joulefleet_collector.store.lines import column, kept, lines, tag_of, unkept

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True) | st.sampled_from(
    ["time", "active_j", "_field", "label_time", "label_", "server", "é"]
)
VALUES = st.text(max_size=20) | st.text(alphabet="\\ ,=\n\r\t%\"'x", max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
ROWS = st.builds(
    Row,
    st.just("usage"),
    st.integers(0, 2**62),
    st.dictionaries(NAMES, VALUES, max_size=5),
    st.dictionaries(st.sampled_from(KINDS["usage"].sums), NUMBERS, min_size=1, max_size=5),
)


def parsed(line: bytes) -> Row:
    """A line taken apart by the rules of line protocol: a backslash protects the space, comma or equals behind it."""
    series, fields, instant = re.split(r"(?<!\\) ", line.decode())
    kind, *tags = re.split(r"(?<!\\),", series)
    pairs = (re.split(r"(?<!\\)=", tag) for tag in tags)
    named = {
        tag_of(re.sub(r"\\([ ,=])", r"\1", name)): unkept(re.sub(r"\\([ ,=])", r"\1", text)) for name, text in pairs
    }
    return Row(kind, int(instant), named, {name: float(number) for name, number in _pairs(fields)})


def _pairs(fields: str) -> list[list[str]]:
    return [field.split("=") for field in fields.split(",")]


@given(ROWS)
def test_a_row_can_be_read_back_from_its_line(row: Row) -> None:
    (line,) = lines([row])
    assert b"\n" not in line
    back = parsed(line)
    assert (back.kind, back.start_ns) == (row.kind, row.start_ns)
    assert back.tags == {name: text for name, text in row.tags.items() if text}
    assert back.fields == row.fields


@given(st.lists(ROWS, max_size=6))
def test_each_row_has_its_own_line_in_its_place(rows: list[Row]) -> None:
    assert lines(rows) == [line for row in rows for line in lines([row])]


def test_a_line_as_it_is() -> None:
    tags = {"server": "gpu 1,a=b", "model": "", "rack": "é"}
    row = Row("usage", 60_000_000_000, tags, {"active_j": 1.5, "requests_ok": 4, "idle_j": 0.0})
    assert lines([row])[0].decode() == (
        "usage,rack=é,server=gpu\\ 1\\,a\\=b active_j=1.5,requests_ok=4,idle_j=0.0 60000000000"
    )
    assert lines([row], "fleet_hour")[0].startswith(b"usage_fleet_hour,")


def test_numbers_never_bear_the_mark_of_an_integer() -> None:
    (line,) = lines([Row("usage", 0, {}, {"active_j": 5, "idle_j": 1e300, "paired_s": 5e-324})])
    numbers = line.split()[1].split(b",")
    assert [float(number.split(b"=")[1]) for number in numbers] == [5, 1e300, 5e-324]
    assert b"i" not in b"".join(number.split(b"=")[1] for number in numbers)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_with_the_row_named(wrong: float) -> None:
    good = Row("usage", 0, {"server": "a"}, {"active_j": 1.0})
    with pytest.raises(ValueError, match=r"idle_j: not a finite number.*'server': 'b'"):
        lines([good, Row("usage", 0, {"server": "b"}, {"active_j": 1.0, "idle_j": wrong})])


def test_a_field_of_no_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="joule: no fields of 'meter' rows"):
        lines([Row("meter", 0, {}, {"joule": 1.0})])


def test_a_row_that_knows_nothing_has_no_line() -> None:
    assert lines([Row("usage", 0, {"server": "a"}, {})]) == []
    assert lines([]) == []


@given(NAMES)
def test_names_come_back_and_never_stand_for_a_field_or_the_time(name: str) -> None:
    assert tag_of(column(name)) == name
    taken = {"time", *(field for kind in KINDS.values() for field in (*kind.sums, *kind.latest))}
    assert column(name) not in taken and not column(name).startswith("_")


@given(VALUES, VALUES)
def test_values_come_back_and_stay_different(one: str, other: str) -> None:
    assert unkept(kept(one)) == one
    assert (kept(one) == kept(other)) == (one == other)
    assert not re.search(r"[\\\n\r]", kept(one))
