"""Recordings of raw readings: what is written is read again, up to where a crash cut them off."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import Engine, Meter, Reservation
from joulefleet.reading import Counts, Failure, MeterReading, WorkKey, WorkReading
from joulefleet_agent.cutter import Identity
from joulefleet_agent.listen import Heard
from joulefleet_agent.recording import BadReadings, Began, RecordedReadings, RecordingWriter
from joulefleet_agent.sampler import Absent, Event, Gone, MustEnd, Opened, Said

S = 1_000_000_000
BEGAN = Began(identity=Identity(server="gpu-17", labels={"rack": "r12"}), step_ns=60 * S)
METER = Meter(id="m", kind="dram", grade="counter", sensor_class="onboard", modulus_uj=5)
ENGINE = Engine(id="e", software="vllm", devices=(Reservation("m", 5),))
KEY = WorkKey("llama", tenant="t")
WORK = WorkReading(
    engine="e", at_ns=1, counts={KEY: Counts(requests_ok=3)}, latency={KEY: {"e2e": {"0.5": 3}}}, running=0
)
FAILURE = Failure(subject="", code="x")
EVENTS: list[Event] = [
    Opened("a", (METER, ENGINE)),
    Absent("b", "permission", "may not", "let it"),
    Said(
        "a", 5, (MeterReading(meter="m", counter_uj=2**63, gauges={"x_pct": 1.5}), WORK, Failure(subject="", code="x"))
    ),
    Said("a", 6, ()),
    Gone("a"),
    MustEnd("b", "why"),
]


def write(path: Path, events: list[Event]) -> list[Heard]:
    heard = [Heard(k * S // 2, 10**18 + k * S // 2, event) for k, event in enumerate(events)]
    with RecordingWriter(path, BEGAN) as writer:
        for one in heard:
            writer.write(one)
        assert writer.size > 0
    return heard


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    heard = write(tmp_path / "r", EVENTS)
    recording = RecordedReadings(tmp_path / "r")
    assert recording.began == BEGAN
    assert list(recording.heard()) == heard


def test_a_recording_is_never_written_over(tmp_path: Path) -> None:
    write(tmp_path / "r", EVENTS)
    with pytest.raises(FileExistsError):
        RecordingWriter(tmp_path / "r", BEGAN)


def test_what_was_written_a_second_ago_is_on_disk_while_recording_goes_on(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r", BEGAN) as writer:
        for second in range(1, 4):
            writer.write(Heard(second * S, 0, Said("a", second * S, ())))
            assert len(list(RecordedReadings(tmp_path / "r").heard())) == second


@given(st.data())
def test_one_that_was_cut_off_is_read_up_to_its_last_whole_entry(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    heard = write(folder / "whole", EVENTS * 20)
    body = (folder / "whole").read_bytes()
    end = data.draw(st.integers(0, len(body)))
    tail = data.draw(st.sampled_from([b"", b"\0" * 64, b"\xff" * 64]))
    (folder / "cut").write_bytes(body[:end] + tail)
    try:
        found = list(RecordedReadings(folder / "cut").heard())
    except BadReadings:
        assert end < 400 or tail
        return
    assert found == heard[: len(found)]
    if end == len(body):
        assert found == heard


@pytest.mark.parametrize("body", [b"", b"notes\n" * 100, b"\x28\xb5\x2f\xfd"])
def test_another_file_is_no_recording(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "r").write_bytes(body)
    with pytest.raises(BadReadings, match="not a recording"):
        RecordedReadings(tmp_path / "r")


def test_one_of_another_version_is_refused(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r", Began(schema=9, identity=Identity(server="a"), step_ns=S)):
        pass
    with pytest.raises(BadReadings, match="another version"):
        RecordedReadings(tmp_path / "r")
