"""Recordings through the agent's own pipeline: what is sent, sent again, interrupted or refused."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from joulefleet.delivery import Answer, Rejected
from joulefleet.describe import Engine, Meter
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet.source import SourceGone
from joulefleet.window import Window
from joulefleet_agent.cutter import Identity
from joulefleet_agent.link import PostLink
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.replay import (
    BadRecording,
    CollectorSilent,
    Outcome,
    deliver,
    recorded_windows,
    replay_source,
    replay_windows,
    span,
    timeline_of,
)
from joulefleet_agent.spool import Bounds, Spool
from joulefleet_agent.uplink import Uplink

S = 1_000_000_000
J = 1_000_000
T0 = 1_500_000_000 * S
WALL = Meter(id="wall", kind="server", grade="counter", sensor_class="platform")


class Recording:
    """A meter of 100 W read each second for so long, some readings at a time; one read failed."""

    declares: tuple[Meter | Engine, ...] = (WALL,)
    period_ns = deadline_ns = S

    def __init__(self, seconds: int, most: int | None = None) -> None:
        self.left = list(range(seconds + 1))
        self.most = most
        """After so many chunks, whoever reads it is interrupted."""

    def read(self) -> Sequence[Reading]:
        if not self.left:
            raise SourceGone("end")
        if self.most is not None:
            if self.most == 0:
                raise KeyboardInterrupt
            self.most -= 1
        chunk, self.left = self.left[:60], self.left[60:]
        failed: list[Reading] = [Failure(subject="", code="torn_line")] if chunk[0] == 60 else []
        return [*failed, *(MeterReading(meter="wall", at_ns=T0 + t * S, counter_uj=100 * t * J) for t in chunk)]


class Here:
    """A spool and an uplink to replay with."""

    def __init__(self, path: Path, url: str, bounds: Bounds | None = None) -> None:
        self.spool = Spool(path, bounds)
        self.uplink = Uplink([PostLink(url, random.Random(1), timeout_s=1)], self.spool, lambda: T0, live=False)

    def replay(self, recording: Recording, timeline: int = 7, **more: Any) -> Outcome:
        pipeline = Pipeline(self.spool, Identity(server="a"), 60 * S, timeline)
        return replay_source(pipeline, recording, self.uplink, self.spool, lambda _windows, _at_ns: None, **more)

    def close(self) -> None:
        self.uplink.close()
        self.spool.__exit__(None, None, None)


@pytest.fixture
def here(tmp_path: Path, collector: Any) -> Iterator[Here]:
    made = Here(tmp_path / "replay.db", collector.url)
    yield made
    made.close()


def told_j(windows: list[Window]) -> float:
    return sum(one.energy_uj + one.late_uj for window in windows for one in window.meters) / J


def test_a_recording_is_delivered_whole_as_a_backfill(here: Here, collector: Any) -> None:
    outcome = here.replay(Recording(7_200))
    assert told_j(collector.taken) == 720_000
    assert outcome.windows == len(collector.taken) == 120
    assert (outcome.readings, outcome.failures) == (7_201, 1)
    assert (outcome.timeline, outcome.from_ns, span(outcome)) == ("00000007", T0, 7_200.0)
    assert (outcome.refused, outcome.lost) == ({}, 0)
    assert all(collector.backfills)


def test_the_last_window_stays_open_where_more_follows(here: Here, collector: Any) -> None:
    here.replay(Recording(90), last=False)
    assert len(collector.taken) == 1
    here.replay(Recording(200))
    assert told_j(collector.taken) == 20_000


def test_replaying_again_sends_the_same_windows(tmp_path: Path, here: Here, collector: Any) -> None:
    here.replay(Recording(600))
    first = list(collector.taken)
    other = Here(tmp_path / "other.db", collector.url)
    other.replay(Recording(600))
    other.close()
    assert [one.encode() for one in collector.taken[len(first) :]] == [one.encode() for one in first]


def test_one_that_was_interrupted_goes_on(tmp_path: Path, collector: Any) -> None:
    for most in (3, 7, 12, None):
        again = Here(tmp_path / "replay.db", collector.url)
        if most is None:
            again.replay(Recording(1_200, most))
        else:
            with pytest.raises(KeyboardInterrupt):
                again.replay(Recording(1_200, most))
        again.close()
    assert told_j(collector.taken) == 120_000
    assert len({one.key for one in collector.taken}) == len(collector.taken) == 20


def test_a_collector_that_is_away_is_told_and_nothing_is_lost(
    tmp_path: Path, here: Here, collector: Any, reply: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joulefleet_agent.replay.PATIENCE_S", -1.0)
    collector.default = lambda _windows: reply(503)
    with pytest.raises(CollectorSilent, match=r"took no windows .* run the same command again"):
        here.replay(Recording(7_200))
    assert here.spool.depth()[0] == 120
    collector.default = lambda _windows: reply()
    assert here.replay(Recording(7_200)).windows == 0
    assert told_j(collector.taken) == 720_000


def test_windows_that_are_not_taken_yet_are_not_called_delivered(here: Here, collector: Any, reply: Any) -> None:
    collector.now_ns = T0
    early = [Rejected(index=0, code="too_early")]
    collector.replies = [reply(answer=Answer(rejected=early))]
    with pytest.raises(CollectorSilent, match="did not take 1 windows yet"):
        here.replay(Recording(60))
    assert here.spool.depth()[0] == 1


def test_windows_that_are_refused_are_told_by_code(here: Here, collector: Any, reply: Any) -> None:
    collector.replies = [reply(answer=Answer(rejected=[Rejected(index=1, code="malformed")]))]
    assert here.replay(Recording(180)).refused == {"malformed": 1}


def test_windows_that_find_no_room_are_told(tmp_path: Path, collector: Any) -> None:
    small = Here(tmp_path / "small.db", collector.url, Bounds(max_bytes=2_000))
    outcome = small.replay(Recording(3_600))
    small.close()
    assert outcome.lost > 0
    assert outcome.lost + len(collector.taken) == 60


def test_a_timeline_follows_from_the_bytes_and_what_is_said(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1\n2\n")
    other.write_text("1\n3\n")
    timeline = timeline_of([one], {"server": "a", "step_s": 60})
    assert timeline_of([one], {"step_s": 60, "server": "a"}) == timeline
    assert 0 <= timeline < 2**32
    changed = [timeline_of([other], {"server": "a", "step_s": 60}), timeline_of([one], {"server": "b", "step_s": 60})]
    assert timeline not in changed


# Recorded windows


def test_recorded_windows_are_sent_as_they_are(
    tmp_path: Path, here: Here, collector: Any, make_window: Callable[..., Window]
) -> None:
    windows = [make_window(timeline=k % 2) for k in range(5)]
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\n\n".join(one.encode_json() for one in windows) + b"\n")
    outcome = replay_windows(path, here.spool, here.uplink, lambda _windows, _at_ns: None)
    assert collector.taken == windows
    assert (outcome.windows, outcome.from_ns, outcome.until_ns) == (5, 60 * S, 300 * S)


@pytest.mark.parametrize("bad", [b"{}", b'{"server": 5}', b"garbage", b'{"schema": 99}', b"\xff", b'{"server":"\xff"}'])
def test_a_bad_line_is_named(tmp_path: Path, make_window: Callable[..., Window], bad: bytes) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(make_window().encode_json() + b"\n" + bad + b"\n")
    windows = recorded_windows(path)
    next(windows)
    with pytest.raises(BadRecording, match=r"windows\.jsonl line 2: "):
        next(windows)


# Patience


class Answers:
    """An uplink that answers with these waits."""

    url = "http://collector"

    def __init__(self, *waits: float | None) -> None:
        self.waits = list(waits)

    def send_once(self) -> float | None:
        return self.waits.pop(0) if len(self.waits) > 1 else self.waits[0]


def delivered(*waits: float | None) -> list[float]:
    """The sleeps that it takes, by a clock that only they move."""
    slept: list[float] = []
    uplink: Any = Answers(*waits)
    deliver(uplink, lambda: sum(slept), slept.append)
    return slept


def test_patience_begins_anew_with_each_success() -> None:
    assert sum(delivered(*[30.0] * 10, 0.0, *[30.0] * 10, 0.0, None)) > 60


def test_patience_ends() -> None:
    with pytest.raises(CollectorSilent, match="took no windows for 60 s"):
        delivered(30.0)


def test_it_never_sleeps_for_long_at_once() -> None:
    assert max(delivered(3_600.0, 0.0, None)) <= 5
