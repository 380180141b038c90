"""What `joulefleet agent record` keeps of the sources."""

import threading
from pathlib import Path

from joulefleet.reading import Failure, MeterReading
from joulefleet_agent.config import AgentConfig
from joulefleet_agent.listen import Heard
from joulefleet_agent.record import Recorded, began, keep, said_by
from joulefleet_agent.recording import RecordedReadings
from joulefleet_agent.sampler import Opened, Said


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
    assert told[-1] == str(done) and done.failures == 0


def test_failures_are_counted_apart(tmp_path: Path) -> None:
    said = Said("a", 1, (Failure(subject="m", code="x"), MeterReading(meter="m", counter_uj=1)))
    done = keep(
        [Heard(1, 1, said), Heard(2_000_000_001, 1, said)],
        began(AgentConfig(), "test"),
        tmp_path / "r",
        lambda _so_far: None,
    )
    assert str(done).startswith("2 readings, 2 without a value in 2 s, ")
