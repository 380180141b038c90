"""Recorded readings through the agent itself: the windows are those that it cut when the readings were taken."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.powercap import Tree
from joulefleet.describe import Engine, Meter, Reservation
from joulefleet.reading import MeterReading
from joulefleet.window import Window, decode
from joulefleet_agent.clock import AgentClock
from joulefleet_agent.config import SourceConfig
from joulefleet_agent.cutter import Identity
from joulefleet_agent.link import PostLink
from joulefleet_agent.listen import Heard, listen
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.recording import Began, RecordedReadings, RecordingWriter
from joulefleet_agent.replay import Outcome
from joulefleet_agent.replay_readings import Played, beats, replay_readings
from joulefleet_agent.sampler import Opened, Said
from joulefleet_agent.service import Agent
from joulefleet_agent.sources import configured
from joulefleet_agent.spool import Spool
from joulefleet_agent.uplink import Uplink

S = 1_000_000_000
T0 = 1_500_000_000 * S
BEGAN = Began(identity=Identity(server="gpu-17"), step_ns=S)
SERVER = Meter(id="wall", kind="server", grade="counter", sensor_class="platform")


class Here:
    """Replays into a spool of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url, self.number = folder, url, 0

    def replay(self, path: Path, step_ns: int = S) -> Outcome:
        self.number += 1
        recording = RecordedReadings(path)
        with Spool(self.folder / f"{self.number}.db") as spool:
            uplink = Uplink([PostLink(self.url, random.Random(1), timeout_s=1)], spool, lambda: T0, live=False)
            try:
                return replay_readings(
                    recording, spool, uplink, recording.began.identity, step_ns, 7, lambda _windows, _at_ns: None
                )
            finally:
                uplink.close()


@pytest.fixture
def here(tmp_path: Path, collector: Any) -> Here:
    return Here(tmp_path, collector.url)


def energies(windows: list[Window]) -> dict[tuple[int, str], tuple[int, int, int, int]]:
    return {
        (window.start_ns, one.meter.id): (one.energy_uj, one.late_uj, one.covered_ns, one.last_uj)
        for window in windows
        for one in window.meters
    }


def cut_live(heard: Iterator[Heard], tree: Tree, writer: RecordingWriter, spool: Spool) -> list[Window]:
    """An agent that runs while everything it hears is recorded, too."""
    clocks = Played()
    pipeline, agent = Pipeline(spool, BEGAN.identity, S, 7), None
    moved = 0

    def kept(one: Heard) -> Heard:
        nonlocal moved
        writer.write(one)
        moved += 1_234_567
        for file in tree.root.glob("*/energy_uj"):
            with file.open("r+b", buffering=0) as counter:  # never empty, as a kernel's file never is
                counter.write(b"%012d\n" % (moved % 50_000_000))
        return one

    for beat in beats(map(kept, heard)):
        clocks.move(beat[0])
        if agent is None:
            clock = AgentClock(clocks.wall, clocks.boot)
            agent = Agent(pipeline, clock, S, boot=clocks.boot)
            pipeline.start(["simulated", "rapl"], clock.now_ns())
        clocks.move(beat[-1])
        agent.take_all([one.event for one in beat])
        agent.beat()
    pipeline.finish(T0)
    return [decode(one.body) for one in spool.waiting(10_000, 2**62, 2**40)]


def test_a_recorded_run_gives_the_windows_that_live_cutting_gave(here: Here, tmp_path: Path, collector: Any) -> None:
    tree = Tree(tmp_path)
    tree.add_two_sockets()
    rapl = {"root": str(tree.root), "boot_id": str(tree.boot_id), "period_s": 0.1}
    tables: dict[str, dict[str, Any]] = {"simulated": {"boards": 2, "period_s": 0.1}, "rapl": rapl}
    sources = configured([SourceConfig(use, table) for use, table in tables.items()], "test")
    with RecordingWriter(tmp_path / "r", BEGAN) as writer, Spool(tmp_path / "live.db") as spool:
        live = cut_live(listen(sources, threading.Event(), seconds=3.5), tree, writer, spool)
    outcome = here.replay(tmp_path / "r")
    assert energies(collector.taken) == energies(live)
    assert outcome.windows == len(live) >= 3
    assert {"sim-server", "package-0", "psys"} <= {one.meter.id for window in live for one in window.meters}
    assert sum(one.energy_uj for window in live for one in window.meters if one.meter.id == "psys") > 0


def write(path: Path, seconds: range, wall_of: Any = lambda second: T0 + second * S) -> None:
    """A server of 100 W, read each second."""
    with RecordingWriter(path, BEGAN) as writer:
        writer.write(Heard(seconds[0] * S, wall_of(seconds[0]), Opened("a", (SERVER,))))
        for second in seconds:
            reading = MeterReading(meter="wall", counter_uj=100 * second * 10**6)
            writer.write(Heard(second * S, wall_of(second), Said("a", second * S, (reading,))))


def test_it_is_delivered_whole_and_again_the_same(here: Here, tmp_path: Path, collector: Any) -> None:
    write(tmp_path / "r", range(5, 126))
    outcome = here.replay(tmp_path / "r", 60 * S)
    assert sum(one.energy_uj + one.late_uj for window in collector.taken for one in window.meters) == 12_000 * 10**6
    assert (outcome.readings, outcome.failures, outcome.until_ns - outcome.from_ns) == (121, 0, 120 * S)
    assert all(collector.backfills) and collector.taken[0].server == "gpu-17"
    first = list(collector.taken)
    here.replay(tmp_path / "r", 60 * S)
    assert [one.encode() for one in collector.taken[len(first) :]] == [one.encode() for one in first]


def test_a_clock_that_was_set_back_is_the_same_new_timeline_at_every_replay(
    here: Here, tmp_path: Path, collector: Any
) -> None:
    write(tmp_path / "r", range(5, 305), lambda second: T0 + second * S - (3_600 * S if second > 150 else 0))
    for _ in range(2):
        here.replay(tmp_path / "r", 60 * S)
    assert len({one.timeline for one in collector.taken}) == 2
    half = len(collector.taken) // 2
    assert [one.key for one in collector.taken[:half]] == [one.key for one in collector.taken[half:]]


def test_whose_process_kept_a_board_busy_is_taken_from_the_recording(
    here: Here, tmp_path: Path, collector: Any
) -> None:
    board = Meter(id="gpu", kind="accelerator", grade="counter", sensor_class="onboard")
    engines = [Engine(id=name, software="vllm", devices=(Reservation("gpu"),)) for name in ("a", "b")]
    with RecordingWriter(tmp_path / "r", BEGAN) as writer:
        writer.write(Heard(S, T0 + S, Opened("s", (board, *engines))))
        for second in range(1, 62):
            activity = {"a": S // 2, "b": S // 4} if second > 1 else None
            reading = MeterReading(meter="gpu", counter_uj=second * 10**8, activity_ns=activity)
            writer.write(Heard(second * S, T0 + second * S, Said("s", second * S, (reading,))))
    here.replay(tmp_path / "r", 60 * S)
    told = [one.activity_ns for window in collector.taken for one in window.meters if one.activity_ns]
    assert sum(one["a"] for one in told) == 2 * sum(one["b"] for one in told) > 0
    assert all(set(one) == {"a", "b"} for one in told)
