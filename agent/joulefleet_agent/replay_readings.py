"""Plays recorded readings through the agent itself, on the recording's clocks: the same windows come out."""

import random
import time
from collections.abc import Iterable, Iterator, Sequence

from joulefleet.describe import Engine
from joulefleet.gain import Scaler
from joulefleet.reading import Failure, Reading
from joulefleet.units import s_to_ns
from joulefleet_agent.clock import AgentClock, wall_ns
from joulefleet_agent.cutter import Identity
from joulefleet_agent.listen import Heard
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.recording import RecordedReadings
from joulefleet_agent.replay import SEND_FROM, Outcome, Progress, delivered
from joulefleet_agent.sampler import Opened, Said
from joulefleet_agent.service import BEAT_S, Agent
from joulefleet_agent.spool import Spool
from joulefleet_agent.uplink import Uplink


class AlreadyNamed:
    """Whose process was whose was told when it was recorded; here other processes bear their numbers."""

    hidden = False

    def named(self, readings: Sequence[Reading], engines: Sequence[Engine]) -> list[Reading]:
        """The readings as they are."""
        return list(readings)

    def owners(self, pids: Iterable[str], engines: Sequence[Engine]) -> dict[str, str]:
        """Themselves: engines stand in the place of processes."""
        return {pid: pid for pid in pids}


class Played:
    """The clocks of a recording: they stand where the last thing was heard."""

    def __init__(self) -> None:
        self.boot_ns = 0
        self.wall_ns = 0

    def boot(self) -> int:
        """Nanoseconds since the boot of the machine that recorded."""
        return self.boot_ns

    def wall(self) -> int:
        """Its wall clock, nanoseconds since 1970."""
        return self.wall_ns

    def move(self, heard: Heard) -> None:
        """To the instant at which this was heard."""
        self.boot_ns, self.wall_ns = heard.boot_ns, heard.wall_ns


def replay_readings(  # noqa: PLR0913, PLR0917 # the parts of one way
    recording: RecordedReadings,
    spool: Spool,
    uplink: Uplink,
    identity: Identity,
    step_ns: int,
    timeline: int,
    told: Progress,
) -> Outcome:
    """Cut a recording's readings into windows and deliver them; the spool must be new.

    Raises BadReadings, CollectorSilent.
    """
    began_s, sending = time.monotonic(), True
    outcome = Outcome(timeline=f"{timeline:08x}")
    # A clock that was set back while it was recorded begins a new timeline, the same one at every replay.
    chance = random.Random(timeline)  # noqa: S311 - no secret
    pipeline = Pipeline(spool, identity, step_ns, timeline, new_timeline=lambda: chance.getrandbits(32))
    for now_ns, closed in played(calibrated(recording), pipeline, step_ns, outcome):
        outcome.windows += closed
        told(outcome.windows, now_ns)
        if sending and spool.depth()[0] >= SEND_FROM:
            sending = not uplink.send_once()
    outcome.windows += pipeline.finish(wall_ns())
    return delivered(outcome, uplink, spool, began_s)


def played(heard: Iterable[Heard], pipeline: Pipeline, step_ns: int, outcome: Outcome) -> Iterator[tuple[int, int]]:
    """Feed beat after beat to an agent; after each, its time and how many windows it closed."""
    clocks, agent, clock = Played(), None, None
    for beat in beats(heard):
        clocks.move(beat[0])
        if agent is None or clock is None:
            clock = AgentClock(clocks.wall, clocks.boot)
            agent = Agent(pipeline, clock, step_ns, wall=wall_ns, boot=clocks.boot, processes=AlreadyNamed())
            pipeline.start([], clock.now_ns())
            outcome.from_ns = clock.now_ns()
        clocks.move(beat[-1])
        agent.take_all([one.event for one in beat])
        closed = agent.beat()
        for one in beat:
            _count(one, outcome)
        outcome.until_ns = max(outcome.until_ns, clock.now_ns())
        yield clock.now_ns(), closed


def calibrated(recording: RecordedReadings) -> Iterator[Heard]:
    """What was heard, in the scale of the calibrations that held."""
    scaler = Scaler({one.meter: one for one in recording.began.gains})
    for heard in recording.heard():
        match heard.event:
            case Opened() as event:
                yield Heard(heard.boot_ns, heard.wall_ns, Opened(event.source, scaler.declared(event.declares)))
            case Said() as event:
                said = Said(event.source, event.boot_ns, scaler.said(event.readings))
                yield Heard(heard.boot_ns, heard.wall_ns, said)
            case _:
                yield heard


def beats(heard: Iterable[Heard]) -> Iterator[list[Heard]]:
    """What was heard, by the beats in which a running agent would have taken it."""
    beat: list[Heard] = []
    for one in heard:
        if beat and one.boot_ns - beat[0].boot_ns >= s_to_ns(BEAT_S):
            yield beat
            beat = []
        beat.append(one)
    if beat:
        yield beat


def _count(heard: Heard, outcome: Outcome) -> None:
    if isinstance(heard.event, Said):
        failures = sum(isinstance(one, Failure) for one in heard.event.readings)
        outcome.failures += failures
        outcome.readings += len(heard.event.readings) - failures
