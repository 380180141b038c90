"""`joulefleet agent record`: keeps what every source says, raw, so that it can be played through the agent again."""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from joulefleet.describe import Engine
from joulefleet.reading import Failure
from joulefleet.units import bytes_to_mb, ns_to_s
from joulefleet_agent.calibration import gains_of
from joulefleet_agent.config import AgentConfig, sources_of
from joulefleet_agent.listen import Heard, listen
from joulefleet_agent.placement import with_owners
from joulefleet_agent.processes import Names, Processes
from joulefleet_agent.recording import Began, RecordingWriter
from joulefleet_agent.sampler import Opened, Said
from joulefleet_agent.service import identity_of
from joulefleet_agent.sources import configured, on_this_machine

LEAST_SHOWN_MB = 0.1


class Recorded(msgspec.Struct, kw_only=True):
    """What a recording holds so far."""

    readings: int = 0
    failures: int = 0
    seconds: float = 0.0
    size_bytes: int = 0

    def __str__(self) -> str:
        failed = f", {self.failures} without a value" if self.failures else ""
        size_mb = bytes_to_mb(self.size_bytes)
        size = f"{size_mb:.1f} MB" if size_mb >= LEAST_SHOWN_MB else f"{self.size_bytes} bytes"
        return f"{self.readings} readings{failed} in {self.seconds:.0f} s, {size}"


Told = Callable[[Recorded], None]


def said_by(config: AgentConfig, where: str, stop: threading.Event, seconds: float | None) -> Iterator[Heard]:
    """What the configured sources say, or all of this machine where none is, until told to stop. Raises ConfigError."""
    asked = sources_of(config, where)
    sources = configured(asked or on_this_machine(), where)
    return named(listen(sources, stop, seconds, unasked=not asked), Processes())


def named(heard: Iterable[Heard], processes: Names) -> Iterator[Heard]:
    """The same with engines in the place of processes: whose they are can be asked only while they run."""
    engines: dict[str, list[Engine]] = {}
    for one in heard:
        match one.event:
            case Opened() as event:
                engines[event.source] = [each for each in event.declares if isinstance(each, Engine)]
                yield one
            case Said() as event:
                every = [each for several in engines.values() for each in several]
                readings = with_owners(processes.named(event.readings, every), processes, every)
                yield Heard(one.boot_ns, one.wall_ns, Said(event.source, event.boot_ns, tuple(readings)))
            case _:
                yield one


def began(config: AgentConfig, where: str) -> Began:
    """Whose readings they are. Raises ConfigError."""
    gains = tuple(gains_of(config, where).values())
    return Began(identity=identity_of(config), step_ns=config.step_ns, gains=gains)


def keep(heard: Iterable[Heard], begun: Began, path: Path, told: Told) -> Recorded:
    """Write all that is heard to a file, which must not exist yet. Raises OSError."""
    with RecordingWriter(path, begun) as writer:
        kept = _keep(heard, writer, told)
    # What was still to be compressed is in the file only now.
    kept.size_bytes = path.stat().st_size
    return kept


def _keep(heard: Iterable[Heard], writer: RecordingWriter, told: Told) -> Recorded:
    so_far, began_ns = Recorded(), -1
    for one in heard:
        writer.write(one)
        began_ns = one.boot_ns if began_ns < 0 else began_ns
        so_far.seconds, so_far.size_bytes = ns_to_s(one.boot_ns - began_ns), writer.size
        if isinstance(one.event, Said):
            failures = sum(isinstance(reading, Failure) for reading in one.event.readings)
            so_far.failures += failures
            so_far.readings += len(one.event.readings) - failures
        told(so_far)
    return so_far


def progress() -> Told:
    """Shows on a terminal how far a recording is, once a second; nothing elsewhere."""
    shown_s = -1

    def show(so_far: Recorded) -> None:
        nonlocal shown_s
        if int(so_far.seconds) != shown_s:
            shown_s = int(so_far.seconds)
            # The cursor waits at the line's beginning, so that what is printed next stands in its place.
            sys.stderr.write(f"{so_far} \r")
            sys.stderr.flush()

    return show if sys.stderr.isatty() else lambda _so_far: None
