"""The agent's way to a collector, against a real socket and every answer there is."""

import logging
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from joulefleet.delivery import Answer, Rejected
from joulefleet.window import Window
from joulefleet_agent.link import PostLink
from joulefleet_agent.offset import NOT_COMPARED, Offset, Offsets
from joulefleet_agent.reply import FEW_WINDOWS, MOST_WINDOWS, QUICK_S, SLOW_S
from joulefleet_agent.spool import Bounds, Spool
from joulefleet_agent.uplink import BACKLOG_WINDOWS_PER_S, Uplink, keep_sending, phase_of

S = 1_000_000_000
NOW = 1_790_000_000 * S
TOKEN = "jf1.k1.3.1800000000.c2VjcmV0"
MakeWindow = Callable[..., Window]


class Here:
    """One agent's spool with windows in it, and its uplink."""

    def __init__(self, spool: Spool, url: str, make_window: MakeWindow, token: str = "") -> None:
        self.now_ns = NOW
        self.spool = spool
        self.make_window = make_window
        self.took_s = 0.0
        """What each answer takes; the clock by which that is told is looked at before and after."""
        self._at_s = 0.0
        link = PostLink(url, random.Random(1), token, timeout_s=0.3)
        self.uplink = Uplink([link], spool, lambda: self.now_ns, monotonic=self._monotonic_s)

    def keep(self, number: int, **fields: Any) -> None:
        self.spool.commit(b"", [self.make_window(**fields) for _ in range(number)], self.now_ns)

    def send_all(self, most: int = 50) -> list[float | None]:
        """Send until nothing is due or the collector asks to wait."""
        waits: list[float | None] = []
        while not waits or (waits[-1] == 0 and len(waits) < most):
            waits.append(self.uplink.send_once())
        return waits

    def send_the_backlog(self, most: int = 200) -> None:
        """Send until nothing is due, without the pauses between batches of a backlog."""
        for _ in range(most):
            if self.uplink.send_once() is None:
                return
        raise AssertionError("there is no end to it")

    @property
    def waiting(self) -> int:
        return self.spool.depth()[0]

    def _monotonic_s(self) -> float:
        self._at_s += self.took_s
        return self._at_s


@pytest.fixture
def here(tmp_path: Path, collector: Any, make_window: MakeWindow) -> Iterator[Here]:
    with Spool(tmp_path / "spool.db") as spool:
        made = Here(spool, collector.url, make_window, TOKEN)
        yield made
        made.uplink.close()


def minutes(windows: list[Window]) -> list[int]:
    return [one.start_ns // (60 * S) for one in windows]


def test_what_waits_is_sent_the_newest_first_and_then_nothing_waits(here: Here, collector: Any) -> None:
    here.keep(3)
    assert here.send_all() == [0.0, None]
    assert minutes(collector.taken) == [2, 1, 0]
    assert here.waiting == 0


def test_how_it_asks(here: Here, collector: Any) -> None:
    here.keep(1)
    here.send_all()
    (asked,) = collector.asked
    assert asked["path"] == "/v1/windows"
    assert asked["Authorization"] == f"Bearer {TOKEN}"
    assert asked["Content-Type"] == "application/msgpack"
    assert asked["Content-Encoding"] == "zstd"
    assert collector.backfills == [False]


def test_without_a_token_none_is_sent_and_a_path_is_kept(tmp_path: Path, collector: Any, make_window: Any) -> None:
    with Spool(tmp_path / "s.db") as spool:
        here = Here(spool, collector.url + "/fleet/", make_window)
        here.keep(1)
        here.send_all()
        here.uplink.close()
    assert "Authorization" not in collector.asked[0]
    assert collector.asked[0]["path"] == "/fleet/v1/windows"


def test_a_replay_sends_the_oldest_first_without_a_pause_and_declares_itself(here: Here, collector: Any) -> None:
    here.keep(MOST_WINDOWS + 3)
    uplink = Uplink([PostLink(collector.url, random.Random(1))], here.spool, lambda: NOW, live=False)
    assert [uplink.send_once() for _ in range(3)] == [0.0, 0.0, None]
    uplink.close()
    assert collector.backfills == [True, True]
    assert minutes(collector.taken) == list(range(MOST_WINDOWS + 3))


def sizes(collector: Any) -> list[int]:
    return [len(one) for one in collector.batches]


def test_after_an_outage_the_newest_go_first_and_alone_and_then_the_backlog_at_a_bounded_rate(
    here: Here, collector: Any
) -> None:
    here.keep(1_000)
    assert here.uplink.send_once() == 0.0
    assert minutes(collector.taken) == [999, 998, 997, 996]
    pauses = [here.uplink.send_once() for _ in range(8)]
    assert sizes(collector) == [FEW_WINDOWS, 8, 16, 32, 64, 128, MOST_WINDOWS, MOST_WINDOWS, 236]
    assert pauses == [*(size / BACKLOG_WINDOWS_PER_S for size in sizes(collector)[1:-1]), 0.0]
    assert here.uplink.send_once() is None
    assert minutes(collector.taken) == list(range(999, -1, -1))


def test_what_an_answer_took_is_not_waited_for_once_more(here: Here, collector: Any) -> None:
    here.keep(100)
    here.uplink.send_once()
    for here.took_s, pause_s in ((0.01, 8 / BACKLOG_WINDOWS_PER_S - 0.01), (0.04, 0.0)):
        assert here.uplink.send_once() == pytest.approx(pause_s)
    assert sizes(collector) == [4, 8, 16]


def test_what_is_new_goes_before_the_backlog_in_a_small_batch(here: Here, collector: Any) -> None:
    here.keep(100)
    here.send_all()
    here.keep(2)
    assert here.uplink.send_once() == 0.0
    assert minutes(collector.batches[-1]) == [101, 100, 87, 86]
    assert here.uplink.send_once()
    assert minutes(collector.batches[-1]) == list(range(85, 69, -1))
    here.keep(6)
    here.uplink.send_once()
    assert minutes(collector.batches[-1]) == [107, 106, 105, 104]
    here.uplink.send_once()
    assert minutes(collector.batches[-1])[:3] == [103, 102, 69]
    here.send_the_backlog()
    assert sorted(minutes(collector.taken)) == list(range(108))


def test_a_slow_collector_gets_smaller_batches_and_one_that_failed_the_smallest(
    here: Here, collector: Any, reply: Any
) -> None:
    here.keep(300)
    for here.took_s in (0.0, 0.0, 0.0, SLOW_S + 0.1, SLOW_S, SLOW_S + 0.1, QUICK_S, 0.0):
        here.uplink.send_once()
    assert sizes(collector) == [4, 8, 16, 32, 16, 16, 8, 8]
    collector.replies = [reply(503)]
    here.uplink.send_once()
    here.uplink.send_once()
    assert sizes(collector)[8:] == [16, 4]


def test_a_replay_to_a_slow_collector_sends_smaller_batches_too(here: Here, collector: Any) -> None:
    here.keep(2 * MOST_WINDOWS)
    link = PostLink(collector.url, random.Random(1))
    seconds = iter([0.0, SLOW_S + 1, 9.0, 9.0])
    uplink = Uplink([link], here.spool, lambda: NOW, live=False, monotonic=lambda: next(seconds))
    assert [uplink.send_once(), uplink.send_once()] == [0.0, 0.0]
    uplink.close()
    assert sizes(collector) == [MOST_WINDOWS, MOST_WINDOWS // 2]


def test_what_the_collector_did_not_take_is_still_new(here: Here, collector: Any, reply: Any) -> None:
    here.keep(20)
    collector.replies = [reply(503), reply(503)]
    here.uplink.send_once()
    here.keep(1)
    here.uplink.send_once()
    here.uplink.send_once()
    assert [minutes(one) for one in collector.batches] == [[19, 18, 17, 16], [20, 19, 18, 17], [20, 19, 18, 17]]


def test_collectors_are_tried_in_turn(here: Here, collector: Any) -> None:
    nobody = PostLink("http://127.0.0.1:1", random.Random(1), timeout_s=1)
    uplink = Uplink([nobody, PostLink(collector.url, random.Random(1))], here.spool, lambda: NOW)
    here.keep(1)
    assert uplink.send_once()
    assert uplink.send_once() == 0.0
    assert len(collector.taken) == 1
    uplink.close()


def test_the_clock_of_an_answer_is_compared_and_that_of_a_refusal_is_not(
    here: Here, collector: Any, reply: Any
) -> None:
    offsets = Offsets(lambda: NOW)
    uplink = Uplink([PostLink(collector.url, random.Random(1))], here.spool, lambda: NOW, offsets=offsets)
    here.keep(1)
    collector.now_ns, collector.replies = NOW + 3 * S, [reply(503)]
    uplink.send_once()
    assert offsets.take() == NOT_COMPARED
    assert uplink.send_once() == 0.0
    assert offsets.take() == Offset(-3 * S, 0)
    uplink.close()


def test_one_bad_window_does_not_hold_up_the_others(here: Here, collector: Any, reply: Any) -> None:
    here.keep(4)
    rejected = [Rejected(index=1, code="malformed", detail="energy"), Rejected(index=3, code="too_old")]
    collector.replies = [reply(answer=Answer(rejected=[*rejected, Rejected(index=99, code="malformed")]))]
    assert here.send_all() == [0.0, None]
    assert minutes(collector.taken) == [3, 1]
    assert here.spool.refusals() == {"malformed": 1, "too_old": 1}
    assert here.spool.losses().refused_windows == 2


@pytest.mark.parametrize(("ahead_s", "told"), [(61, "61 s ahead of"), (-3_600, "3600 s behind"), (60, ""), (-60, "")])
def test_clocks_that_differ_are_told_once(
    here: Here, collector: Any, ahead_s: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    collector.now_ns = NOW - ahead_s * S
    for _ in range(3):
        here.keep(1)
        here.send_all()
    assert caplog.text.count("the clock of this server") == bool(told)
    assert told in caplog.text
    collector.now_ns = NOW
    here.keep(1)
    here.send_all()
    collector.now_ns = NOW - 100 * S
    here.keep(1)
    here.send_all()
    assert caplog.text.count("the clock of this server") == bool(told) + 1


def test_many_that_are_refused_are_told_in_one_line_a_code(
    here: Here, collector: Any, reply: Any, caplog: pytest.LogCaptureFixture
) -> None:
    here.keep(4)
    rejected = [Rejected(index=k, code="too_old", detail=f"day {k}") for k in range(3)]
    collector.replies = [reply(answer=Answer(rejected=[*rejected, Rejected(index=3, code="malformed", detail="x")]))]
    here.send_all()
    said = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert [one.partition("aside: ")[2] for one in said] == ["too_old (the first: day 0)", "malformed (the first: x)"]
    assert "3 windows refused for good" in said[0]


def test_a_window_from_the_collectors_future_is_sent_when_it_is_due(here: Here, collector: Any, reply: Any) -> None:
    here.keep(3)
    collector.now_ns = 60 * S
    collector.replies = [reply(answer=Answer(rejected=[Rejected(index=0, code="too_early")]))]
    assert here.send_all() == [0.0, None]
    assert here.waiting == 1
    here.now_ns += 59 * S
    assert here.send_all() == [None]
    here.now_ns += 1 * S
    assert here.send_all() == [0.0, None]
    assert minutes(collector.taken) == [1, 0, 2]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_keeps_everything_says_so_once_and_tries_slowly(
    here: Here, collector: Any, reply: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    here.keep(2)
    collector.replies = [reply(status), reply(status)]
    with caplog.at_level(logging.INFO):
        waits = [here.uplink.send_once(), here.uplink.send_once()]
        assert all(wait is not None and wait >= 30 for wait in waits)
        assert here.waiting == 2
        assert here.send_all() == [0.0, None]
    errors = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert len(errors) == 1
    assert f"HTTP {status}: told so" in errors[0]
    assert "reached again after 2 tries" in caplog.text
    assert TOKEN not in caplog.text


def test_what_is_too_large_is_halved_and_all_of_it_arrives(here: Here, collector: Any, reply: Any) -> None:
    here.keep(20)
    collector.default = lambda windows: reply(413 if len(windows) > 3 else 200)
    here.send_the_backlog()
    assert sorted(minutes(collector.taken)) == list(range(20))
    assert here.waiting == 0
    assert here.spool.refusals() == {}


def test_a_single_window_that_is_too_large_is_set_aside(here: Here, collector: Any, reply: Any) -> None:
    here.keep(2)
    here.keep(1, pool="large")
    here.keep(2)
    collector.default = lambda windows: reply(413 if any(one.pool == "large" for one in windows) else 200)
    here.send_the_backlog()
    assert sorted(minutes(collector.taken)) == [0, 1, 3, 4]
    assert here.spool.refusals() == {"too_large": 1}
    assert here.waiting == 0


def test_a_window_that_makes_the_batch_unreadable_is_found(here: Here, collector: Any, reply: Any) -> None:
    here.keep(5)
    here.keep(1, pool="bad")
    collector.default = lambda windows: reply(400 if any(one.pool == "bad" for one in windows) else 200)
    here.send_the_backlog()
    assert sorted(minutes(collector.taken)) == [0, 1, 2, 3, 4]
    assert here.spool.refusals() == {"malformed": 1}


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_collector_is_left_alone_for_the_time_it_asks(
    here: Here, collector: Any, reply: Any, status: int
) -> None:
    here.keep(1)
    collector.replies = [reply(status, headers={"Retry-After": "17"})]
    (wait,) = here.send_all()
    assert wait is not None
    assert 17 <= wait <= 18
    assert here.waiting == 1


@pytest.mark.parametrize("status", [500, 502, 404, 302])
def test_any_other_answer_keeps_everything(here: Here, collector: Any, reply: Any, status: int) -> None:
    here.keep(2)
    collector.replies = [reply(status, body=b"<html>no</html>")]
    (wait,) = here.send_all()
    assert wait is not None
    assert wait > 0
    assert here.waiting == 2
    assert here.send_all() == [0.0, None]


@pytest.mark.parametrize("body", [b"", b"garbage", b"{}", b'{"status":200}', b"\xff\xfe", b'{"error":"\xff"}'])
def test_garbage_with_status_200_keeps_everything(here: Here, collector: Any, reply: Any, body: bytes) -> None:
    here.keep(2)
    collector.replies = [reply(200, body=body)]
    (wait,) = here.send_all()
    assert wait
    assert here.waiting == 2
    assert here.send_all() == [0.0, None]


def test_an_answer_that_is_cut_in_the_middle_keeps_everything(here: Here, collector: Any, reply: Any) -> None:
    here.keep(2)
    collector.replies = [reply(200, cut_after=5), reply(200, cut_after=0)]
    assert here.send_all()[-1]
    assert here.waiting == 2
    here.send_all()
    assert here.send_all()[-1] is None
    assert minutes(collector.taken) == [1, 0]


def test_an_answer_that_never_comes_ends_after_the_timeout(here: Here, collector: Any, reply: Any) -> None:
    here.keep(1)
    collector.replies = [reply(hang=True)]
    (wait,) = here.send_all()
    assert wait is not None
    assert here.waiting == 1
    assert here.send_all()[-1] is None
    assert here.waiting == 0


def test_a_connection_that_was_let_go_meanwhile_is_made_anew_at_once(here: Here, collector: Any, reply: Any) -> None:
    here.keep(1)
    collector.replies = [reply(close=True)]
    assert here.send_all() == [0.0, None]
    here.keep(1)
    assert here.send_all() == [0.0, None]
    assert minutes(collector.taken) == [0, 1]


def test_nobody_listens(tmp_path: Path, make_window: MakeWindow, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken, Spool(tmp_path / "s.db") as spool:
        taken.bind(("127.0.0.1", 0))
        here = Here(spool, f"http://127.0.0.1:{taken.getsockname()[1]}", make_window, TOKEN)
        here.keep(2)
        waits = [here.uplink.send_once() for _ in range(8)]
        assert all(wait is not None and 0 <= wait <= 60 for wait in waits)
        assert max(wait or 0 for wait in waits) > 1
        assert here.waiting == 2
    assert caplog.text.count("not reached") == 1
    assert TOKEN not in caplog.text


def test_the_same_trouble_is_told_again_after_a_success(
    here: Here, collector: Any, reply: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        here.keep(1)
        collector.replies = [reply(503), reply(503)]
        here.send_all()
        here.send_all()
        assert here.send_all() == [0.0, None]
    assert caplog.text.count("HTTP 503: told so") == 2


def test_a_store_that_began_a_new_life_gets_what_is_younger_again(here: Here, collector: Any) -> None:
    here.spool.bounds = Bounds(keep_after_ack_s=600)
    here.keep(2)
    here.send_all()
    here.now_ns += 500 * S
    here.keep(1)
    here.send_all()
    here.now_ns += 200 * S
    collector.epoch = "two"
    collector.taken.clear()
    here.keep(1)
    here.send_all()
    assert sorted(minutes(collector.taken)) == [2, 3]
    here.keep(1)
    here.send_all()
    assert sorted(minutes(collector.taken)) == [2, 3, 4]


def test_a_new_life_is_seen_by_the_next_process_too(here: Here, collector: Any) -> None:
    here.keep(2)
    here.send_all()
    collector.epoch = "two"
    collector.taken.clear()
    again = Here(here.spool, collector.url, here.make_window)
    again.keep(1)
    again.send_all()
    again.uplink.close()
    assert sorted(minutes(collector.taken)) == [0, 1, 2]


# The thread


def test_it_sends_what_comes_and_ends_when_told(tmp_path: Path, collector: Any, make_window: MakeWindow) -> None:
    stop, wake = threading.Event(), threading.Event()

    def send() -> None:
        with Spool(tmp_path / "s.db") as own:
            keep_sending(Uplink([PostLink(collector.url, random.Random(1))], own, lambda: NOW), stop, wake, idle_s=20)

    with Spool(tmp_path / "s.db") as spool:
        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        for number in (1, 2):
            spool.commit(b"", [make_window()], NOW)
            wake.set()
            assert collector.wait_for(number)
        stop.set()
        wake.set()
        thread.join(10)
        assert not thread.is_alive()


def test_servers_send_at_instants_of_their_own_soon_after_a_window() -> None:
    phases_s = sorted(phase_of(f"node-{number}", 60.0) for number in range(1_000))
    assert phases_s[0] >= 0 and phases_s[-1] < 10
    # No second of the ten has twice its share.
    assert max(sum(second <= one < second + 1 for one in phases_s) for second in range(10)) < 200
    assert phase_of("node-1", 60.0) == phase_of("node-1", 60.0)
    assert phase_of("node-1", 10.0) < 2


def test_a_new_window_is_sent_a_phase_after_it_closed(
    tmp_path: Path, collector: Any, reply: Any, make_window: MakeWindow
) -> None:
    waited: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0.0)
            spool.commit(b"", [make_window()], NOW)
            return False

    stop, wake = Stop(), threading.Event()
    wake.set()
    with Spool(tmp_path / "s.db") as spool:
        uplink = Uplink([PostLink(collector.url, random.Random(1))], spool, lambda: NOW)
        collector.default = lambda _windows: (stop.set(), reply())[1]
        keep_sending(uplink, stop, wake, phase_s=3.5)
    assert waited == [3.5]
    assert len(collector.taken) == 1


def test_a_spool_in_trouble_does_not_end_the_thread(
    tmp_path: Path, collector: Any, reply: Any, make_window: MakeWindow, caplog: pytest.LogCaptureFixture
) -> None:
    stop, wake = threading.Event(), threading.Event()

    def take_and_end_the_second_time(_windows: list[Window]) -> Any:
        if len(collector.batches) == 2:
            stop.set()
        return reply()

    collector.default = take_and_end_the_second_time
    with Spool(tmp_path / "s.db") as spool:
        spool.commit(b"", [make_window()], NOW)
        spool._db.execute("PRAGMA query_only=ON")
        keep_sending(Uplink([PostLink(collector.url, random.Random(1))], spool, lambda: NOW), stop, wake, idle_s=0.01)
        assert len(collector.batches) == 2
        assert spool.depth()[0] == 1
    assert "readonly" in caplog.text
