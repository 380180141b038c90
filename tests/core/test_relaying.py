"""A relay's answer is understood whole, or refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.relaying import DRIFT, SCHEMA, Answer, Bearing, WrongAnswer, decode

ANSWER = Answer(
    life="a1",
    at_ns=5,
    number=7,
    meters=(Meter(id="rack/pdu", kind="server", grade="integrated", sensor_class="platform", device="pdu:a/7"),),
    readings=(MeterReading(meter="rack/pdu", power_mw=412_000, counter_uj=2**62, age_ns=3, epoch="e"),),
    failures=(Failure(subject="rack/other", code="timeout", detail="no answer"),),
)


def test_an_answer_there_and_back() -> None:
    assert decode(ANSWER.encode()) == ANSWER


@given(st.binary(max_size=200))
def test_bytes_that_are_no_answer_are_refused(body: bytes) -> None:
    with pytest.raises(WrongAnswer):
        decode(body)


def test_another_version_is_refused_with_the_mend() -> None:
    with pytest.raises(WrongAnswer, match="upgrade the older"):
        decode(msgspec.structs.replace(ANSWER, schema=SCHEMA + 1).encode())


S, MS = 1_000_000_000, 1_000_000
DELAYS_NS = st.tuples(st.integers(0, 5 * S), st.integers(0, 5 * S))


@given(st.integers(-(10**18), 10**18), st.lists(DELAYS_NS, min_size=1, max_size=30))
def test_the_moment_of_an_answer_is_found_to_half_of_the_quickest_of_them(
    ahead: int, delays: list[tuple[int, int]]
) -> None:
    bearing, now_ns, quickest_ns, began_ns = Bearing(), 10**18, 10 * S, 10**18
    for there_ns, back_ns in delays:
        made_ns, came_ns = now_ns + there_ns, now_ns + there_ns + back_ns
        found_ns = bearing.ahead_ns(now_ns, came_ns, made_ns - ahead)
        quickest_ns, now_ns = min(quickest_ns, there_ns + back_ns), came_ns + S
        assert abs(found_ns - ahead) <= quickest_ns // 2 + (came_ns - began_ns) // DRIFT + 1


def test_clocks_that_part_are_followed() -> None:
    bearing = Bearing()
    assert bearing.ahead_ns(0, 0, 0) == 0
    for second in range(1, 1_000):
        parted_ns = second * S // (DRIFT * 2)
        found_ns = bearing.ahead_ns(second * S - MS, second * S + MS, second * S - parted_ns)
        assert abs(found_ns - parted_ns) <= 2 * MS
    assert found_ns > 90 * MS


def test_an_answer_that_took_long_moves_nothing() -> None:
    bearing = Bearing()
    bearing.ahead_ns(0, 2 * MS, 1 * MS)
    assert bearing.ahead_ns(S, S + 300 * MS, S + 299 * MS) == 0
    assert bearing.ahead_ns(2 * S, 2 * S + 2 * MS, 2 * S + 1 * MS) == 0
