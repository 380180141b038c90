"""From readings to windows on disk: restarts, clocks set back and forwards, full disks, and the sums over it all."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from joulefleet.describe import SOMEWHERE, Engine, Meter, Reservation
from joulefleet.reading import Counts, Failure, MeterReading, Reading, WorkKey, WorkReading
from joulefleet.window import Losses, Window, decode
from joulefleet_agent import pipeline as pipeline_module
from joulefleet_agent.clock import BACK_STEP_NS
from joulefleet_agent.cutter import Identity
from joulefleet_agent.engine_cut import MOST_BUSY_NS, MOST_COUNTED
from joulefleet_agent.own_cost import OwnCost
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.spool import Spool, SpoolUnavailable

S = 1_000_000_000
J = 1_000_000
T0 = 1_790_000_040 * S - 1_790_000_040 * S % (3_600 * S)
WALL = Meter(id="wall", kind="server", grade="counter", sensor_class="platform", period_ns=S)
BOARD = Meter(id="gpu0", kind="accelerator", grade="counter", sensor_class="onboard")
VLLM = Engine(id="vllm@8000", software="vllm")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.db"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    with Spool(path) as opened:
        yield opened


def begin(spool: Spool, *declared: Meter | Engine, at_s: float = 0, step_s: int = 60, **more: Any) -> Pipeline:
    made = Pipeline(spool, Identity(server="a"), step_s * S, **more)
    made.start(["s"], ns(at_s))
    if declared:
        made.declare("s", declared, ns(at_s))
    return made


def ns(t_s: float) -> int:
    return T0 + round(t_s * S)


def joules(t_s: float, counter_j: float, meter: str = "wall", epoch: str = "boot") -> MeterReading:
    return MeterReading(meter=meter, at_ns=ns(t_s), counter_uj=round(counter_j * J), epoch=epoch)


def live(what: Pipeline, seconds: Iterable[int], say: Callable[[int], list[Reading]], offset_s: int = 0) -> None:
    """Each second: what the sources say, and a tick."""
    for t in seconds:
        now_ns = ns(t + offset_s)
        what.feed(say(t), now_ns)
        what.tick(now_ns, now_ns)


def steady(t: int) -> list[Reading]:
    return [joules(t, 100 * t)]


def held(spool: Spool) -> list[Window]:
    return [decode(one.body) for one in spool.waiting(10**6, 2**62, 10**12)]


def told_j(windows: list[Window], meter: str = "wall") -> float:
    meters = [one for window in windows for one in window.meters if one.meter.id == meter]
    return sum(one.energy_uj + one.late_uj for one in meters) / J


def assert_no_key_twice(windows: list[Window]) -> None:
    assert len({one.key for one in windows}) == len(windows)


# The show case


@pytest.mark.parametrize(
    ("hangs_at_s", "phase_s", "step_s"), [(200, 0, 60), (317, 17, 60), (30, 59, 10), (400, 31, 10)]
)
def test_a_slow_server_meter_beside_boards_of_which_one_hangs(
    spool: Spool, hangs_at_s: int, phase_s: int, step_s: int
) -> None:
    """A server meter that moves each minute, boards of 1 Hz, and a board that hangs for 90 s and comes back.

    The server meter counts from its first move: what it showed before may be a minute old.
    """
    slow = msgspec.structs.replace(WALL, refresh_ns=60 * S, max_power_mw=3_000_000)
    boards = [msgspec.structs.replace(BOARD, id=f"gpu{k}", max_power_mw=700_000) for k in range(4)]

    def server_j(t: int) -> int:
        seen = t - (t + phase_s) % 60
        return 100_000 + 1_800 * seen + 7 * (seen % 13)

    def board_j(k: int, t: int) -> int:
        return 500_000 * k + (300 + k) * t + 11 * (t % 7)

    def say(t: int) -> list[Reading]:
        readings: list[Reading] = [joules(t, server_j(t))]
        for k in range(4):
            if k == 2 and hangs_at_s <= t < hangs_at_s + 90:
                readings.append(Failure(subject="gpu2", code="hung"))
            else:
                readings.append(joules(t, board_j(k, t), f"gpu{k}"))
        return readings

    what = begin(spool, slow, *boards, step_s=step_s)
    live(what, range(901), say)
    what.finish(ns(901))
    windows = held(spool)
    assert_no_key_twice(windows)
    moved_s = 60 - phase_s if phase_s else 0
    assert told_j(windows) == server_j(900) - server_j(moved_s)
    for k in range(4):
        assert told_j(windows, f"gpu{k}") == board_j(k, 900) - board_j(k, 0)
    for before, after in itertools.pairwise(windows):
        assert before.end_ns == after.start_ns
        assert [one.last_uj for one in before.meters] == [one.first_uj for one in after.meters]
    inner = [window.meters[0] for window in windows if ns(60) <= window.start_ns < ns(840)]
    assert sum(one.covered_ns for one in inner) >= 0.95 * step_s * S * len(inner) > 0


# Restarts


def test_a_restart_goes_on_where_it_was(path: Path) -> None:
    with Spool(path) as spool:
        what = begin(spool, WALL)
        live(what, range(95), steady)
        what.suspend(ns(95))
    with Spool(path) as spool:
        again = begin(spool, at_s=100)
        assert again.last_ns == ns(94)
        again.declare("s", [WALL], ns(101))
        live(again, range(101, 400), steady)
        again.finish(ns(400))
        windows = held(spool)
    assert_no_key_twice(windows)
    assert told_j(windows) == 39_900
    assert all(window.meters[0].late_uj == 0 for window in windows)
    assert [window.meters[0].covered_ns for window in windows[:-1]] == [60 * S] * 6


def test_what_was_learnt_of_idle_power_outlives_a_restart(path: Path) -> None:
    with Spool(path) as spool:
        what = begin(spool, WALL)
        live(what, range(33 * 60), steady)
        assert held(spool)[-1].meters[0].idle_mw == 100_000
        what.suspend(ns(33 * 60))
    with Spool(path) as spool:
        live(begin(spool, WALL, at_s=33 * 60 + 1), range(33 * 60 + 1, 36 * 60), steady)
        assert {window.meters[0].idle_mw for window in held(spool)[-3:]} == {100_000}


def test_nothing_learnt_passes_to_another_timeline_of_one_spool(path: Path) -> None:
    with Spool(path) as spool:
        live(begin(spool, WALL, timeline=1), range(33 * 60), steady)
        begin(spool, WALL, timeline=2).suspend(ns(0))
        live(begin(spool, WALL, timeline=2), range(130), steady)
        assert held(spool)[-1].meters[0].idle_mw is None


def test_what_is_learnt_is_written_with_windows_only(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a day it is larger than all else, and commits come every ten seconds."""
    said: list[bool] = []
    commit = spool.commit

    def watched(*words: Any, learnt: bytes | None, **more: Any) -> None:
        said.append(learnt is not None)
        commit(*words, learnt=learnt, **more)

    monkeypatch.setattr(spool, "commit", watched)
    live(begin(spool, WALL), range(190), steady)
    at_first = 1
    assert said.count(True) == len(held(spool)) + at_first
    assert said.count(False) > 12


def test_the_time_of_a_stop_is_cut_into_windows_when_the_sources_answer_again(path: Path) -> None:
    """Ten minutes of standstill: a tick comes before the first reading, and must not close them empty."""
    with Spool(path) as spool:
        what = begin(spool, WALL)
        live(what, range(61), steady)
        what.suspend(ns(61))
    with Spool(path) as spool:
        again = begin(spool, at_s=660)
        again.tick(ns(660), ns(660))
        live(again, range(663, 800), steady)
        windows = held(spool)
    assert [window.meters[0].covered_ns for window in windows] == [60 * S] * 13
    assert [window.meters[0].energy_uj for window in windows] == [6_000 * J] * 13
    assert windows[5].meters[0].interpolated_ns == 60 * S


def test_a_source_that_is_gone_after_a_restart_is_missed_and_says_why(path: Path) -> None:
    with Spool(path) as spool:
        what = begin(spool, WALL, BOARD)
        live(what, range(60), lambda t: [joules(t, t), joules(t, t, "gpu0")])
        what.suspend(ns(60))
    with Spool(path) as spool:
        again = begin(spool, at_s=61)
        assert again.declared_by("s") == [WALL, BOARD]
        again.feed([Failure(subject=one.id, code="driver") for one in again.declared_by("s")], ns(62))
        live(again, range(61, 200), lambda t: [joules(t, t), Failure(subject="gpu0", code="driver")])
        second = held(spool)[1]
    assert [one.meter.id for one in second.meters] == ["wall", "gpu0"]
    assert second.meters[1].covered_ns == 0
    assert second.meters[1].gaps_ns == {"driver": 60 * S}


def test_a_source_that_is_no_longer_configured_leaves_at_the_next_edge(path: Path) -> None:
    with Spool(path) as spool:
        what = Pipeline(spool, Identity(server="a"), 60 * S)
        what.start(["s", "boards"], ns(0))
        what.declare("s", [WALL], ns(0))
        what.declare("boards", [BOARD], ns(0))
        live(what, range(50), lambda t: [joules(t, t), joules(t, t, "gpu0")])
        what.suspend(ns(50))
    with Spool(path) as spool:
        again = begin(spool, at_s=51)
        live(again, range(51, 200), lambda t: [joules(t, t), joules(t, t, "gpu0")])
        assert [[one.meter.id for one in window.meters] for window in held(spool)] == [
            ["wall", "gpu0"],
            ["wall"],
            ["wall"],
        ]


def test_changed_declarations_after_a_restart_are_not_paired_across(path: Path) -> None:
    limited = msgspec.structs.replace(WALL, power_limit_mw=300_000)
    with Spool(path) as spool:
        what = begin(spool, WALL)
        live(what, range(50), steady)
        what.suspend(ns(50))
    with Spool(path) as spool:
        again = begin(spool, limited, at_s=55)
        live(again, range(55, 121), steady)
        again.finish(ns(121))
        first, second = held(spool)
    assert (first.meters[0].meter, second.meters[0].meter) == (WALL, limited)
    assert (first.meters[0].energy_uj, first.meters[0].covered_ns) == (4_900 * J, 49 * S)
    assert (second.meters[0].energy_uj, second.meters[0].covered_ns) == (6_000 * J, 60 * S)


@pytest.mark.parametrize(("before_s", "after_s"), [(60, 10), (10, 60), (60, 3_600), (20, 30)])
def test_another_step_after_a_restart_loses_nothing(path: Path, before_s: int, after_s: int) -> None:
    with Spool(path) as spool:
        what = begin(spool, WALL, step_s=before_s)
        live(what, range(131), steady)
        what.suspend(ns(131))
    with Spool(path) as spool:
        again = begin(spool, at_s=135, step_s=after_s)
        live(again, range(135, 300), steady)
        again.finish(ns(300))
        windows = held(spool)
    assert_no_key_twice(windows)
    assert {window.step_ns for window in windows} == {before_s * S, after_s * S}
    assert all(window.start_ns % window.step_ns == 0 for window in windows)
    assert all(before.end_ns <= after.start_ns for before, after in itertools.pairwise(windows))
    assert told_j(windows) == 29_900


def test_a_long_stop_is_cut_for_an_hour_and_the_rest_is_late(path: Path) -> None:
    with Spool(path) as spool:
        what = begin(spool, WALL)
        live(what, range(60), steady)
        what.suspend(ns(60))
    day_s = 86_400
    with Spool(path) as spool:
        again = begin(spool, at_s=day_s)
        live(again, range(day_s + 1, day_s + 130), steady)
        windows = held(spool)
    assert len(windows) < 70
    assert told_j(windows) == pytest.approx(100 * (day_s + 120))
    assert windows[1].start_ns == ns(day_s - 3_600)
    assert windows[1].meters[0].late_uj == (day_s - 3_600 - 59 - 1) * 100 * J + 100 * J


def test_killed_before_anything_was_committed_begins_anew(path: Path) -> None:
    with Spool(path) as spool:
        begin(spool, WALL)
    with Spool(path) as spool:
        again = begin(spool, at_s=100)
        assert again.last_ns == -1
        assert again.declared_by("s") == []


def test_a_meter_that_never_answers_lowers_coverage_and_says_why(spool: Spool) -> None:
    what = begin(spool, WALL)
    live(what, range(130), lambda _t: [Failure(subject="wall", code="permission")])
    windows = held(spool)
    assert len(windows) == 2
    assert [window.meters[0].gaps_ns for window in windows] == [{"permission": 60 * S}] * 2


def test_a_state_of_another_version_is_refused_with_the_mend(spool: Spool) -> None:
    spool.commit(msgspec.msgpack.encode({"cutter": 5}), [], ns(0))
    with pytest.raises(SpoolUnavailable, match=r"another version.*move the file away"):
        begin(spool)


# Declarations


def test_two_sources_that_name_one_meter_alike_show_it_once(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    what = begin(spool, BOARD)
    what.declare("other", [msgspec.structs.replace(BOARD, hw_model="x"), WALL], ns(0))
    live(what, range(80), lambda t: [joules(t, t, "gpu0"), joules(t, t)])
    (window,) = held(spool)
    assert [one.meter for one in window.meters] == [BOARD, WALL]
    assert "declares 'gpu0'" in caplog.text


FOUND = Engine(id="vllm@127.0.0.1:8000", software="vllm", port=8000, devices=(Reservation(SOMEWHERE),))


@pytest.mark.parametrize("first", ["found", "s"])
@pytest.mark.parametrize("own_id", [FOUND.id, "mine"])
def test_what_is_configured_has_the_port_and_what_was_found_there_gives_way(
    spool: Spool, first: str, own_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    configured = Engine(id=own_id, software="vllm", port=8000, devices=(Reservation("gpu0"),))
    declared = {"found": FOUND, "s": configured}
    what = Pipeline(spool, Identity(server="a"), 60 * S)
    what.start([first, *({*declared} - {first})], ns(0))
    for name in (first, *({*declared} - {first})):
        what.declare(name, [declared[name]], ns(0))
    for t in range(121):
        what.feed([WorkReading(engine=own_id, at_ns=ns(t), counts={WorkKey("m"): Counts(requests_ok=t)})], ns(t), "s")
        double = WorkReading(engine=FOUND.id, at_ns=ns(t + 0.1), counts={WorkKey("m"): Counts(requests_ok=t)})
        what.feed([double], ns(t + 0.1), "found")
        what.tick(ns(t), ns(t))
    what.finish(ns(121))
    engines = [engine for window in held(spool) for engine in window.engines]
    assert {one.engine for one in engines} == {configured} and what.engines == what.asked == [configured]
    assert sum(work.counts.requests_ok or 0 for one in engines for work in one.work) == 120
    assert not caplog.records


def test_an_engine_is_declared_where_it_was_found_to_run_also_after_a_restart(path: Path) -> None:
    boards = (Reservation("gpu1"), Reservation("gpu2"))
    with Spool(path) as spool:
        what = begin(spool, FOUND)
        assert [one.devices for one in what.engines] == [FOUND.devices]
        what.place({FOUND.id: boards}, ns(1))
        assert ([one.devices for one in what.engines], what.asked) == ([boards], [FOUND])
        what.feed([WorkReading(engine=FOUND.id, at_ns=ns(2))], ns(2))
        what.suspend(ns(3))
    with Spool(path) as spool:
        again = begin(spool, at_s=5)
        assert ([one.devices for one in again.engines], again.placed) == ([boards], {FOUND.id: boards})
        live(again, range(5, 130), lambda t: [WorkReading(engine=FOUND.id, at_ns=ns(t))])
        assert {one.engine.devices for window in held(spool) for one in window.engines} == {boards}


def test_two_meters_under_one_id_are_not_mixed(spool: Spool) -> None:
    made = Pipeline(spool, Identity(server="a"), 60 * S)
    made.start(["feed-a", "feed-b"], ns(0))
    made.declare("feed-a", [WALL], ns(0))
    made.declare("feed-b", [msgspec.structs.replace(WALL, device="another unit")], ns(0))
    for t in range(121):
        made.feed([joules(t, 100 * t)], ns(t), "feed-a")
        made.feed([joules(t + 0.5, 5_000 + 300 * t)], ns(t + 0.5), "feed-b")
        made.feed([Failure(subject="wall", code="timeout")], ns(t + 0.5), "feed-b")
        made.tick(ns(t + 0.5), ns(t + 0.5))
    made.finish(ns(121))
    assert told_j(held(spool)) == 100 * 120
    assert {gap for window in held(spool) for meter in window.meters for gap in meter.gaps_ns} == set()


def test_a_source_that_opens_later_counts_from_the_next_edge(spool: Spool) -> None:
    what = begin(spool, WALL)
    live(what, range(70), steady)
    what.declare("late", [BOARD], ns(70))
    live(what, range(70, 200), lambda t: [*steady(t), joules(t, t, "gpu0")])
    first, second, third = held(spool)
    assert [len(one.meters) for one in (first, second, third)] == [1, 1, 2]
    assert third.meters[1].covered_ns == 60 * S


def test_a_source_that_ended_leaves_at_the_next_edge(spool: Spool) -> None:
    what = begin(spool, WALL)
    what.declare("other", [BOARD], ns(0))
    live(what, range(50), lambda t: [*steady(t), joules(t, t, "gpu0")])
    what.declare("other", [], ns(50))
    live(what, range(50, 200), steady)
    assert [[one.meter.id for one in window.meters] for window in held(spool)] == [["wall", "gpu0"], ["wall"], ["wall"]]


# Clocks


def test_a_clock_that_is_set_back_begins_a_new_timeline_and_loses_nothing(spool: Spool) -> None:
    what = begin(spool, WALL)
    first = spool.timeline()
    live(what, range(100), steady)
    spool.commit(spool.state() or b"", [], ns(100), lost=Losses(windows=1))
    what.set_back(-3_000 * S, ns(-2_900))
    assert spool.timeline() not in (first, 0)
    assert spool.losses() == Losses()

    live(what, range(100, 300), lambda t: [joules(t - 3_000, 100 * t)], offset_s=-3_000)
    what.finish(ns(-2_700))
    windows = held(spool)
    assert_no_key_twice(windows)
    assert {window.timeline for window in windows} == {first, spool.timeline()}
    assert told_j(windows) == 29_900
    assert [one.losses.windows for one in windows if one.timeline != first] == [0] * 4


@pytest.mark.parametrize("back_s", [3, 59, 61, 100_000])
def test_what_was_leaving_does_not_come_back_with_the_clock(spool: Spool, back_s: int) -> None:
    what = begin(spool, WALL)
    live(what, range(50), steady)
    limited = msgspec.structs.replace(WALL, power_limit_mw=5)
    what.declare("s", [limited], ns(50))
    what.set_back(-back_s * S, ns(50 - back_s))
    live(what, range(51, 400), lambda t: [joules(t - back_s, 100 * t)], offset_s=-back_s)
    windows = held(spool)
    assert_no_key_twice(windows)
    for window in windows:
        assert len({one.meter.id for one in window.meters}) == len(window.meters) <= 1
    assert windows[-1].meters[0].meter == limited
    assert windows[-1].meters[0].covered_ns == 60 * S


def test_nor_does_it_where_nothing_was_read_for_a_while(spool: Spool) -> None:
    what = begin(spool, WALL)
    live(what, range(50), steady)
    live(what, range(50, 130), lambda _t: [])
    what.declare("s", [msgspec.structs.replace(WALL, power_limit_mw=5)], ns(130))
    what.set_back(-1_000 * S, ns(-870))
    live(what, range(131, 400), lambda t: [joules(t - 1_000, 100 * t)], offset_s=-1_000)
    assert [len(window.meters) for window in held(spool) if window.timeline == spool.timeline()] == [1] * 5


def test_what_is_late_of_a_meter_that_leaves_is_told_before_it_goes(path: Path) -> None:
    """After a change of step, the windows are closed a little ahead of the time."""
    with Spool(path) as spool:
        what = begin(spool, WALL)
        live(what, range(66), steady)
        what.suspend(ns(66))
    with Spool(path) as spool:
        again = begin(spool, at_s=66, step_s=10)
        live(again, range(66, 101), steady)
        again.declare("s", [msgspec.structs.replace(WALL, power_limit_mw=5)], ns(101))
        live(again, range(101, 200), steady)
        meters = [one for window in held(spool) for one in window.meters if not one.meter.power_limit_mw]
    assert sum(one.energy_uj + one.late_uj for one in meters) == 10_000 * J


def test_set_back_before_anything_was_read(spool: Spool) -> None:
    what = begin(spool, WALL)
    what.set_back(-1_000_000 * S, ns(-1_000_000))
    live(what, range(100), lambda t: [joules(t - 1_000_000, t)], offset_s=-1_000_000)
    assert [window.start_ns for window in held(spool)] == [ns(-1_000_000) // (60 * S) * 60 * S]


def test_set_back_while_the_disk_is_full_loses_nothing(spool: Spool) -> None:
    what = begin(spool, WALL)
    live(what, range(50), steady)
    full(spool)
    what.set_back(-3_000 * S, ns(-2_950))
    live(what, range(50, 200), lambda t: [joules(t - 3_000, 100 * t)], offset_s=-3_000)
    room_again(spool)
    what.finish(ns(-2_800))
    windows = held(spool)
    assert_no_key_twice(windows)
    assert told_j(windows) == 19_900
    assert len({window.timeline for window in windows}) == 2
    assert spool.timeline() == windows[-1].timeline


@pytest.mark.parametrize("leap_s", [100, 3_000, 500_000_000])
def test_a_clock_that_leaps_forwards_makes_no_more_than_an_hour_of_windows(spool: Spool, leap_s: int) -> None:
    what = begin(spool, WALL)
    live(what, range(100), steady)
    what.resume(ns(100 + leap_s))
    what.tick(ns(100 + leap_s), ns(100 + leap_s))
    live(what, range(101, 300), lambda t: [joules(t + leap_s, 100 * t)], offset_s=leap_s)
    what.finish(ns(300 + leap_s))
    windows = held(spool)
    assert_no_key_twice(windows)
    assert len(windows) <= 70
    # By such a clock, the windows from before a leap of years are too old to be kept: they are counted as lost.
    assert told_j(windows) + spool.losses().energy_uj / J == 29_900
    assert (spool.losses().windows > 0) == (leap_s > 30 * 86_400)


def test_a_source_whose_own_clock_is_ahead_is_failing(spool: Spool) -> None:
    what = begin(spool, WALL)
    live(what, range(10), steady)
    what.feed([joules(10**9, 5_000)], ns(10))
    live(what, range(10, 130), lambda t: [] if t < 40 else steady(t))
    first, _ = held(spool)
    assert first.meters[0].covered_ns == 60 * S
    live(what, range(130, 250), lambda t: [joules(t + 10**9, 5_000)])
    assert held(spool)[3].meters[0].gaps_ns == {"clock": 60 * S}


# Full disks


def full(spool: Spool) -> None:
    """From now on the file cannot grow."""
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count={pages}")


def room_again(spool: Spool) -> None:
    spool._db.execute("PRAGMA max_page_count=1000000")


def test_after_a_full_disk_nothing_is_lost(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    what = begin(spool, WALL, VLLM, step_s=10)
    say = work_and_joules
    live(what, range(100), say)
    before = len(held(spool))
    full(spool)
    with caplog.at_level(logging.ERROR):
        live(what, range(100, 1_500), say)
    assert len(held(spool)) < before + 30
    assert "full" in caplog.text
    assert "held in memory" in caplog.text
    room_again(spool)
    live(what, range(1_500, 1_600), say)
    what.finish(ns(1_600))
    windows = held(spool)
    assert_no_key_twice(windows)
    assert len(windows) == 160
    assert told_j(windows) == 159_900
    assert sum(window.engines[0].work[0].counts.output_tokens or 0 for window in windows) == 7 * 1_599
    assert spool.losses() == Losses()


def work_and_joules(t: int) -> list[Reading]:
    counts = {WorkKey("m"): Counts(output_tokens=7 * t)}
    return [*steady(t), WorkReading(engine=VLLM.id, at_ns=ns(t), counts=counts)]


def test_a_full_disk_is_tried_now_and_then_not_at_each_tick(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    what = begin(spool, WALL)
    live(what, range(62), steady)
    spool._db.execute("PRAGMA query_only=ON")
    for tenth in range(620, 1_120):
        what.tick(ns(tenth / 10), ns(tenth / 10))
    assert caplog.text.count("readonly") <= 6


def test_more_windows_than_memory_may_hold_are_lost_and_counted(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "MOST_UNCOMMITTED", 10)
    what = begin(spool, WALL, step_s=10)
    live(what, range(21), steady)
    assert len(held(spool)) == 2
    spool._db.execute("PRAGMA query_only=ON")
    live(what, range(21, 201), steady)
    spool._db.execute("PRAGMA query_only=OFF")
    live(what, range(201, 212), steady)
    assert [window.start_ns for window in held(spool)] == [ns(10 * k) for k in (0, 1, *range(11, 21))]
    assert spool.losses() == Losses(windows=9, seconds=90, energy_uj=9_000 * J)
    live(what, range(212, 232), steady)
    assert held(spool)[-1].losses == spool.losses()
    assert told_j(held(spool)) == 23_000 - 9_000


def test_a_recording_that_cannot_be_kept_is_not_called_finished(spool: Spool) -> None:
    what = begin(spool, WALL)
    live(what, range(50), steady)
    spool._db.execute("PRAGMA query_only=ON")
    with pytest.raises(SpoolUnavailable, match="readonly"):
        what.finish(ns(50))


# What windows bear


def test_losses_travel_with_every_later_window_even_after_a_restart(path: Path) -> None:
    with Spool(path) as spool:
        what = begin(spool, WALL)
        live(what, range(70), steady)
        spool.commit(spool.state() or b"", [], ns(70), lost=Losses(windows=3, seconds=180, energy_uj=9))
        live(what, range(70, 170), steady)
        what.suspend(ns(170))
    with Spool(path) as spool:
        again = begin(spool, at_s=20_000)
        live(again, range(20_001, 20_100), steady)
        windows = held(spool)
    assert windows[0].losses == Losses()
    assert {one.losses.windows for one in windows[1:]} == {3}


def test_what_the_agent_cost_travels_once(spool: Spool) -> None:
    used = iter(range(0, 100 * S, S))
    what = begin(spool, WALL, cost=OwnCost(lambda: next(used), lambda: 5))
    live(what, range(200), steady)
    assert [one.agent.cpu_ns for one in held(spool)] == [S, S, S]
    assert [one.agent.spool_windows for one in held(spool)] == [0, 1, 2]


# Replays


def test_a_recordings_timeline_is_its_own(path: Path) -> None:
    with Spool(path) as spool:
        first = begin(spool, WALL, timeline=7)
        live(first, range(100), steady)
        first.suspend(ns(100))
        assert spool.timeline() == 7
    with Spool(path) as spool:
        same = Pipeline(spool, Identity(server="a"), 60 * S, timeline=7)
        assert same.last_ns == ns(99)
        other = Pipeline(spool, Identity(server="a"), 60 * S, timeline=8)
        assert other.last_ns == -1
    with Spool(path) as spool:
        # The other was killed before it committed anything: it still begins anew.
        again = begin(spool, WALL, timeline=8)
        assert again.last_ns == -1
        live(again, range(100), steady)
        again.finish(ns(100))
        windows = held(spool)
    assert_no_key_twice(windows)
    assert {one.timeline for one in windows} == {7, 8}
    assert told_j([one for one in windows if one.timeline == 8]) == 9_900


# Whatever happens


def taken_up(spool: Spool, at_s: float, step_s: int) -> Pipeline:
    """As the service starts: where the clock lies behind what was read, a new timeline begins first."""
    made = Pipeline(spool, Identity(server="a"), step_s * S)
    back_ns = ns(at_s) - made.reached_ns
    if back_ns < -BACK_STEP_NS:
        made.set_back(back_ns, ns(at_s))
    made.start(["s"], ns(at_s))
    made.declare("s", [WALL], ns(at_s))
    return made


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["run", "run", "run", "restart", "back", "leap", "step", "full", "room"]), st.integers(1, 200)
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_whatever_happens_every_joule_is_told_once(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, int]]
) -> None:
    """Running, restarts with and without a proper end, clocks set back and forwards, other steps, full disks."""
    t, offset_s, step_s, file = 0, 0, 30, tmp_path_factory.mktemp("any") / "spool.db"
    spool = Spool(file)
    what = begin(spool, WALL, step_s=step_s)

    def run(seconds: int) -> None:
        nonlocal t
        live(what, range(t, t + seconds), lambda at: [joules(at + offset_s, 100 * at)], offset_s)
        t += seconds

    run(5)
    for event, number in [*events, ("room", 1), ("run", 30)]:
        match event:
            case "run":
                run(number)
            case "restart" | "step":
                if number % 2:
                    what.suspend(ns(t + offset_s))
                step_s = step_s if event == "restart" else (10, 30, 60)[number % 3]
                spool.__exit__(None, None, None)
                spool, t = Spool(file), t + number
                what = taken_up(spool, t + offset_s, step_s)
            case "back":
                offset_s -= 3 * number
                what.set_back(-3 * number * S, ns(t + offset_s))
            case "leap":
                offset_s += 40 * number
                what.resume(ns(t + offset_s))
            case "full":
                spool._db.execute("PRAGMA query_only=ON")
            case "room":
                spool._db.execute("PRAGMA query_only=OFF")
    what.finish(ns(t + offset_s))
    windows = held(spool)
    spool.__exit__(None, None, None)
    assert_no_key_twice(windows)
    assert told_j(windows) == 100 * (t - 1)
    assert all(0 <= one.covered_ns <= window.step_ns for window in windows for one in window.meters)


# A spool of the version before


OLD_SPOOL = Path(__file__).parents[1] / "fixtures" / "spool" / "without_health.db.zst"
"""Written by the version that knew no states of sensors and no activity: three windows, and readings up to 198 s."""


def test_a_spool_of_the_version_before_goes_on_and_loses_no_joule(path: Path) -> None:
    path.write_bytes(zstandard.ZstdDecompressor().decompress(OLD_SPOOL.read_bytes()))
    with Spool(path) as spool:
        what = Pipeline(spool, Identity(server="a"), 60 * S)
        declared = what.declared_by("s")
        assert [one.id for one in declared] == ["gpu0", "package-0", "wall", "vllm@8000"]
        what.start(["s"], ns(200))
        what.declare("s", declared, ns(200))

        def say(t: int) -> list[Reading]:
            gauge = MeterReading(meter="wall", at_ns=ns(t), power_mw=700_000)
            work = WorkReading(engine="vllm@8000", at_ns=ns(t), epoch="1", counts={WorkKey("m"): Counts(requests_ok=t)})
            wrapped_j = 262_000 + 100 * t - 262_143.328850
            return [joules(t, 400 * t, "gpu0", "b"), joules(t, wrapped_j, "package-0", "b"), gauge, work]

        live(what, range(200, 901, 2), say)
        what.finish(ns(900))
        windows = held(spool)
    assert {window.timeline for window in windows} == {7}
    assert [told_j(windows, name) for name in ("gpu0", "package-0", "wall")] == [360_000, 90_000, 630_000]
    for name in range(3):
        told = [window.meters[name] for window in windows]
        assert all(a.last_uj == b.first_uj for a, b in itertools.pairwise(told))
        assert all(one.covered_ns == 60 * S for one in told)


LEAPS = {
    "counts": {"counts": {WorkKey("m"): Counts(output_tokens=10**30)}},
    "below 0": {"counts": {WorkKey("m"): Counts(output_tokens=-1)}},
    "busy": {"counts": {WorkKey("m"): Counts(busy_ns=2**64)}},
    "latency": {"latency": {WorkKey("m"): {"e2e": {"1": 2**64}}}},
    "running": {"running": 10**15},
    "queued": {"queued": 10**15},
}


@pytest.mark.parametrize("leap", LEAPS.values(), ids=LEAPS)
def test_a_page_with_work_that_no_engine_can_have_done_hurts_no_other_reading(spool: Spool, leap: Any) -> None:
    what = begin(spool, WALL, VLLM)

    def say(t: int) -> list[Reading]:
        told = leap if t in (70, 75) else {"counts": {WorkKey("m"): Counts(output_tokens=t)}, "running": 1}
        return [*steady(t), *([WorkReading(engine=VLLM.id, at_ns=ns(t), epoch="1", **told)] if t % 5 == 0 else [])]

    live(what, range(200), say)
    windows = held(spool)
    assert told_j(windows[:2]) == 100 * 120
    assert [one.engines[0].work[0].counts.output_tokens for one in windows[:2]] == [60, 60]


def test_counts_that_leap_to_and_fro_make_windows_that_can_be_kept(spool: Spool) -> None:
    what = begin(spool, VLLM)
    most = Counts(output_tokens=MOST_COUNTED, busy_ns=MOST_BUSY_NS)
    counts = {WorkKey("m"): most}
    live(what, range(200), lambda t: [WorkReading(engine=VLLM.id, at_ns=ns(t), epoch=str(t), counts=counts)])
    assert len(held(spool)) >= 2
