"""A relay's answer is understood whole, or refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.relaying import SCHEMA, Answer, WrongAnswer, decode

ANSWER = Answer(
    life="a1",
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
