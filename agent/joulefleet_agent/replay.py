"""Sends a recording through the agent's own pipeline, as fast as the collector takes it.

A replay is a declared backfill. Its timeline comes from the recording and what is said of it, so that replaying the
same again changes nothing, and a replay that was killed goes on when it is started again.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from joulefleet.reading import Failure, Reading
from joulefleet.source import Source, SourceGone
from joulefleet.units import ns_to_s
from joulefleet.window import Window, decode_json
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.sampler import stamped
from joulefleet_agent.spool import Spool
from joulefleet_agent.uplink import Uplink

PATIENCE_S = 60.0
"""How long a replay waits for a collector that does not answer."""
LONGEST_WAIT_S = 5.0
SEND_FROM = 64
"""Windows that wait before a batch is sent while reading goes on."""


class CollectorSilent(Exception):
    """The collector did not take windows for too long; they wait in the spool."""


class BadRecording(Exception):
    """A recording of windows that cannot be read."""


class Outcome(msgspec.Struct, kw_only=True):
    """What a replay did."""

    timeline: str
    windows: int = 0
    readings: int = 0
    failures: int = 0
    refused: dict[str, int] = {}
    lost: int = 0
    """Windows that the spool had no room for."""
    from_ns: int = 0
    until_ns: int = 0
    seconds: float = 0.0


Progress = Callable[[int, int], None]
"""Told the windows closed so far and the recording's time, in nanoseconds since 1970."""


def timeline_of(paths: list[Path], said: dict[str, object]) -> int:
    """32 bits that follow from the bytes of a recording and what is said of it."""
    digest = hashlib.sha256(msgspec.json.encode(said, order="deterministic"))
    for path in paths:
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:4], "big")


def replay_source(  # noqa: PLR0913 # the parts of one way
    pipeline: Pipeline, source: Source, uplink: Uplink, spool: Spool, told: Progress, *, last: bool = True
) -> Outcome:
    """Feed everything that the source gives until it is gone, and deliver every window. Raises CollectorSilent.

    `last` closes the window in which the recording ends; without it, other readings of the same server follow.
    """
    began_s = time.monotonic()
    outcome = Outcome(timeline=f"{pipeline.cutter.state.timeline:08x}")
    pipeline.declare("replay", source.declares, 0)
    reached = True
    for readings in _chunks(source):
        times = [one.at_ns for one in readings if not isinstance(one, Failure)]
        outcome.failures += len(readings) - len(times)
        outcome.readings += len(times)
        now_ns = max([pipeline.last_ns, *times])
        pipeline.feed(stamped(readings, now_ns, source.declares), now_ns)
        outcome.from_ns = min([outcome.from_ns or now_ns, *times])
        outcome.until_ns = now_ns
        outcome.windows += pipeline.tick(now_ns, wall_ns())
        told(outcome.windows, now_ns)
        if reached and spool.depth()[0] >= SEND_FROM:
            reached = not uplink.send_once()
    if last:
        outcome.windows += pipeline.finish(wall_ns())
    return delivered(outcome, uplink, spool, began_s, whole=last)


def replay_windows(path: Path, spool: Spool, uplink: Uplink, told: Progress) -> Outcome:
    """Send recorded windows (one JSON window a line) as they are. Raises BadRecording, CollectorSilent."""
    began_s = time.monotonic()
    outcome = Outcome(timeline="as recorded")
    state = spool.state() or b""
    for window in recorded_windows(path):
        spool.commit(state, [window], wall_ns())
        outcome.windows += 1
        outcome.from_ns = min(outcome.from_ns or window.start_ns, window.start_ns)
        outcome.until_ns = max(outcome.until_ns, window.end_ns)
        told(outcome.windows, window.end_ns)
    return delivered(outcome, uplink, spool, began_s)


def replay_spool(spool: Spool, uplink: Uplink) -> Outcome:
    """Send what an agent's spool holds, what was refused too, as a declared backfill. Raises CollectorSilent."""
    began_s = time.monotonic()
    spool.wait_again()
    outcome = Outcome(timeline="as recorded", windows=spool.depth()[0])
    outcome.from_ns, outcome.until_ns = spool.waiting_span()
    return delivered(outcome, uplink, spool, began_s)


def recorded_windows(path: Path) -> Iterator[Window]:
    """The windows of a recording, in its order. Raises BadRecording naming the line."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield decode_json(line)
            except ValueError as error:  # malformed, of another schema, or no UTF-8
                raise BadRecording(f"{path} line {number}: {error}") from error


def deliver(
    uplink: Uplink, monotonic: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Send until nothing waits. Raises CollectorSilent after PATIENCE_S without a success."""
    silent_since_s = monotonic()
    while (wait_s := uplink.send_once()) is not None:
        if wait_s == 0:
            silent_since_s = monotonic()
        elif monotonic() - silent_since_s > PATIENCE_S:
            raise CollectorSilent(
                f"{uplink.url} took no windows for {PATIENCE_S:.0f} s; they wait on disk: run the same command again"
            )
        sleep(min(wait_s, LONGEST_WAIT_S))


def delivered(outcome: Outcome, uplink: Uplink, spool: Spool, began_s: float, whole: bool = True) -> Outcome:
    """Send what waits and complete the outcome. Raises CollectorSilent."""
    deliver(uplink)
    waiting, _ = spool.depth()
    if whole and waiting:
        raise CollectorSilent(
            f"{uplink.url} did not take {waiting} windows yet (its clock may be behind, else its log tells more);"
            " they wait on disk: run the same command again"
        )
    outcome.refused, outcome.lost = spool.refusals(), spool.losses().windows
    outcome.seconds = time.monotonic() - began_s
    return outcome


def _chunks(source: Source) -> Iterator[list[Reading]]:
    while True:
        try:
            yield list(source.read())
        except SourceGone:
            return


def span(outcome: Outcome) -> float:
    """Length of the recording in seconds."""
    return ns_to_s(outcome.until_ns - outcome.from_ns)
