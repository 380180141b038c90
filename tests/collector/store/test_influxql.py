"""InfluxQL: statements as they are, quoting, and answers that are not whole refused."""

import pytest

from joulefleet_collector.rows import KINDS
from joulefleet_collector.store.influxql import (
    BadAnswer,
    Series,
    asked_fields,
    name,
    newest,
    read,
    rows,
    select,
    select_rows,
    totals,
    value,
)
from joulefleet_collector.store.rollup import ROLLUPS, Piece
from joulefleet_collector.store.store import Question

MINUTE, HOUR, DAY, FLEET_HOUR, FLEET_DAY = ROLLUPS
ASKED = Question(kind="usage", since_ns=0, until_ns=60, by=("model",), where={"rack": ("r1", "")}, step="hour")


def test_a_statement_as_it_is() -> None:
    assert select(ASKED, ("active_j", "idle_j"), Piece(MINUTE, 0, 60)) == (
        'SELECT sum("active_j") AS "active_j", sum("idle_j") AS "idle_j" FROM "usage"'
        " WHERE time >= 0 AND time < 60 AND (\"rack\" = 'r1' OR \"rack\" = '')"
        ' GROUP BY time(1h), "model" fill(none)'
    )


def test_each_grain_is_read_from_its_own_measurement() -> None:
    plain = Question(kind="usage", since_ns=0, until_ns=60)
    statement = select(plain, ("active_j",), Piece(FLEET_DAY, 0, 60))
    assert statement == 'SELECT sum("active_j") AS "active_j" FROM "usage_fleet_day" WHERE time >= 0 AND time < 60'
    assert '"meter_hour"' in select_rows("meter", HOUR, 0, 1) and '"agent" GROUP' in newest("agent")


def test_names_and_values_are_quoted() -> None:
    assert name('a"b\\') == '"a\\"b\\\\"'
    assert value("o'clock\\\n%") == "'o\\'clock%5C%0A%25'"
    nasty = Question(kind="usage", since_ns=0, until_ns=60, by=('x" FROM y',), where={"time": ("1' OR '1'='1",)})
    statement = select(nasty, ("active_j",), Piece(MINUTE, 0, 60))
    assert "\"label_time\" = '1\\' OR \\'1\\'=\\'1'" in statement and '"x\\" FROM y"' in statement


def test_fields_are_checked() -> None:
    assert asked_fields(Question(kind="meter", since_ns=0, until_ns=60)) == KINDS["meter"].sums
    with pytest.raises(ValueError, match="no sums of 'meter'"):
        asked_fields(Question(kind="meter", since_ns=0, until_ns=60, fields=('energy_j"',)))


def test_pieces_are_added_up_by_step_and_tags_and_what_is_unknown_stays_missing() -> None:
    one = Series(("time", "active_j", "idle_j"), [[0, 1, None], [3600, 2.5, None]], "usage", {"model": "%25"})
    other = Series(("time", "active_j", "idle_j"), [[0, 10, 4]], "usage_hour", {"model": "%25"})
    found = totals(ASKED, [[one], [other]])
    assert [(total.start_ns, total.tags, total.fields) for total in found] == [
        (0, {"model": "%"}, {"active_j": 11.0, "idle_j": 4.0}),
        (3600, {"model": "%"}, {"active_j": 2.5}),
    ]


def test_rows_of_an_answer_have_no_empty_tags_and_no_unknown_fields() -> None:
    series = Series(("time", "seen", "x"), [[7, 1, None]], "facts", {"fact": "a", "label_time": "1", "pool": ""})
    (row,) = rows("facts", [series])
    assert (row.start_ns, row.tags, row.fields) == (7, {"fact": "a", "time": "1"}, {"seen": 1.0})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error":"bad"}', "bad"),
        (b'{"results":[{"series":[]},{"error":"worse"}]}', "worse"),
        (b'{"results":[{"partial":true}]}', "cut off"),
        (b'{"results":[{"series":[{"name":"a","columns":["time"],"values":[[1]],"partial":true}]}]}', "cut off"),
        (b'{"results":[{"ser', "no answer in InfluxQL's form"),
        (b"<html>", "no answer in InfluxQL's form"),
    ],
)
def test_an_answer_that_is_not_whole_is_none(body: bytes, said: str) -> None:
    with pytest.raises(BadAnswer, match=said):
        read(body)


def test_a_whole_answer_is_read_by_statement() -> None:
    body = b'{"results":[{"statement_id":0},{"series":[{"name":"a","columns":["time","f"],"values":[[1,2]]}]}]}'
    assert read(body) == [[], [Series(("time", "f"), [[1, 2]], "a")]]
