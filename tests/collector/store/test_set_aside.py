"""Refused lines: found by halving, kept with their reasons, counted, bounded."""

import fcntl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.disks import small_disk
from joulefleet_collector.store import set_aside as module
from joulefleet_collector.store.set_aside import LinesRefused, SetAside, store_good
from joulefleet_collector.store.store import StoreUnavailable


class Database:
    """A fake that takes the good lines of each body, as InfluxDB does, and refuses it where one is bad."""

    def __init__(self, bad: set[bytes], most: int = 10**9) -> None:
        self.stored: list[bytes] = []
        self._bad = bad
        self._most = most

    def write(self, body: bytes) -> None:
        several = body.split(b"\n")
        if len(body) > self._most:
            raise LinesRefused("too large")
        self.stored += [line for line in several if line not in self._bad]
        if self._bad.intersection(several):
            raise LinesRefused("bad")


@given(st.integers(0, 40), st.sets(st.integers(0, 39)))
def test_all_good_lines_are_stored_in_order_and_all_bad_ones_come_back(number: int, bad: set[int]) -> None:
    several = [b"m f=%d 1" % place for place in range(number)]
    wrong = {several[place] for place in bad if place < number}
    database = Database(wrong)
    assert store_good(several, database.write) == [(line, "bad") for line in several if line in wrong]
    last = {line: place for place, line in enumerate(database.stored)}
    assert sorted(last, key=lambda line: last[line]) == [line for line in several if line not in wrong]


def test_what_is_too_large_for_one_body_is_halved() -> None:
    several = [b"m f=%d 1" % place for place in range(10, 90)]
    database = Database(set(), most=100)
    assert store_good(several, database.write) == []
    assert database.stored == several


def test_no_other_worker_looks_at_the_file_while_lines_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_free() -> bool:
        with (tmp_path / "set-aside.lp").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    found: list[bool] = []
    append = module._append
    monkeypatch.setattr(module, "_append", lambda *given: (found.append(is_free()), append(*given)))
    SetAside(tmp_path).add([(b"m f=1 1", "bad")])
    assert (found, is_free()) == ([False], True)


def test_lines_that_the_store_dropped_as_too_old_are_the_oldest_ones() -> None:
    bodies = []

    def write(body: bytes) -> None:
        bodies.append(body)
        raise LinesRefused("points beyond retention policy dropped=2", 2)

    several = [b"m f=1 400", b"m f=2 20", b"m f=3 3", b"m f=4 1000"]
    assert [line for line, _ in store_good(several, write)] == [b"m f=3 3", b"m f=2 20"]
    assert len(bodies) == 1


def test_another_failure_passes_and_nothing_is_given_back() -> None:
    def write(body: bytes) -> None:
        raise StoreUnavailable("x", "down", "start it")

    with pytest.raises(StoreUnavailable):
        store_good([b"m f=1 1"], write)


def test_lines_are_kept_under_their_reasons_and_counted(tmp_path: Path) -> None:
    aside = SetAside(tmp_path)
    aside.add([])
    assert not aside.path.exists()
    aside.add([(b"m f=1 1", "two\nlines"), (b"m f=2 1", "other")])
    assert aside.path.read_bytes() == b"# two lines\nm f=1 1\n# other\nm f=2 1\n"
    assert aside.lines == 2


def test_a_full_file_grows_no_more_and_the_count_goes_on(tmp_path: Path) -> None:
    aside = SetAside(tmp_path, most_bytes=30)
    for _ in range(5):
        aside.add([(b"m f=1 1", "bad")])
    assert aside.path.stat().st_size <= 30
    assert aside.path.read_bytes() and aside.lines == 5


def test_a_file_that_cannot_be_written_is_told_and_not_counted(tmp_path: Path) -> None:
    aside = SetAside(tmp_path / "missing")
    with pytest.raises(StoreUnavailable, match="refused rows are kept in it"):
        aside.add([(b"m f=1 1", "bad")])
    assert aside.lines == 0


def test_what_a_full_disk_takes_half_of_is_not_kept_in_half_nor_counted(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        aside = SetAside(disk.folder)
        aside.add([(b"m f=1 1", "first")])
        room = disk.free_bytes
        with pytest.raises(StoreUnavailable, match="free space on its disk: refused rows are kept in it"):
            aside.add([(b"m f=%d 1" % number, "x" * 1000) for number in range(room // 1000)])
        assert (aside.path.read_bytes(), aside.lines) == (b"# first\nm f=1 1\n", 1)
        aside.add([(b"m f=2 1", "second")])
        assert aside.path.read_bytes() == b"# first\nm f=1 1\n# second\nm f=2 1\n"
        assert aside.lines == 2
