"""Rows of a window as one line of numbers."""

import numpy as np

from joulefleet_collector.rows import KINDS, Row
from joulefleet_collector.sheet import COLUMNS, Sheet, SheetRows, known

SHEET = Sheet(
    {"server": "a"}, [("ledger", {"boundary": "server"}), ("meter", {"meter": "m0"}), ("meter", {"meter": "m1"})]
)


def values(**told: float) -> np.ndarray:
    """Unknown, save for what is told as kind_number_field."""
    line = np.full(sum(len(COLUMNS[kind]) * number for kind, number in SHEET.shape), np.nan)
    for name, value in told.items():
        kind, number, field = name.split("_", 2)
        first = 0 if kind == "ledger" else len(COLUMNS["ledger"]) + int(number) * len(COLUMNS["meter"])
        line[first + COLUMNS[kind].index(field)] = value
    return line


def test_every_field_of_a_kind_has_a_column() -> None:
    assert all(set(COLUMNS[name]) == {*kind.sums, *kind.latest} for name, kind in KINDS.items())
    assert all(len(set(columns)) == len(columns) for columns in COLUMNS.values())


def test_the_shape_counts_rows_of_each_kind() -> None:
    assert SHEET.shape == (("ledger", 1), ("meter", 2))
    assert len(SHEET) == 3


def test_rows_have_the_fields_that_are_known_and_all_tags() -> None:
    rows = SheetRows(SHEET, 60, values(ledger_0_metered_j=5.0, meter_1_energy_j=0.0))
    assert list(rows) == [
        Row("ledger", 60, {"server": "a", "boundary": "server"}, {"metered_j": 5.0}),
        Row("meter", 60, {"server": "a", "meter": "m0"}, {}),
        Row("meter", 60, {"server": "a", "meter": "m1"}, {"energy_j": 0.0}),
    ]
    assert rows[-1].tags["meter"] == "m1"
    assert [row.kind for row in rows[:2]] == ["ledger", "meter"]
    assert len(rows) == 3


def test_what_is_unknown_is_no_field_and_zero_is_one() -> None:
    assert known(("a", "b"), [float("nan"), 0.0]) == {"b": 0.0}
