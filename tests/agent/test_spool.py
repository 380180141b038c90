"""The spool: bounded, crash-safe, and nothing leaves it uncounted."""

import itertools
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from joulefleet.describe import Meter
from joulefleet.window import Losses, MeterWindow, Window, decode
from joulefleet_agent.spool import Bounds, Spool, SpoolUnavailable, added, energy_uj

S = 1_000_000_000
J = 1_000_000
NOW = 1_790_000_000 * S
MakeWindow = Callable[..., Window]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool.db"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    with Spool(path) as opened:
        yield opened


def starts(spool: Spool, now_ns: int = NOW, limit: int = 1_000) -> list[int]:
    return [one.start_ns // (60 * S) for one in spool.waiting(limit, now_ns, 10**9)]


def disk(share_free: float, of_bytes: int) -> Callable[[Path], os.statvfs_result]:
    """A disk of this size of which so much is free."""
    blocks = of_bytes // 4096
    free = int(blocks * share_free)
    return lambda _path: os.statvfs_result((4096, 4096, blocks, free, free, 0, 0, 0, 0, 255))


def test_what_is_committed_is_there_again_for_the_next_process(path: Path, make_window: MakeWindow) -> None:
    with Spool(path) as spool:
        timeline = spool.timeline()
        window = make_window()
        spool.commit(b"state", [window], NOW)
    with Spool(path) as again:
        assert again.timeline() == timeline
        assert again.state() == b"state"
        (waiting,) = again.waiting(10, NOW, 10**6)
        assert decode(waiting.body) == window
        assert again.depth() == (1, len(waiting.body))


def test_each_spool_has_a_timeline_of_its_own(tmp_path: Path) -> None:
    timelines = set()
    for k in range(4):
        with Spool(tmp_path / f"{k}.db") as spool:
            timelines.add(spool.timeline())
    assert len(timelines) == 4
    assert all(0 <= one < 2**32 for one in timelines)


def test_windows_wait_in_their_order_and_in_bounded_batches(spool: Spool, make_window: MakeWindow) -> None:
    spool.commit(b"", [make_window() for _ in range(5)], NOW)
    size = max(len(one.body) for one in spool.waiting(5, NOW, 10**6))
    assert starts(spool) == [0, 1, 2, 3, 4]
    assert starts(spool, limit=2) == [0, 1]
    assert len(spool.waiting(10, NOW, 2 * size)) == 2
    assert len(spool.waiting(10, NOW, 1)) == 1


def test_a_stored_window_is_forgotten_after_a_while(spool: Spool, make_window: MakeWindow) -> None:
    spool.commit(b"", [make_window(), make_window()], NOW)
    first, second = (one.seq for one in spool.waiting(2, NOW, 10**6))
    spool.stored([first], NOW)
    assert starts(spool) == [1]
    spool.commit(b"", [], NOW + 601 * S)
    spool.stored([second], NOW + 601 * S)
    assert spool.follow_store("one", NOW + 601 * S) == 0
    assert spool.follow_store("two", NOW + 601 * S) == 1
    assert starts(spool) == [1]


def test_a_store_that_began_a_new_life_gets_what_is_younger_again(path: Path, make_window: MakeWindow) -> None:
    with Spool(path, Bounds(keep_after_ack_s=100)) as spool:
        spool.commit(b"", [make_window(), make_window(), make_window()], NOW)
        old, young, refused = (one.seq for one in spool.waiting(3, NOW, 10**6))
        spool.follow_store("one", NOW)
        spool.stored([old], NOW)
        spool.stored([young], NOW + 50 * S)
        spool.refused(refused, "too_old", NOW)
        assert spool.follow_store("one", NOW + 120 * S) == 0
    with Spool(path, Bounds(keep_after_ack_s=100)) as again:
        assert again.follow_store("two", NOW + 120 * S) == 1
        assert starts(again) == [1]


def test_what_is_postponed_waits_until_it_is_due(spool: Spool, make_window: MakeWindow) -> None:
    spool.commit(b"", [make_window(), make_window()], NOW)
    spool.postpone(spool.waiting(1, NOW, 10**6)[0].seq, NOW + 60 * S)
    assert starts(spool) == [1]
    assert starts(spool, NOW + 60 * S) == [0, 1]
    assert spool.depth()[0] == 2


def test_the_newest_is_told_by_a_number_that_only_rises(spool: Spool, make_window: MakeWindow) -> None:
    assert spool.newest(NOW) == 0
    spool.commit(b"", [make_window(), make_window()], NOW)
    first, second = (one.seq for one in spool.waiting(2, NOW, 10**6))
    assert spool.newest(NOW) == second > first > 0
    spool.postpone(second, NOW + 60 * S)
    assert (spool.newest(NOW), spool.newest(NOW + 60 * S)) == (first, second)
    spool.stored([first, second], NOW)
    assert spool.newest(NOW + 60 * S) == 0
    spool.commit(b"", [make_window()], NOW + 3_600 * S)
    assert spool.newest(NOW + 3_600 * S) > second


def test_what_is_refused_is_set_aside_counted_and_kept(spool: Spool, make_window: MakeWindow) -> None:
    spool.commit(b"", [make_window(), make_window()], NOW)
    seq = spool.waiting(1, NOW, 10**6)[0].seq
    spool.refused(seq, "malformed", NOW)
    spool.refused(seq, "malformed", NOW)
    assert starts(spool) == [1]
    assert spool.refusals() == {"malformed": 1}
    assert spool.losses() == Losses(refused_windows=1)


# Bounds


def test_over_its_bound_the_oldest_waiting_window_goes_and_is_counted(path: Path, make_window: MakeWindow) -> None:
    windows = [make_window(joules) for joules in (100, 200, 300, 400)]
    each = max(len(one.encode()) for one in windows)
    with Spool(path, Bounds(max_bytes=3 * each)) as spool:
        spool.commit(b"", windows[:3], NOW)
        assert starts(spool) == [0, 1, 2]
        spool.commit(b"", windows[3:], NOW)
        assert starts(spool) == [1, 2, 3]
        assert spool.losses() == Losses(windows=1, seconds=60, energy_uj=100 * J)


def test_what_is_stored_goes_before_what_waits(path: Path, make_window: MakeWindow) -> None:
    windows = [make_window() for _ in range(4)]
    with Spool(path, Bounds(max_bytes=3 * len(windows[3].encode()))) as spool:
        spool.commit(b"", windows[:3], NOW)
        spool.stored([spool.waiting(3, NOW, 10**6)[2].seq], NOW)
        spool.commit(b"", windows[3:], NOW)
        assert starts(spool) == [0, 1, 3]
        assert spool.losses() == Losses()


def test_too_old_windows_go_and_are_counted(path: Path, make_window: MakeWindow) -> None:
    with Spool(path, Bounds(max_age_s=1_000)) as spool:
        spool.commit(b"", [make_window(7)], NOW)
        spool.commit(b"", [make_window(8)], NOW + 600 * S)
        assert starts(spool) == [0, 1]
        spool.commit(b"", [], NOW + 1_001 * S)
        assert starts(spool, NOW + 1_001 * S) == [1]
        assert spool.losses() == Losses(windows=1, seconds=60, energy_uj=7 * J)


def test_a_disk_that_others_filled_does_not_empty_the_spool(path: Path, make_window: MakeWindow) -> None:
    with Spool(path, disk=disk(0.01, 10**12)) as spool:
        for _ in range(20):
            spool.commit(b"", [make_window()], NOW)
        assert len(starts(spool)) == 20
        assert spool.losses() == Losses()


def test_a_nearly_full_disk_takes_the_oldest_windows_and_each_only_once(path: Path, make_window: MakeWindow) -> None:
    facts = {"long": "x" * 250_000}
    with Spool(path) as spool:
        spool.commit(b"", [make_window(facts=facts) for _ in range(16)], NOW)
    # 2 MB over 95 % of 1 GB.
    with Spool(path, disk=disk(0.048, 10**9)) as spool:
        for _ in range(5):
            spool.commit(b"", [], NOW)
        gone = 16 - len(starts(spool))
        assert starts(spool) == list(range(gone, 16))
        assert 8 <= gone <= 9
        assert spool.losses() == Losses(windows=gone, seconds=60 * gone, energy_uj=600 * J * gone)


def test_losses_begin_at_nothing_on_a_new_timeline(spool: Spool, make_window: MakeWindow) -> None:
    first = spool.timeline()
    lost = Losses(windows=2, seconds=120, energy_uj=5)
    spool.commit(b"", [], NOW, lost=lost, timeline=first)
    spool.commit(b"", [], NOW, lost=lost, timeline=first)
    assert spool.losses() == added(lost, lost)
    spool.commit(b"", [], NOW, lost=lost, timeline=first ^ 1)
    assert spool.timeline() == first ^ 1
    assert spool.losses() == lost


def test_lost_joules_are_told_once() -> None:
    def meter(name: str, kind: Any, joules: int, **more: Any) -> MeterWindow:
        return MeterWindow(
            meter=Meter(id=name, kind=kind, grade="counter", sensor_class="onboard", **more), energy_uj=joules
        )

    def told(*meters: MeterWindow) -> int:
        return energy_uj(Window(server="a", timeline=1, start_ns=0, step_ns=60 * S, meters=meters))

    board, twin = meter("gpu0", "accelerator", 100, device="uuid"), meter("gpu0b", "accelerator", 100, device="uuid")
    package, core = meter("pkg", "cpu_package", 30, contains=("cpu_core",)), meter("core", "cpu_core", 20)
    part = meter("gpu0-mem", "accelerator", 40, inside="gpu0")
    host = meter("host", "host", 50, contains=("cpu_package", "cpu_core", "dram"))
    server = meter("wall", "server", 200, contains=("accelerator", "cpu_package", "cpu_core", "host"))
    assert told(board, twin, part) == 100
    assert told(board, package, core) == 130
    assert told(board, package, core, host) == 150
    assert told(board, package, core, host, server) == 200
    assert told(msgspec.structs.replace(board, late_uj=5)) == 105


# Trouble


def test_all_or_nothing_when_the_disk_is_full(spool: Spool, make_window: MakeWindow) -> None:
    spool.commit(b"before", [make_window()], NOW)
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count={pages + 2}")
    large = make_window(facts={"long": "x" * 100_000})
    with pytest.raises(SpoolUnavailable, match="full"):
        spool.commit(b"after", [make_window(), large], NOW)
    assert spool.state() == b"before"
    assert starts(spool) == [0]
    spool._db.execute("PRAGMA max_page_count=1000000")
    spool.commit(b"after", [large], NOW)
    assert spool.state() == b"after"
    assert len(starts(spool)) == 2


def test_on_a_full_disk_room_is_made_of_what_is_stored(spool: Spool, make_window: MakeWindow) -> None:
    facts = {"long": "x" * 100_000}
    spool.commit(b"", [make_window(facts=facts)], NOW)
    spool.stored([spool.waiting(1, NOW, 10**6)[0].seq], NOW)
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(SpoolUnavailable):
        spool.commit(b"", [make_window(facts=facts)], NOW + 10 * S)
    spool.commit(b"", [make_window(facts=facts)], NOW + 700 * S)
    assert len(starts(spool)) == 1


def test_a_file_that_is_no_database_is_refused_by_name(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("my notes, nothing else\n" * 100)
    with pytest.raises(SpoolUnavailable, match=r"spool .*spool\.db: file is not a database"):
        Spool(path)
    assert path.read_text().startswith("my notes")


def test_another_format_is_refused(path: Path) -> None:
    with Spool(path) as spool:
        spool._db.execute("UPDATE meta SET value=? WHERE name='format'", (msgspec.msgpack.encode(99),))
    with pytest.raises(SpoolUnavailable, match="another version"):
        Spool(path)


def test_a_database_of_something_else_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE windows (server TEXT, body BLOB)")
    other.close()
    with pytest.raises(SpoolUnavailable):
        Spool(path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolUnavailable, match="file"):
        Spool(tmp_path / "file" / "spool.db")


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpoolUnavailable, match="unable to open"):
        Spool(tmp_path)


def test_a_spool_that_may_only_be_read_refuses_what_is_new(spool: Spool, make_window: MakeWindow) -> None:
    spool.commit(b"before", [make_window()], NOW)
    spool._db.execute("PRAGMA query_only=ON")
    with pytest.raises(SpoolUnavailable, match="readonly"):
        spool.commit(b"after", [make_window()], NOW)
    spool._db.execute("PRAGMA query_only=OFF")
    assert spool.state() == b"before"
    assert len(starts(spool)) == 1


def test_two_threads_share_one_file(path: Path, make_window: MakeWindow) -> None:
    with Spool(path) as writer, Spool(path) as sender:
        writer.commit(b"", [make_window(), make_window()], NOW)
        sender.stored([one.seq for one in sender.waiting(1, NOW, 10**6)], NOW)
        writer.commit(b"", [make_window()], NOW)
        assert starts(writer) == starts(sender) == [1, 2]


CHILD = """
import sys
from pathlib import Path
from joulefleet.describe import Meter
from joulefleet.reading import MeterReading
from joulefleet_agent.cutter import Identity
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.spool import Spool

S = 1_000_000_000
END = 6_000
WALL = Meter(id="wall", kind="server", grade="counter", sensor_class="platform", refresh_ns=7 * S)
with Spool(Path(sys.argv[1])) as spool:
    pipeline = Pipeline(spool, Identity(server="a"), 10 * S)
    first_s = max(pipeline.last_ns // S + 1, 0)
    pipeline.start(["s"], first_s * S)
    pipeline.declare("s", [WALL], first_s * S)
    for t in range(first_s, END + 1):
        seen = t - t % 7
        pipeline.feed([MeterReading(meter="wall", at_ns=t * S, counter_uj=seen * 1_000_003 + seen * seen)], t * S)
        if pipeline.tick(t * S, t * S):
            print(t, flush=True)
    pipeline.finish(END * S)
print("done", flush=True)
"""


def test_killed_between_any_two_commits_nothing_is_lost_and_nothing_comes_twice(path: Path) -> None:
    """The child is killed with SIGKILL twenty times, wherever it is, and goes on each time."""
    chance = random.Random(7)
    for _ in range(20):
        child = subprocess.Popen([sys.executable, "-c", CHILD, path], stdout=subprocess.PIPE)
        assert child.stdout is not None
        lines = list(itertools.islice(child.stdout, chance.randrange(1, 25)))
        assert lines[-1] != b"done\n"
        child.kill()
        assert child.wait() == -9
        child.stdout.close()
    done = subprocess.run([sys.executable, "-c", CHILD, path], check=True, capture_output=True)
    assert done.stdout.endswith(b"done\n")
    with Spool(path) as spool:
        windows = [decode(one.body) for one in spool.waiting(10_000, NOW, 10**9)]
        assert spool.losses() == Losses()
    assert len({one.key for one in windows}) == len(windows) >= 600
    assert all(b.start_ns == a.end_ns for a, b in itertools.pairwise(windows))
    meters = [one.meters[0] for one in windows]
    # The counter first moved at 7 s, before which it was settling or not, and last at 5999 s.
    whole = 5_999 * 1_000_003 + 5_999 * 5_999
    assert sum(one.energy_uj + one.late_uj for one in meters) in (whole, whole - 7 * 1_000_003 - 7 * 7)
    assert all(b.first_uj == a.last_uj for a, b in itertools.pairwise(meters))


def test_what_was_set_aside_or_not_due_waits_again_and_counts_no_more(spool: Spool, make_window: MakeWindow) -> None:
    spool.commit(b"", [make_window() for _ in range(3)], NOW)
    first, second, third = (one.seq for one in spool.waiting(9, NOW, 10**9))
    spool.stored([first], NOW)
    spool.refused(second, "too_old", NOW)
    spool.postpone(third, NOW + S)
    spool.wait_again()
    assert starts(spool) == [1, 2]
    assert spool.waiting_span() == (60 * S, 180 * S)
    assert (spool.refusals(), spool.losses()) == ({}, Losses())


def test_what_an_earlier_timeline_had_refused_is_not_taken_from_the_losses_of_this_one(
    spool: Spool, make_window: MakeWindow
) -> None:
    spool.commit(b"", [make_window()], NOW, timeline=1)
    spool.refused(spool.waiting(1, NOW, 10**9)[0].seq, "too_old", NOW)
    spool.commit(b"", [], NOW, timeline=2)
    spool.wait_again()
    assert spool.losses() == Losses()
    assert spool.waiting_span() == (0, 60 * S)


def test_nothing_that_waits_spans_nothing(spool: Spool) -> None:
    assert spool.waiting_span() == (0, 0)


def test_a_spool_that_was_removed_goes_on_and_is_put_back(path: Path, spool: Spool, make_window: MakeWindow) -> None:
    timeline = spool.timeline()
    spool.commit(b"before", [make_window()], NOW)
    assert not spool.is_removed
    path.unlink()
    assert spool.is_removed
    spool.commit(b"after", [make_window()], NOW)
    spool.put_back()
    with Spool(path) as again:
        assert (again.state(), starts(again), again.timeline()) == (b"after", [0, 1], timeline)


def test_a_spool_is_not_put_back_over_another(path: Path, spool: Spool, make_window: MakeWindow) -> None:
    path.unlink()
    with Spool(path) as other:
        other.commit(b"other", [make_window()], NOW)
    assert spool.is_removed
    with pytest.raises(SpoolUnavailable, match="another file stands"):
        spool.put_back()
    with Spool(path) as other:
        assert other.state() == b"other"
