"""The agent as a service: builds every part in order and lets them run until it is told to stop."""

import fcntl
import hashlib
import logging
import os
import queue
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec

from joulefleet.config import ConfigError
from joulefleet.grid import floor_to
from joulefleet.notify import ALIVE, READY, STOPPING, notify
from joulefleet.reading import Failure, Reading
from joulefleet.secret import read_token
from joulefleet.units import NS_PER_S
from joulefleet.window import SCHEMA
from joulefleet_agent.calibration import sources_in
from joulefleet_agent.clock import AgentClock, NowNs, boot_ns, wall_ns
from joulefleet_agent.config import AgentConfig
from joulefleet_agent.cutter import Identity
from joulefleet_agent.offset import Offsets
from joulefleet_agent.own_cost import OwnCost
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.placement import Placement
from joulefleet_agent.processes import HIDDEN, Names, Processes
from joulefleet_agent.sampler import (
    LONGEST_QUEUE,
    Absent,
    Configured,
    Event,
    Gone,
    MustEnd,
    Opened,
    Reader,
    Refused,
    Said,
    stamped,
)
from joulefleet_agent.spool import Spool, SpoolUnavailable

LOG = logging.getLogger(__name__)
BEAT_S = 1.0
"""Between two looks at what the sources said. Readings are stamped when they are taken, so that none is later for
it; to wake for each would be more than twice the wake-ups at ten reads a second."""
FIRST_SEND_S = 0.5
"""The sources read first, what waits is sent then."""
LEAP_NS = 15 * NS_PER_S
"""Between two beats, so much time means that the machine slept or that the clock was set forwards."""
EXIT_OK = 0
EXIT_AGAIN = 75
"""EX_TEMPFAIL: only a new process can go on; the service manager starts it."""


class Agent:
    """The loop: takes what the sources say, closes windows, and watches for those that hang."""

    def __init__(  # noqa: PLR0913, PLR0917 # the parts of one loop
        self,
        pipeline: Pipeline,
        clock: AgentClock,
        step_ns: int,
        wall: NowNs = wall_ns,
        boot: NowNs = boot_ns,
        processes: Names | None = None,
    ) -> None:
        self.exit_code = EXIT_OK
        self.closed = threading.Event()
        """Set when new windows are on disk."""
        self._pipeline = pipeline
        self._clock = clock
        self._step_ns = step_ns
        self._wall = wall
        self._boot = boot
        self._events: queue.Queue[Event] = queue.Queue(LONGEST_QUEUE)
        self._readers: dict[str, Reader] = {}
        self._beat_ns = clock.now_ns()
        self._edge_ns = floor_to(self._beat_ns, step_ns)
        self._said: dict[str, str] = {}
        self._processes: Names = processes or Processes()
        self._placement = Placement(self._processes)
        self._unheard: set[str] = set()
        """Sources that have said nothing yet: one of them may tell of processes."""

    def run(self, sources: Sequence[Configured], stop: threading.Event) -> int:
        """Read until told to stop. Returns the process's exit code."""
        self._unheard = {source.name for source in sources}
        self._pipeline.start([source.name for source in sources], self._clock.now_ns())
        self._readers = {source.name: Reader(source, self._boot, self._events, stop) for source in sources}
        for reader in self._readers.values():
            reader.start()
        notify(READY)
        while not stop.wait(BEAT_S):
            self._take_waiting()
            if self.exit_code:
                stop.set()
            self.beat()
            notify(ALIVE)
        notify(STOPPING)
        self._take_waiting()
        self._pipeline.suspend(self._wall())
        return self.exit_code

    def _take_waiting(self) -> None:
        self.take_all([self._events.get_nowait() for _ in range(self._events.qsize())])

    def take_all(self, waiting: Sequence[Event]) -> None:
        """What the sources said since the last beat."""
        # What opened comes first: declared before any reading is fed, each source counts from its own first reading;
        # after one, it would count from the next edge on.
        for event in sorted(waiting, key=lambda one: not isinstance(one, Opened)):
            self.take(event)

    def take(self, event: Event) -> None:
        """One thing that a source said."""
        now_ns = self._clock.now_ns()
        match event:
            case Opened():
                self._tell(event.source, f"open, {len(event.declares)} declared")
                self._pipeline.declare(event.source, event.declares, now_ns)
                self._place(now_ns)
            case Absent():
                self._tell(event.source, f"{event.code}: {event.detail}" + (f"; {event.mend}" if event.mend else ""))
                failure = Failure(subject="", code=event.code, detail=event.detail)
                self._feed(event.source, [failure], now_ns, now_ns)
            case Refused():
                raise event.error
            case Said():
                self._report_failures(event.source, [one for one in event.readings if isinstance(one, Failure)])
                self._feed(event.source, event.readings, self._clock.at(event.boot_ns), now_ns)
            case Gone():
                self._tell(event.source, "ended")
                self._pipeline.declare(event.source, (), now_ns)
            case MustEnd():
                LOG.error("source %s: %s; this process ends, to be started again", event.source, event.reason)
                self.exit_code = EXIT_AGAIN

    def beat(self) -> int:
        """Between events: watch for what hangs, follow the clock, close what is settled. Returns windows closed."""
        now_ns = self._clock.now_ns()
        for reader in self._readers.values():
            hung = reader.overdue(self._boot())
            if hung:
                self._report_failures(reader.source_name, [hung])
                self._feed(reader.source_name, [hung], now_ns, now_ns)
        if floor_to(now_ns, self._step_ns) != self._edge_ns:
            self._at_edge()
        now_ns = self._clock.now_ns()
        if abs(now_ns - self._beat_ns) > LEAP_NS:
            self._pipeline.resume(now_ns)
        self._beat_ns = now_ns
        closed = self._pipeline.tick(now_ns, self._wall())
        if closed:
            self.closed.set()
        return closed

    def _at_edge(self) -> None:
        back_ns = self._clock.rebase()
        if back_ns:
            self._pipeline.set_back(back_ns, self._wall())
        self._edge_ns = floor_to(self._clock.now_ns(), self._step_ns)

    def _place(self, now_ns: int) -> None:
        """Declare the engines where their processes run."""
        where = self._placement.where(self._pipeline.asked, self._pipeline.placed, heard=not self._unheard)
        self._pipeline.place(where, now_ns)
        if self._processes.hidden:
            self._tell("processes", HIDDEN)

    def _feed(self, source: str, readings: Sequence[Reading], at_ns: int, now_ns: int) -> None:
        news = self._placement.note(readings)
        if source in self._unheard:
            self._unheard.discard(source)
            news |= not self._unheard
        if news:
            self._place(now_ns)
        named = self._processes.named(readings, self._pipeline.engines)
        if self._processes.hidden:
            self._tell("processes", HIDDEN)
        self._pipeline.feed(stamped(named, at_ns, self._pipeline.declared_by(source)), now_ns, source)

    def _report_failures(self, source: str, failures: Sequence[Failure]) -> None:
        for failure in failures:
            self._tell(f"{source}/{failure.subject or 'all'}", f"{failure.code} {failure.detail}".strip(), failure.code)
        if not failures:
            for name in [name for name in self._said if name.startswith(f"{source}/")]:
                LOG.info("%s: answers again", name)
                del self._said[name]

    def _tell(self, name: str, sentence: str, key: str = "") -> None:
        """Log what is new, not what was said before."""
        if self._said.get(name) != (key or sentence):
            self._said[name] = key or sentence
            LOG.info("%s: %s", name, sentence)


def identity_of(config: AgentConfig) -> Identity:
    """What every window of this agent bears."""
    digest = hashlib.sha256(msgspec.json.encode(config)).hexdigest()[:12]
    return Identity(
        server=config.name,
        pool=config.pool,
        site=config.site,
        labels=config.labels,
        hardware=config.hardware,
        facts={
            "agent": version("joulefleet"),
            "schema": str(SCHEMA),
            "config": digest,
            "kernel": os.uname().release,
        },
    )


def run_agent(config: AgentConfig, where: str, stop: threading.Event) -> int:
    """Run until `stop` is set. Raises ConfigError, SpoolUnavailable. Returns the process's exit code."""
    sources = sources_in(config, where)
    token = read_token(config.collector.token_file) if config.collector.token_file else ""
    path = Path(config.spool)
    with Spool(path, config.spool_bounds) as spool, only_one(path):
        pipeline = Pipeline(spool, identity_of(config), config.step_ns)
        clock = take_up_clock(pipeline)
        offsets = Offsets(clock.now_ns)
        pipeline.cost = OwnCost(clock=offsets.take)
        agent = Agent(pipeline, clock, config.step_ns)
        sender = threading.Thread(target=_send, args=(config, token, offsets, stop, agent.closed), daemon=True)
        sender.start()
        try:
            return agent.run(sources, stop)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.where}", error.key, error.expected) from error
        finally:
            stop.set()
            agent.closed.set()
            sender.join(timeout=5)


def take_up_clock(pipeline: Pipeline, wall: NowNs = wall_ns, boot: NowNs = boot_ns) -> AgentClock:
    """The clock, not before what was read and closed; where the wall clock lies further back, a new timeline begins."""
    clock = AgentClock(wall, boot, pipeline.reached_ns)
    back_ns = clock.rebase()
    if back_ns:
        pipeline.set_back(back_ns, wall())
    return clock


def _send(config: AgentConfig, token: str, offsets: Offsets, stop: threading.Event, wake: threading.Event) -> None:
    stop.wait(FIRST_SEND_S)
    from joulefleet_agent.link import best_link  # noqa: PLC0415 - no reading waits for what only the network needs
    from joulefleet_agent.uplink import Uplink, keep_sending, phase_of  # noqa: PLC0415 - the same

    with Spool(Path(config.spool), config.spool_bounds) as spool:
        links = [best_link(url, random.SystemRandom(), token, offsets) for url in config.collector.urls]
        uplink = Uplink(links, spool, offsets.now_ns, offsets=offsets)
        keep_sending(uplink, stop, wake, phase_of(config.name, config.step_s))


@contextmanager
def only_one(spool: Path) -> Iterator[None]:
    """Hold the spool's lock. Raises SpoolUnavailable where another agent has it."""
    with Path(f"{spool.resolve()}.lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SpoolUnavailable(spool, "another agent is running on it; end that one first") from error
        yield
