"""What `joulefleet agent record` keeps of the sources."""

import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from joulefleet.describe import Engine
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet_agent.config import AgentConfig
from joulefleet_agent.listen import Heard
from joulefleet_agent.record import Recorded, began, keep, named, said_by
from joulefleet_agent.recording import RecordedReadings
from joulefleet_agent.sampler import Gone, Opened, Said


def test_the_configured_sources_are_kept_with_whose_they_are(tmp_path: Path) -> None:
    config = AgentConfig(server="gpu-17", step_s=10, sources=[{"use": "simulated", "boards": 1, "period_s": 0.05}])
    stop, told = threading.Event(), list[str]()

    def watch(so_far: Recorded) -> None:
        told.append(str(so_far))
        if so_far.readings >= 6:
            stop.set()

    done = keep(said_by(config, "test", stop, None), began(config, "test"), tmp_path / "r", watch)
    recording = RecordedReadings(tmp_path / "r")
    assert (recording.began.identity.server, recording.began.step_ns) == ("gpu-17", 10_000_000_000)
    heard = list(recording.heard())
    assert isinstance(heard[0].event, Opened)
    assert sum(len(one.event.readings) for one in heard if isinstance(one.event, Said)) == done.readings
    assert told[-1].rpartition(", ")[0] == str(done).rpartition(", ")[0] and done.failures == 0
    assert done.size_bytes == (tmp_path / "r").stat().st_size
    assert str(done).endswith(f" s, {done.size_bytes} bytes")


def test_failures_are_counted_apart(tmp_path: Path) -> None:
    said = Said("a", 1, (Failure(subject="m", code="x"), MeterReading(meter="m", counter_uj=1)))
    done = keep(
        [Heard(1, 1, said), Heard(2_000_000_001, 1, said)],
        began(AgentConfig(), "test"),
        tmp_path / "r",
        lambda _so_far: None,
    )
    assert str(done).startswith("2 readings, 2 without a value in 2 s, ")


class Owners:
    """Says that each process is the last engine's."""

    hidden = False

    def named(self, readings: Sequence[Reading], engines: Sequence[Engine]) -> list[Reading]:
        return [
            msgspec.structs.replace(one, activity_ns={engines[-1].id: 5}) if isinstance(one, MeterReading) else one
            for one in readings
        ]


def test_whose_process_was_whose_is_kept_since_it_can_be_asked_only_now() -> None:
    engines = (Engine(id="a", software="vllm"), Engine(id="b", software="vllm"))
    said = Said("nvml", 1, (MeterReading(meter="gpu", counter_uj=1, activity_ns={"4711": 5}),))
    heard = [Heard(1, 1, Opened("pages", engines)), Heard(2, 2, said), Heard(3, 3, Gone("pages"))]
    kept = list(named(heard, Owners()))
    assert [kept[0], kept[2]] == [heard[0], heard[2]]
    assert isinstance(kept[1].event, Said)
    assert kept[1].event.readings == (MeterReading(meter="gpu", counter_uj=1, activity_ns={"b": 5}),)
